//! A daemon that says what the test wants it to.

use super::door::{PING, PONG};
use crate::Connection;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{
    Header, Incoming, Kind, NetworkError, Reader, Status, Writer, frame, program, split,
};
use bulkhead_wire::types::{DomainRef, Uuid};
use bulkhead_wire::xdr;
use serde::Serialize;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

struct Daemon {
    listener: UnixListener,
    path: PathBuf,
}

impl Daemon {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bh-remote-{}-{name}", std::process::id()));
        drop(std::fs::remove_file(&path));
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.path.display())
    }

    /// The next connection, opened as libvirt's daemon opens it.
    async fn peer(&self) -> Peer {
        let (stream, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        let (reader, writer) = split(stream.into_std().unwrap().into()).unwrap();
        let mut peer = Peer { reader, writer };
        loop {
            let call = peer.hear().await.header;
            match call.procedure {
                66 => peer.answer(call, &vec![0_i32]).await,
                60 => peer.answer(call, &1_i32).await,
                1 => {
                    peer.answer(call, &()).await;
                    return peer;
                }
                other => panic!("procedure {other} before the connection is open"),
            }
        }
    }

    /// A connection of an application, and its other end.
    async fn connected(&self) -> (Connection, Peer) {
        let uri = self.uri();
        let (stack, peer) = tokio::join!(Connection::open(&uri), self.peer());
        (stack.unwrap(), peer)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

struct Peer {
    reader: Reader,
    writer: Writer,
}

impl Peer {
    async fn hear(&mut self) -> Incoming {
        timeout(SOON, self.reader.read()).await.unwrap().unwrap()
    }

    async fn say(&mut self, header: Header, payload: &[u8]) {
        self.writer.write(&frame(header, payload).unwrap(), &[]).await.unwrap();
    }

    async fn answer<T: Serialize>(&mut self, call: Header, reply: &T) {
        self.say(call.answer(Kind::Reply, Status::Ok), &xdr::encode(reply).unwrap().0).await;
    }

    async fn fail(&mut self, call: Header, kind: Kind) {
        let error = Error::new(Code::OPERATION_FAILED, Origin::QEMU, "so it is");
        let payload = xdr::encode(&NetworkError::from(&error)).unwrap().0;
        self.say(call.answer(kind, Status::Error), &payload).await;
    }
}

fn web() -> DomainRef {
    DomainRef { name: "web".to_owned(), uuid: Uuid([1; 16]), id: 1 }
}

#[tokio::test]
async fn answers_come_in_any_order_and_what_nobody_asked_for_is_nothing() {
    let daemon = Daemon::new("order");
    let (stack, mut peer) = daemon.connected().await;
    let domains = stack.domains();
    let speak = async {
        let (first, second) = (peer.hear().await.header, peer.hear().await.header);
        let message = |number| Header::call(program::REMOTE, number, 1, Kind::Message);
        // What a daemon of another time may say.
        peer.say(message(318), &[1, 2, 3]).await;
        peer.say(message(9999), &[]).await;
        peer.say(Header::call(0x4711, 1, 77, Kind::Reply), &[]).await;
        peer.say(Header { kind: Some(Kind::Stream), ..first }, &[0; 9]).await;
        peer.say(Header::call(program::KEEPALIVE, PING, 0, Kind::Message), &[]).await;
        let pong = peer.hear().await.header;
        assert_eq!(
            (pong.program, pong.procedure, pong.kind),
            (program::KEEPALIVE, PONG, Some(Kind::Message))
        );
        for call in [second, first] {
            peer.answer(call, &if call.procedure == 59 { "the host" } else { "the type" }).await;
        }
        // What does not decode fails its own call.
        let third = peer.hear().await.header;
        peer.say(third.answer(Kind::Reply, Status::Ok), &[0, 0, 0, 9, 1]).await;
        let fourth = peer.hear().await.header;
        peer.fail(fourth, Kind::Reply).await;
        peer
    };
    let ask = async {
        let (host, kind) = tokio::join!(domains.connect_get_hostname(), domains.connect_get_type());
        assert_eq!((host.unwrap().as_str(), kind.unwrap().as_str()), ("the host", "the type"));
        let unread = domains.connect_get_hostname().await.unwrap_err();
        assert!(unread.code == Code::RPC && unread.message.contains("connect_get_hostname"), "{unread}");
        let failed = domains.domain_reset(web(), 0).await.unwrap_err();
        assert_eq!(
            (failed.code, failed.origin, failed.message.as_str()),
            (Code::OPERATION_FAILED, Origin::QEMU, "so it is")
        );
    };
    let (_peer, ()) = tokio::join!(speak, ask);
}

#[tokio::test]
async fn a_daemon_that_breaks_the_protocol_is_left_and_reached_again() {
    let daemon = Daemon::new("nonsense");
    let (stack, mut peer) = daemon.connected().await;
    let domains = stack.domains();
    let speak = async {
        // Two calls are under way when a frame comes that is none.
        peer.hear().await;
        peer.hear().await;
        peer.writer.write(&u32::MAX.to_be_bytes(), &[]).await.unwrap();
        let mut peer = daemon.peer().await;
        let again = peer.hear().await;
        assert_eq!(again.header.procedure, 59, "the one that may be repeated is");
        peer.answer(again.header, &"here").await;
        peer
    };
    let (_peer, looked, reset) =
        tokio::join!(speak, domains.connect_get_hostname(), domains.domain_reset(web(), 0));
    assert_eq!(looked.unwrap(), "here");
    let lost = reset.unwrap_err();
    assert_eq!(lost.code, Code::OPERATION_FAILED);
    assert!(
        lost.message.contains("whether the call took effect shows in the state of domain 'web'"),
        "{lost}"
    );
}

/// What an application reads of a picture.
async fn read(picture: bulkhead_wire::types::Stream) -> Result<Vec<u8>, ErrorKind> {
    let stream = UnixStream::from(picture.file.into_owned().unwrap());
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        (&stream).read_to_end(&mut all).map(|_| all).map_err(|error| error.kind())
    });
    timeout(SOON, read).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_stream_is_whole_or_ends_in_an_error() {
    let daemon = Daemon::new("stream");
    let (stack, _peer) = daemon.connected().await;
    let domains = stack.domains();
    // Data may come before the answer to the call that opens the stream, and holes in it.
    let speak = async {
        let mut peer = daemon.peer().await;
        let call = peer.hear().await.header;
        let data = call.answer(Kind::Stream, Status::Continue);
        peer.say(data, b"one").await;
        peer.answer(call, &Some("image/png")).await;
        peer.say(call.answer(Kind::StreamHole, Status::Continue), &xdr::encode(&(2_i64, 0_u32)).unwrap().0)
            .await;
        peer.say(data, b"two").await;
        peer.say(data, &[]).await;
        let finish = peer.hear().await.header;
        assert_eq!((finish.kind, finish.status, finish.serial), (Some(Kind::Stream), 0, call.serial));
        peer.say(call.answer(Kind::Stream, Status::Ok), &[]).await;
    };
    let whole = async { read(domains.domain_screenshot(web(), 0, 0).await.unwrap()).await };
    let ((), whole) = tokio::join!(speak, whole);
    assert_eq!(whole.unwrap(), b"one\0\0two");
    for fails in [true, false] {
        let speak = async {
            let mut peer = daemon.peer().await;
            let call = peer.hear().await.header;
            peer.answer(call, &None::<String>).await;
            peer.say(call.answer(Kind::Stream, Status::Continue), b"half").await;
            if fails {
                peer.fail(call, Kind::Stream).await;
            }
        };
        let half = async { read(domains.domain_screenshot(web(), 0, 0).await.unwrap()).await };
        let ((), half) = tokio::join!(speak, half);
        assert_eq!(half, Err(ErrorKind::ConnectionReset), "fails: {fails}");
    }
    // One that can't be opened is an error of its call.
    let speak = async {
        let mut peer = daemon.peer().await;
        let call = peer.hear().await.header;
        peer.fail(call, Kind::Reply).await;
    };
    let ((), refused) = tokio::join!(speak, domains.domain_screenshot(web(), 0, 0));
    assert_eq!(refused.unwrap_err().message, "so it is");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_says_nothing_is_given_up_in_time() {
    let daemon = Daemon::new("silent");
    let (stack, mut peer) = daemon.connected().await;
    let domains = stack.domains();
    // A lasting call has no deadline of its own.
    let call = tokio::spawn(async move { domains.domain_managed_save(web(), 0).await });
    assert_eq!(peer.hear().await.header.procedure, 182);
    let lost = call.await.unwrap().unwrap_err();
    assert!(lost.message.contains("ended while it served domain_managed_save of domain 'web'"), "{lost}");
}
