//! Whole conversations: a peer at the other end of a socket says these bytes, and closes.

use bulkhead_qemu::monitor::{Entry, Monitor, Options, Plain};
use bulkhead_wire::channel::{self, Caller, Serve};
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::Error;
use bulkhead_wire::frame::{Header, Kind, Token};
use bulkhead_wire::link::{self, LinkError};
use bulkhead_wire::remote;
use bulkhead_wire::table::{CallContext, CallInfo, Driver, REVISION, domain, find};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Time for one conversation; none takes a hundredth of it.
const WITHIN: Duration = Duration::from_secs(20);

/// Runs a conversation with a peer that says `bytes`, after `before`, in pieces of a size that the bytes themselves choose.
fn converse<T: Send + 'static>(before: &[u8], bytes: &[u8], with: impl AsyncFnOnce(OwnedFd) -> T) -> T {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let piece = bytes.len() % 61 + 1;
    let said = [before, bytes].concat();
    let peer = std::thread::spawn(move || {
        // It does not read before it has said all, as a hostile one would; what it is told fits into the socket.
        for piece in said.chunks(piece.max(said.len() / 16)) {
            if theirs.write_all(piece).is_err() {
                break;
            }
        }
        let _ = theirs.shutdown(std::net::Shutdown::Write);
        let _ = theirs.read_to_end(&mut Vec::new());
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ended = runtime.block_on(async { tokio::time::timeout(WITHIN, with(ours.into())).await });
    drop(runtime);
    peer.join().expect("the peer ends with its connection");
    ended.expect("a conversation ends with the peer's last byte")
}

/// A link that reads frames until it ends. Frames that came whole are accepted.
pub fn link(bytes: &[u8]) -> bool {
    converse(&[], bytes, async |socket| {
        let Ok((mut reader, _writer)) = link::split(socket) else { return false };
        let mut whole = false;
        while let Ok(frame) = reader.read().await {
            assert_eq!(frame.body.len(), frame.header.body_bytes as usize);
            assert_eq!(frame.descriptors.len(), usize::from(frame.header.descriptors));
            whole = true;
        }
        whole
    })
}

fn hello() -> [u8; bulkhead_wire::frame::HEADER_BYTES] {
    Header { id: REVISION, ..Header::new(Kind::Hello) }.to_bytes()
}

/// Serves the domain table, and nothing of it.
struct Nothing;

impl domain::Server for Nothing {}

impl Serve for Nothing {
    fn find(&self, operation: u16) -> Option<&'static CallInfo> {
        find(Driver::Qemu, operation)
    }

    fn allow(&self, _info: &CallInfo, _token: Token) -> Result<(), Error> {
        Ok(())
    }

    fn serve(self: &Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        domain::dispatch(Arc::clone(self), call, body, files)
    }
}

/// The serving end of a channel; accepted is what a caller may say.
pub fn server(bytes: &[u8]) -> bool {
    let error = converse(&hello(), bytes, async |socket| channel::serve(socket, Arc::new(Nothing)).await);
    matches!(error, LinkError::Closed)
}

/// The calling end of a channel, with a call under way; accepted is what a server may say.
pub fn caller(bytes: &[u8]) -> bool {
    let error = converse(&hello(), bytes, async |socket| {
        let caller = Caller::new(Driver::Qemu);
        let asking = domain::Client(caller.clone());
        let call = tokio::spawn(async move { drop(asking.connect_get_hostname().await) });
        let error = caller.run(socket, Token::default()).await;
        call.abort();
        error
    });
    matches!(error, LinkError::Closed)
}

/// A connection of libvirt's own protocol.
pub fn remote_frames(bytes: &[u8]) -> bool {
    converse(&[], bytes, async |stream| {
        let Ok((mut reader, _writer)) = remote::split(stream) else { return false };
        let mut whole = false;
        while reader.read().await.is_ok() {
            whole = true;
        }
        whole
    })
}

/// A monitor to which QEMU says these bytes after its greeting and its answer.
pub fn monitor(bytes: &[u8]) -> bool {
    converse(&[], bytes, async |socket| {
        let socket = UnixStream::from(socket);
        if socket.set_nonblocking(true).is_err() {
            return false;
        }
        let Ok(stream) = tokio::net::UnixStream::from_std(socket) else { return false };
        let (events, mut heard) = mpsc::channel(64);
        let attached = Monitor::attach(Plain(stream), events, Options::new(Entry::Fresh)).await;
        while heard.recv().await.is_some() {}
        attached.is_ok()
    })
}
