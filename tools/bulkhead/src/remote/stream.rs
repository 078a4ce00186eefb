//! Streams: the application gets a descriptor, as it does from a driver itself; here its other end is pumped.

use super::door::{self, Door, Failure, Request, error_of};
use super::place::Place;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_wire::remote::{Encoded, Header, Incoming, Kind, Reader, Status, Writer, frame};
use bulkhead_wire::table::{CallInfo, domain, storage};
use bulkhead_wire::xdr;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Bytes of one frame, as libvirt's own clients cut them.
const CHUNK: usize = 262_120;
/// Bytes of a hole that are written at once.
const ZEROS: usize = 64 << 10;

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// To the application: what the stream holds has an end, and whether it was reached must be known.
    Out,
    /// From the application.
    In,
    /// Both: a terminal.
    Both,
}

impl Direction {
    fn of(info: &CallInfo) -> Self {
        let is = |other: &CallInfo| (info.driver, info.operation) == (other.driver, other.operation);
        if is(&domain::domain_screenshot::INFO) || is(&storage::storage_vol_download::INFO) {
            Self::Out
        } else if is(&storage::storage_vol_upload::INFO) {
            Self::In
        } else {
            Self::Both
        }
    }
}

/// What the application is given, or why it is not.
type Opened = Result<Encoded, Failure>;

/// Makes the call that opens a stream; the reply comes with the application's end of it.
///
/// All of it is done on a thread of its own: the application may read its descriptor as it reads a file, on the one thread
/// that its runtime has, or when that has gone.
pub(super) async fn open(place: &Place, request: &Request, info: &CallInfo) -> Opened {
    let refused =
        |error: &io::Error| Failure::Refused(Error::system(Origin::STREAMS, "A stream's thread", error));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refused(&error))?;
    let (opened, answer) = oneshot::channel();
    let (place, request, direction) = (place.clone(), request.clone(), Direction::of(info));
    let work = move || runtime.block_on(serve(&place, &request, direction, opened));
    let thread = std::thread::Builder::new().name("bulkhead-stream".to_owned()).spawn(work);
    thread.map_err(|error| refused(&error))?;
    answer.await.unwrap_or_else(|_ended| Err(Failure::Lost("the stream's thread ended".to_owned())))
}

async fn serve(place: &Place, request: &Request, direction: Direction, mut opened: oneshot::Sender<Opened>) {
    let begun = tokio::select! {
        begun = begin(place, request, direction) => begun,
        // Nobody waits for it any more.
        () = opened.closed() => return,
    };
    let (begun, reply) = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            let _ = opened.send(Err(failure));
            return;
        }
    };
    if opened.send(Ok(reply)).is_ok() {
        pump(begun, direction).await;
    }
}

/// A stream that is open.
struct Begun {
    door: Door,
    call: Header,
    early: Vec<Incoming>,
    ours: UnixStream,
}

async fn begin(place: &Place, request: &Request, direction: Direction) -> Result<(Begun, Encoded), Failure> {
    let mut door = door::open(place, false).await.map_err(|failure| match failure {
        // The call itself was not made yet.
        Failure::Lost(reason) => Failure::Unreached(io::Error::other(reason)),
        failure => failure,
    })?;
    let (ours, theirs) = ends(direction)
        .map_err(|error| Failure::Refused(Error::system(Origin::STREAMS, "A pair of sockets", &error)))?;
    let (reply, early) = door.exchange(request, &[]).await?;
    let call = Header::call(reply.header.program, reply.header.procedure, reply.header.serial, Kind::Stream);
    Ok((Begun { door, call, early, ours }, (reply.payload, vec![theirs.into()])))
}

/// Our end and the application's.
///
/// An end that was not confirmed must not look like one. A socket whose other end is closed with something unread says
/// "connection reset" instead of "end", so a byte that nobody wants waits on our side until all is well.
fn ends(direction: Direction) -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    if direction == Direction::Out {
        io::Write::write_all(&mut &theirs, &[0])?;
        theirs.shutdown(std::net::Shutdown::Write)?;
    }
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// The last word of the application's side.
enum Last {
    /// It has said all, or heard all.
    Finish,
    /// It went before that.
    Abort,
}

async fn pump(begun: Begun, direction: Direction) {
    let Begun { door, call, early, ours } = begun;
    let Door { reader, mut writer, .. } = door;
    // Halves that say nothing when they are dropped: an end that was not said must not be heard.
    let (mut from, mut to) = tokio::io::split(ours);
    let (heard, last) = oneshot::channel();
    let inward = async {
        let last = if direction == Direction::Out {
            last.await.unwrap_or(Last::Abort)
        } else {
            send(&mut writer, call, &mut from).await
        };
        let status = match last {
            Last::Finish => Status::Ok,
            Last::Abort => Status::Error,
        };
        say(&mut writer, call, status, &[]).await;
        // What comes of it is heard by the other half.
        std::future::pending::<()>().await;
    };
    let outward = receive(reader, call, early, &mut to, (direction, heard));
    let ended = tokio::select! {
        ended = outward => ended,
        () = inward => Ok(()),
    };
    match (ended, direction) {
        // All is well: the byte that says otherwise goes.
        (Ok(()), Direction::Out) => {
            let _ = from.read(&mut [0]).await;
        }
        (Ok(()), _) => {}
        (Err(error), Direction::In) => {
            tracing::warn!(%error, "stream");
            // Whoever is done writing and reads to the end learns that it came to nothing, and why.
            let _ = to.write_all(error.message.as_bytes()).await;
        }
        (Err(error), _) => tracing::warn!(%error, "stream"),
    }
}

async fn say(writer: &mut Writer, call: Header, status: Status, data: &[u8]) -> bool {
    let header = call.answer(Kind::Stream, status);
    match frame(header, data) {
        Some(bytes) => writer.write(&bytes, &[]).await.is_ok(),
        None => false,
    }
}

/// From the application to the daemon, until it closes its end.
async fn send(writer: &mut Writer, call: Header, from: &mut ReadHalf<UnixStream>) -> Last {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return Last::Finish,
            Ok(count) => {
                if !say(writer, call, Status::Continue, buffer.get(..count).unwrap_or_default()).await {
                    return Last::Abort;
                }
            }
        }
    }
}

/// From the daemon to the application, until the daemon says its last word.
async fn receive(
    mut reader: Reader,
    call: Header,
    early: Vec<Incoming>,
    to: &mut WriteHalf<UnixStream>,
    (direction, heard): (Direction, oneshot::Sender<Last>),
) -> Result<(), Error> {
    let mut early = early.into_iter();
    // Its application has gone: what comes is not wanted.
    let (mut gone, mut heard) = (false, Some(heard));
    loop {
        let frame = match early.next() {
            Some(frame) => frame,
            None => reader.read().await.map_err(|error| failed(&format!("the connection ended: {error}")))?,
        };
        if (frame.header.procedure, frame.header.serial) != (call.procedure, call.serial) {
            continue;
        }
        let written = match (frame.header.kind, frame.header.status) {
            (Some(Kind::StreamHole), _) => zeros(to, &frame).await,
            (Some(Kind::Stream), status) if status == Status::Ok as i32 => return Ok(()),
            (Some(Kind::Stream), status) if status == Status::Error as i32 => return Err(error_of(&frame)),
            (Some(Kind::Stream), _) if frame.payload.is_empty() => {
                if direction == Direction::Out {
                    // The end is one only when the daemon has confirmed it.
                    let _ = heard.take().map(|heard| heard.send(Last::Finish));
                    Ok(())
                } else {
                    to.shutdown().await
                }
            }
            (Some(Kind::Stream), _) if gone => Ok(()),
            (Some(Kind::Stream), _) => to.write_all(&frame.payload).await,
            _ => Ok(()),
        };
        if written.is_err() && !gone {
            gone = true;
            let _ = heard.take().map(|heard| heard.send(Last::Abort));
        }
    }
}

/// A hole reads as zeros.
async fn zeros(to: &mut WriteHalf<UnixStream>, frame: &Incoming) -> io::Result<()> {
    let hole = xdr::decode::<(i64, u32)>(&frame.payload, Vec::new()).map(|((length, _flags), _)| length);
    let mut left =
        hole.ok().and_then(|length| u64::try_from(length).ok()).ok_or(io::ErrorKind::InvalidData)?;
    let zeros = vec![0; ZEROS];
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(ZEROS).min(ZEROS);
        to.write_all(zeros.get(..count).unwrap_or(&zeros)).await?;
        left -= u64::try_from(count).unwrap_or(left);
    }
    Ok(())
}

fn failed(message: &str) -> Error {
    Error::new(bulkhead_wire::error::Code::RPC, Origin::STREAMS, message)
}
