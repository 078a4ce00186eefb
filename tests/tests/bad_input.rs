//! Bad input to a real stack's sockets: that channel ends, and nothing else is harmed.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use bulkhead::Connection;
use bulkhead::wire::channel::Caller;
use bulkhead::wire::error::{Code, Error};
use bulkhead::wire::frame::{Header, Kind, Token};
use bulkhead::wire::link;
use bulkhead::wire::table::{Driver, REVISION, domain, stack};
use bulkhead_tests::fixture::{Root, driver};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn control(root: &Root) -> UnixStream {
    let stream = UnixStream::connect(root.path().join("run/control.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Reads until the stack closes the connection.
fn closed(mut stream: UnixStream) {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

fn hello(revision: u64) -> Vec<u8> {
    let header = Header { id: revision, ..Header::new(Kind::Hello) };
    header.to_bytes().to_vec()
}

/// The stack answers, and the driver is the one that it was.
async fn unharmed(stack: &Connection, before: (u32, u64)) {
    assert_eq!(driver(stack, "qemu").await, Ok(before));
    stack.domains().connect_list_all_domains(1, 0).await.unwrap();
}

async fn opened(root: &Root) -> (Connection, (u32, u64)) {
    let stack = root.open().await.unwrap();
    stack.domains().connect_list_all_domains(1, 0).await.unwrap();
    let before = driver(&stack, "qemu").await.unwrap();
    (stack, before)
}

#[tokio::test]
async fn what_no_client_sends_ends_its_control_connection_alone() {
    let root = Root::new();
    let (stack, before) = opened(&root).await;
    let mut oversized = hello(REVISION);
    let mut call = Header::new(Kind::Call).to_bytes();
    call[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    oversized.extend(call);
    let with = |header: Header| [hello(REVISION), header.to_bytes().to_vec()].concat();
    let unknown = Header { operation: 999, ..Header::new(Kind::Call) };
    let announced = Header { descriptors: 3, ..Header::new(Kind::Call) };
    for bytes in [
        vec![0; 64],
        hello(REVISION ^ 1),
        oversized,
        with(unknown),
        with(announced),
        with(Header::new(Kind::Reply)),
        with(Header::new(Kind::Control)),
    ] {
        let mut stream = control(&root);
        stream.write_all(&bytes).unwrap();
        tokio::task::spawn_blocking(move || closed(stream)).await.unwrap();
    }
    let mut truncated = control(&root);
    truncated.write_all(&hello(REVISION)[..20]).unwrap();
    truncated.shutdown(std::net::Shutdown::Write).unwrap();
    tokio::task::spawn_blocking(move || closed(truncated)).await.unwrap();
    unharmed(&stack, before).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn silent_connections_are_bounded_and_end() {
    let root = Root::new();
    let (stack, before) = opened(&root).await;
    let silent: Vec<_> = (0..400).map(|_| control(&root)).collect();
    unharmed(&stack, before).await;
    tokio::task::spawn_blocking(move || silent.into_iter().for_each(closed)).await.unwrap();
    let attached = Connection::attach(root.path()).await.unwrap();
    attached.status().await.unwrap();
    stack.stop().await.unwrap();
}

/// A channel to the qemu driver, as a client gets it.
async fn channel(control: &stack::Client, read_only: bool) -> (Caller, Token) {
    let (socket, token) = control.channel_open(Driver::Qemu, read_only).await.unwrap();
    let caller = Caller::new(Driver::Qemu);
    let (run, socket) = (caller.clone(), socket.into_owned().unwrap());
    tokio::spawn(async move { run.run(socket, token).await });
    (caller, token)
}

fn control_client(root: &Root) -> (stack::Client, tokio::task::AbortHandle) {
    let caller = Caller::new(Driver::Broker);
    let (run, socket) = (caller.clone(), OwnedFd::from(control(root)));
    let task = tokio::spawn(async move { run.run(socket, Token::default()).await });
    (stack::Client(caller), task.abort_handle())
}

#[tokio::test]
async fn a_token_allows_no_more_than_it_stands_for() {
    let root = Root::new();
    let (stack, before) = opened(&root).await;
    let (control, _link) = control_client(&root);
    let denied = |answer: Result<(), Error>| assert_eq!(answer.unwrap_err().code, Code::OPERATION_DENIED);
    let (reader, _) = channel(&control, true).await;
    let reading = domain::Client(reader.clone());
    reading.connect_list_all_domains(1, 0).await.unwrap();
    denied(reading.domain_define_xml_flags("<domain/>".to_owned(), 0).await.map(drop));
    for token in [Token::default(), Token([9; 16])] {
        let other = domain::Client(reader.with_token(token));
        denied(other.connect_list_all_domains(1, 0).await.map(drop));
    }
    // A token whose client has gone is worth nothing on anybody's channel.
    let (second, second_link) = control_client(&root);
    let (writer, ended) = channel(&second, false).await;
    domain::Client(writer).connect_list_all_domains(1, 0).await.unwrap();
    second_link.abort();
    let stolen = domain::Client(reader.with_token(ended));
    bulkhead_tests::fixture::wait_for("the token's end", Duration::from_secs(10), || async {
        match stolen.connect_list_all_domains(1, 0).await {
            Err(error) if error.code == Code::OPERATION_DENIED => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // A call of drivers only.
    let (socket, token) = control.channel_open(Driver::Network, false).await.unwrap();
    let (mut reader, mut writer) = link::open(socket.into_owned().unwrap(), REVISION).await.unwrap();
    let header = Header { operation: 2, id: 1, token, ..Header::new(Kind::Call) };
    writer.write(header, &[], &[]).await.unwrap();
    assert_eq!(reader.read().await.unwrap().header.kind, Kind::Failure);
    unharmed(&stack, before).await;
    stack.stop().await.unwrap();
}
