//! The beginning of a connection: who is there, and may we come in. Until then one question is answered after the other.

use super::place::Place;
use bulkhead_broker::root::short_socket_path;
use bulkhead_wire::channel::Bytes;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{
    FRAME_MIN_BYTES, Header, Incoming, Kind, NetworkError, Reader, Status, Writer, frame, program, split,
};
use bulkhead_wire::xdr;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::time::timeout;

/// Time from the connection to its being open.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Procedures that are about the connection itself.
const CONNECT_OPEN: i32 = 1;
const SUPPORTS_FEATURE: i32 = 60;
const AUTH_LIST: i32 = 66;
const AUTH_POLKIT: i32 = 70;
/// `VIR_CONNECT_RO`.
const READ_ONLY: u32 = 1;
/// The feature of which asking says that this client gives signs of life.
const KEEPALIVE: i32 = 10;
/// Ways to authenticate.
const NONE: i32 = 0;
const POLKIT: i32 = 2;
/// Bytes of a stream that may come before the answer to the call that opens it.
const EARLY_BYTES: usize = 32 << 20;
/// Procedures of the keepalive program.
pub(super) const PING: i32 = 1;
pub(super) const PONG: i32 = 2;

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody is there.
    #[error("{0}")]
    Unreached(io::Error),
    /// The connection ended.
    #[error("{0}")]
    Lost(String),
    /// The daemon said no.
    #[error("{0}")]
    Refused(Error),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) program: u32,
    pub(super) procedure: i32,
    pub(super) payload: Bytes,
    /// Is the answer to be wiped after use, and the frame?
    pub(super) sensitive: bool,
}

impl Request {
    /// Of what the tables do not have.
    pub(super) fn of<A: Serialize>(program: u32, procedure: i32, arguments: &A) -> Result<Self, Error> {
        let (payload, _) = xdr::encode(arguments).map_err(|error| protocol(error.to_string()))?;
        Ok(Self { program, procedure, payload: Bytes::new(payload, false), sensitive: false })
    }

    /// Its frame.
    pub(super) fn frame(&self, serial: u32, files: usize) -> Result<Bytes, Error> {
        let kind = if files == 0 { Kind::Call } else { Kind::CallWithFiles };
        let header = Header::call(self.program, self.procedure, serial, kind);
        let bytes = if files == 0 {
            frame(header, &self.payload)
        } else {
            let counted = [&u32::try_from(files).unwrap_or(0).to_be_bytes()[..], &self.payload[..]].concat();
            frame(header, &Bytes::new(counted, self.sensitive))
        };
        let bytes = bytes.ok_or_else(|| protocol("the call is longer than libvirt's protocol allows"))?;
        Ok(Bytes::new(bytes, self.sensitive))
    }
}

pub(super) fn protocol(message: impl Into<String>) -> Error {
    Error::new(Code::RPC, Origin::RPC, message)
}

/// The error in a frame.
pub(super) fn error_of(frame: &Incoming) -> Error {
    match xdr::decode::<NetworkError>(&frame.payload, Vec::new()) {
        Ok((error, _)) => error.into(),
        Err(error) => protocol(format!("the daemon's error can't be read: {error}")),
    }
}

/// A sign of life, or the wish for one.
pub(super) fn sign(procedure: i32) -> Vec<u8> {
    let header = Header::call(program::KEEPALIVE, procedure, 0, Kind::Message);
    frame(header, &[]).unwrap_or_default()
}

pub(super) fn is_ping(header: &Header) -> bool {
    (header.program, header.procedure, header.kind) == (program::KEEPALIVE, PING, Some(Kind::Message))
}

/// A connection that is open, with nothing under way.
#[derive(Debug)]
pub(crate) struct Door {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// Of the next call.
    pub(super) serial: u32,
    /// The process that made the socket, as far as that can be told.
    pub(super) pid: Option<i32>,
}

/// Opens a connection; `alive` says that both sides give signs of life on it.
pub(super) async fn open(place: &Place, alive: bool) -> Result<Door, Failure> {
    let late = || Failure::Lost(format!("the connection was not open within {} s", OPEN_WITHIN.as_secs()));
    timeout(OPEN_WITHIN, enter(place, alive)).await.unwrap_or_else(|_elapsed| Err(late()))
}

async fn enter(place: &Place, alive: bool) -> Result<Door, Failure> {
    let (socket, pid) = connect(place).await.map_err(Failure::Unreached)?;
    let (reader, writer) = split(socket).map_err(Failure::Unreached)?;
    let mut door = Door { reader, writer, serial: 0, pid };
    let methods: Vec<i32> = door.ask(AUTH_LIST, &()).await?;
    match methods.first() {
        None | Some(&NONE) => {}
        // The daemon asks the host's polkit; who needs a password typed has to use a program that can ask for one.
        Some(&POLKIT) => drop(door.ask::<_, i32>(AUTH_POLKIT, &()).await?),
        Some(_) => {
            let message =
                format!("authentication failed: {place} wants SASL, which this library does not speak");
            return Err(Failure::Refused(Error::new(Code::AUTH_FAILED, Origin::RPC, message)));
        }
    }
    if alive {
        match door.ask::<_, i32>(SUPPORTS_FEATURE, &KEEPALIVE).await {
            Ok(_) | Err(Failure::Refused(_)) => {}
            Err(lost) => return Err(lost),
        }
    }
    let flags = if place.read_only { READ_ONLY } else { 0 };
    let () = door.ask(CONNECT_OPEN, &(Some(place.uri), flags)).await?;
    Ok(door)
}

async fn connect(place: &Place) -> io::Result<(OwnedFd, Option<i32>)> {
    let (folder, name) = (place.path.parent(), place.path.file_name().and_then(|name| name.to_str()));
    let (Some(folder), Some(name)) = (folder, name) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (short, _handle) = short_socket_path(folder, name)?;
    let stream = tokio::net::UnixStream::connect(short).await?;
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    Ok((stream.into_std()?.into(), pid))
}

impl Door {
    async fn ask<A: Serialize, R: DeserializeOwned>(
        &mut self,
        procedure: i32,
        arguments: &A,
    ) -> Result<R, Failure> {
        let request = Request::of(program::REMOTE, procedure, arguments).map_err(Failure::Refused)?;
        let (reply, _early) = self.exchange(&request, &[]).await?;
        let read = xdr::decode(&reply.payload, Vec::new());
        read.map(|(reply, _)| reply).map_err(|error| Failure::Refused(protocol(error.to_string())))
    }

    /// Makes a call and waits for its answer. Frames of the stream that it opened may come first.
    pub(super) async fn exchange(
        &mut self,
        request: &Request,
        files: &[OwnedFd],
    ) -> Result<(Incoming, Vec<Incoming>), Failure> {
        let lost = |error: bulkhead_wire::link::LinkError| Failure::Lost(error.to_string());
        let serial = self.serial;
        self.serial = serial.wrapping_add(1);
        let bytes = request.frame(serial, files.len()).map_err(Failure::Refused)?;
        self.writer.write(&bytes, files).await.map_err(lost)?;
        let (mut early, mut bytes_early) = (Vec::new(), 0);
        loop {
            let frame = self.reader.read().await.map_err(lost)?;
            let ours = frame.header.serial == serial && frame.header.procedure == request.procedure;
            match frame.header.kind {
                _ if is_ping(&frame.header) => self.writer.write(&sign(PONG), &[]).await.map_err(lost)?,
                Some(Kind::Reply | Kind::ReplyWithFiles) if ours => {
                    return if frame.header.status == Status::Ok as i32 {
                        Ok((frame, early))
                    } else {
                        Err(Failure::Refused(error_of(&frame)))
                    };
                }
                Some(Kind::Stream | Kind::StreamHole) if ours => {
                    bytes_early += FRAME_MIN_BYTES + frame.payload.len();
                    if bytes_early > EARLY_BYTES {
                        let reason = "a stream came, and no answer to the call that opens it";
                        return Err(Failure::Lost(reason.to_owned()));
                    }
                    early.push(frame);
                }
                _ => {}
            }
        }
    }
}
