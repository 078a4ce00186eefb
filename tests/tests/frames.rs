//! The frames that a real stack and its client exchange, as seeds for the fuzzer.
//!
//! With `BULKHEAD_WRITE_SEEDS` set, `fuzz/seeds/frames.txt` is written anew.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::wire::channel::Caller;
use bulkhead::wire::frame::{Header, Token};
use bulkhead::wire::link::{self, LinkReader, LinkWriter};
use bulkhead::wire::table::{Driver, REVISION, domain, stack};
use bulkhead_tests::fixture::{Root, SERIAL_PTY, guest_files, skip, ticker_xml};
use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Passes frames on, and writes down those without descriptors. A token is a secret, so it is not written.
async fn pass(name: &str, mut from: LinkReader, mut to: LinkWriter, seen: Arc<Mutex<String>>) {
    while let Ok(frame) = from.read().await {
        if frame.descriptors.is_empty() {
            let header = Header { token: Token::default(), ..frame.header };
            let mut seen = seen.lock().unwrap();
            write!(seen, "{name} ").unwrap();
            for byte in header.to_bytes().iter().chain(&frame.body) {
                write!(seen, "{byte:02x}").unwrap();
            }
            seen.push('\n');
        }
        if to.write(frame.header, &frame.body, &frame.descriptors).await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn a_conversation_is_the_same_when_its_frames_are_passed_on() {
    let Some(files) = guest_files() else { return skip("no guest files; tools/guest/build makes them") };
    let root = Root::new();
    let owner = root.open().await.unwrap();
    let control = Caller::new(Driver::Broker);
    let (run, socket) = (control.clone(), UnixStream::connect(root.path().join("run/control.sock")).unwrap());
    tokio::spawn(async move { run.run(socket.into(), Token::default()).await });
    let (socket, token) = stack::Client(control).channel_open(Driver::Qemu, false).await.unwrap();

    let seen = Arc::new(Mutex::new(String::new()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let caller = Caller::new(Driver::Qemu);
    let run = caller.clone();
    tokio::spawn(async move { run.run(OwnedFd::from(ours), token).await });
    let (from_client, to_client) = link::open(OwnedFd::from(theirs), REVISION).await.unwrap();
    let (from_driver, to_driver) = link::open(socket.into_owned().unwrap(), REVISION).await.unwrap();
    let (calls, replies) = (Arc::clone(&seen), Arc::clone(&seen));
    tokio::spawn(async move { pass("call", from_client, to_driver, calls).await });
    tokio::spawn(async move { pass("reply", from_driver, to_client, replies).await });

    let domains = domain::Client(caller);
    domains.events_subscribe().await.unwrap();
    domains.connect_get_version().await.unwrap();
    let disk = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let guest = domains.domain_define_xml_flags(ticker_xml("web", &disk, SERIAL_PTY), 0).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    domains.connect_list_all_domains(1, 0).await.unwrap();
    domains.domain_get_state(guest.clone(), 0).await.unwrap();
    domains.domain_suspend(guest.clone()).await.unwrap();
    domains.domain_resume(guest.clone()).await.unwrap();
    assert!(domains.domain_lookup_by_name("nobody".to_owned()).await.is_err());
    domains.domain_open_console(guest.clone(), None, 0).await.unwrap();
    domains.domain_destroy_flags(guest.clone(), 0).await.unwrap();
    domains.domain_undefine_flags(guest, 0).await.unwrap();
    owner.stop().await.unwrap();

    let seen = seen.lock().unwrap();
    let count = |what: &str| seen.lines().filter(|line| line.starts_with(what)).count();
    assert!(count("call") >= 11 && count("reply") > count("call"), "events come beside the replies");
    if std::env::var_os("BULKHEAD_WRITE_SEEDS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/frames.txt");
        std::fs::write(path, seen.as_bytes()).unwrap();
    }
}
