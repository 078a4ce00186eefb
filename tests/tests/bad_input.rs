//! Bad input to a real stack's sockets: that channel ends, it is logged, and nothing else is harmed.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::channel::Caller;
use bulkhead::wire::error::{Code, Error};
use bulkhead::wire::frame::{Header, Kind, Token};
use bulkhead::wire::link;
use bulkhead::wire::table::{Driver, REVISION, domain, stack};
use bulkhead::wire::types::{DomainRef, State};
use bulkhead_tests::app::App;
use bulkhead_tests::fixture::{self, Root, driver, figure, guest_files, skip, ticker_xml, wait_for};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// One way to misbehave: what is sent after the hello of that revision, if there is one.
struct Attack {
    name: &'static str,
    hello: Option<u64>,
    bytes: Vec<u8>,
    /// Descriptors that really travel with the first of these bytes.
    descriptors: usize,
    /// The other end hears no more afterwards.
    ends: bool,
}

fn attacks() -> Vec<Attack> {
    let frame = |header: Header| header.to_bytes().to_vec();
    let call = Header { operation: 1, id: 7, ..Header::new(Kind::Call) };
    let sized = |kind, bytes: u32| {
        let mut bytes_of = Header::new(kind).to_bytes();
        bytes_of[24..28].copy_from_slice(&bytes.to_le_bytes());
        bytes_of.to_vec()
    };
    let attack = |name, bytes| Attack { name, hello: Some(REVISION), bytes, descriptors: 0, ends: false };
    let first = |name, bytes| Attack { hello: None, ..attack(name, bytes) };
    let carrying = |name, count, descriptors| {
        let bytes = frame(Header { descriptors: count, ..call });
        Attack { descriptors, ..attack(name, bytes) }
    };
    vec![
        first("garbage", vec![0xa5; 256]),
        first("no hello", frame(call)),
        first("an oversized hello", sized(Kind::Hello, 1 << 20)),
        Attack { ends: true, ..first("half a hello", frame(Header::new(Kind::Hello))[..20].to_vec()) },
        Attack { hello: Some(REVISION ^ 1), ..attack("another revision", Vec::new()) },
        attack("garbage after a hello", vec![0xa5; 4096]),
        attack("an oversized call", sized(Kind::Call, u32::MAX)),
        Attack { ends: true, ..attack("half a body", sized(Kind::Call, 100)) },
        Attack { ends: true, ..attack("half a header", frame(call)[..30].to_vec()) },
        attack("an unknown operation", frame(Header { operation: 999, ..call })),
        attack("a reply", frame(Header::new(Kind::Reply))),
        attack("an event", frame(Header::new(Kind::Event))),
        attack("a control message", frame(Header::new(Kind::Control))),
        attack("a second hello", frame(Header { id: REVISION, ..Header::new(Kind::Hello) })),
        attack("more calls than there is credit for", frame(call).repeat(2)),
        carrying("descriptors that do not come", 3, 0),
        carrying("a descriptor that no frame announces", 0, 1),
        carrying("more descriptors than a frame may announce", 65, 65),
        carrying("more descriptors than were announced", 2, 60),
        carrying("as many descriptors as the kernel lets pass", 0, 253),
        Attack { ends: true, ..carrying("descriptors that the call does not take", 64, 64) },
    ]
}

impl Attack {
    /// Does it, and waits until the other end has closed the connection.
    fn run(&self, mut stream: UnixStream) {
        stream.set_read_timeout(Some(SOON)).unwrap();
        if let Some(id) = self.hello {
            stream.write_all(&Header { id, ..Header::new(Kind::Hello) }.to_bytes()).unwrap();
        }
        let raw = vec![stream.as_raw_fd(); self.descriptors];
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let slices = [IoSlice::new(&self.bytes)];
        match sendmsg::<()>(stream.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None) {
            // It may have been refused already.
            Ok(_) | Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET) => {}
            Err(error) => panic!("{}: {error}", self.name),
        }
        if self.ends {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        closed(self.name, stream);
    }
}

/// Reads until the stack closes the connection.
fn closed(name: &str, mut stream: UnixStream) {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}: {error}"),
    }
}

fn control(root: &Root) -> UnixStream {
    let stream = UnixStream::connect(root.path().join("run/control.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn control_client(root: &Root) -> (stack::Client, tokio::task::AbortHandle) {
    let caller = Caller::new(Driver::Broker);
    let (run, socket) = (caller.clone(), OwnedFd::from(control(root)));
    let task = tokio::spawn(async move { run.run(socket, Token::default()).await });
    (stack::Client(caller), task.abort_handle())
}

/// How many descriptors a process has.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Memory of a process that is not in files.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A stack in a process of its own, and a guest in it that counts.
struct Victim {
    root: Root,
    app: App,
    owner: Connection,
    guest: DomainRef,
    output: PathBuf,
    qemu: (u32, u64),
    helpers: Vec<u32>,
    descriptors: [usize; 2],
}

impl Victim {
    async fn new() -> Option<Self> {
        let files = guest_files()?;
        let root = Root::new();
        std::fs::create_dir_all(root.path()).unwrap();
        let (disk, output) = (root.path().join("disk.img"), root.path().join("counts"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let serial = format!("<serial type='file'><source path='{}'/></serial>", output.display());
        let xml = ticker_xml("counter", &disk, &serial);
        let app = App::start(root.path(), "plain", Some(&xml), |_| ()).unwrap();
        let owner = Connection::attach(root.path()).await.unwrap();
        let guest = fixture::domain(&owner, "counter").await.unwrap();
        let qemu = driver(&owner, "qemu").await.unwrap();
        let helpers = root.helpers();
        let descriptors = [app.pid(), qemu.0].map(descriptors);
        Some(Self { root, app, owner, guest, output, qemu, helpers, descriptors })
    }

    /// The guest's numbers so far, which must have no gap.
    fn counted(&self) -> u64 {
        let text = std::fs::read_to_string(&self.output).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let numbers: Vec<u64> = whole.lines().filter_map(|line| line.trim().parse().ok()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a number is missing or there twice");
        numbers.last().copied().unwrap_or(0)
    }

    /// The guest counts on, its QEMU obeys, and no process or descriptor is another or one more.
    async fn unharmed(&self, after: &str) {
        let before = self.counted();
        wait_for(after, SOON, || async {
            (self.counted() > before).then_some(()).ok_or("the guest stands still".to_owned())
        })
        .await;
        assert_eq!(driver(&self.owner, "qemu").await, Ok(self.qemu), "{after}");
        let state = self.owner.domains().domain_get_state(self.guest.clone(), 0).await.unwrap();
        assert_eq!(state.state, State::Running as i32, "{after}");
        assert_eq!(self.root.helpers(), self.helpers, "{after}");
        wait_for(after, SOON, || async {
            let now = [self.app.pid(), self.qemu.0].map(descriptors);
            // Fewer is no leak: what the stack opened while it started may have been closed since.
            let more = now.iter().zip(&self.descriptors).any(|(now, before)| now > before);
            if more { Err(format!("descriptors: {:?} before, {now:?}", self.descriptors)) } else { Ok(()) }
        })
        .await;
    }

    /// QEMU is asked, not what is known of it.
    async fn obeys(&self) {
        let domains = self.owner.domains();
        domains.domain_suspend(self.guest.clone()).await.unwrap();
        domains.domain_resume(self.guest.clone()).await.unwrap();
    }

    async fn end(self) {
        self.obeys().await;
        self.owner.domains().domain_destroy_flags(self.guest.clone(), 0).await.unwrap();
        assert!(self.root.helpers_gone());
        drop(self.owner);
        self.app.close().unwrap();
    }
}

async fn attack(attack: Attack, stream: UnixStream) {
    tokio::task::spawn_blocking(move || attack.run(stream)).await.unwrap();
}

#[tokio::test]
async fn what_no_client_sends_ends_its_control_connection_alone() {
    let Some(victim) = Victim::new().await else {
        return skip("no guest files; tools/guest/build makes them");
    };
    for bad in attacks() {
        let name = bad.name;
        attack(bad, control(&victim.root)).await;
        victim.unharmed(&format!("control socket: {name}")).await;
    }
    victim.end().await;
}

#[tokio::test]
async fn what_no_client_sends_ends_its_channel_to_a_driver_alone() {
    let Some(victim) = Victim::new().await else {
        return skip("no guest files; tools/guest/build makes them");
    };
    for bad in attacks() {
        let name = bad.name;
        let (client, link) = control_client(&victim.root);
        let (socket, _) = client.channel_open(Driver::Qemu, false).await.unwrap();
        attack(bad, UnixStream::from(socket.into_owned().unwrap())).await;
        // The stack goes on with the other channels of the very client.
        client.stack_status().await.unwrap();
        link.abort();
        drop(client);
        victim.unharmed(&format!("driver channel: {name}")).await;
    }
    let log = std::fs::read_to_string(victim.root.path().join("log/qemu.driver.log")).unwrap();
    for said in ["at most 33554432", "unknown operation 999", "that no frame announced", "revision"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    victim.end().await;
}

#[tokio::test]
async fn a_thousand_silent_connections_are_bounded_and_the_owner_is_served() {
    let Some(victim) = Victim::new().await else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard).unwrap();
    let before = memory_kib(victim.app.pid());
    let mut silent = Vec::new();
    for number in 0..1000 {
        let Ok(mut stream) = UnixStream::connect(victim.root.path().join("run/control.sock")) else { break };
        if number % 2 == 0 {
            // Half of them begin a frame that never ends. Who was turned away can't.
            let hello = Header { body_bytes: 200, id: REVISION, ..Header::new(Kind::Hello) };
            let _ = stream.write_all(&hello.to_bytes());
        }
        silent.push(stream);
    }
    assert_eq!(silent.len(), 1000);
    let asked = Instant::now();
    victim.owner.domains().connect_list_all_domains(1, 0).await.unwrap();
    victim.owner.status().await.unwrap();
    let (answered, during) = (asked.elapsed(), memory_kib(victim.app.pid()));
    assert!(during < before + (16 << 10), "{before} KiB became {during}");
    assert!(descriptors(victim.app.pid()) < victim.descriptors[0] + 140);
    let held = tokio::task::spawn_blocking(move || {
        for stream in silent {
            stream.set_read_timeout(Some(SOON)).unwrap();
            closed("a silent connection", stream);
        }
    });
    held.await.unwrap();
    figure(&format!(
        "1000 silent control connections: {} KiB more, the owner answered in {} ms",
        during.saturating_sub(before),
        answered.as_millis()
    ));
    let attached = Connection::attach(victim.root.path()).await.unwrap();
    attached.status().await.unwrap();
    drop(attached);
    victim.unharmed("silent connections").await;
    victim.end().await;
}

/// A channel to the qemu driver, as a client gets it.
async fn channel(control: &stack::Client, read_only: bool) -> (Caller, Token) {
    let (socket, token) = control.channel_open(Driver::Qemu, read_only).await.unwrap();
    let caller = Caller::new(Driver::Qemu);
    let (run, socket) = (caller.clone(), socket.into_owned().unwrap());
    tokio::spawn(async move { run.run(socket, token).await });
    (caller, token)
}

#[tokio::test]
async fn a_token_allows_no_more_than_it_stands_for() {
    let root = Root::new();
    let owner = root.open().await.unwrap();
    owner.domains().connect_list_all_domains(1, 0).await.unwrap();
    let before = driver(&owner, "qemu").await.unwrap();
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
    wait_for("the token's end", SOON, || async {
        match stolen.connect_list_all_domains(1, 0).await {
            Err(error) if error.code == Code::OPERATION_DENIED => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // Calls of drivers, from a client, in its own name and in a driver's.
    let (socket, token) = control.channel_open(Driver::Network, false).await.unwrap();
    let (mut reader, mut writer) = link::open(socket.into_owned().unwrap(), REVISION).await.unwrap();
    for (id, token) in [(1, token), (2, Token::default())] {
        let header = Header { operation: 2, id, token, ..Header::new(Kind::Call) };
        writer.write(header, &[], &[]).await.unwrap();
        let answer = reader.read().await.unwrap();
        assert_eq!((answer.header.kind, answer.header.id), (Kind::Failure, id));
        let error: Error = bulkhead::wire::codec::decode(&answer.body, Vec::new()).unwrap();
        assert_eq!(error.code, Code::OPERATION_DENIED, "{error}");
    }
    // Calls of the owner, on a channel to a driver: its table has none of them, or others under their numbers.
    let (socket, token) = control.channel_open(Driver::Log, false).await.unwrap();
    let (mut reader, mut writer) = link::open(socket.into_owned().unwrap(), REVISION).await.unwrap();
    let stop =
        Header { operation: stack::stack_stop::INFO.operation, id: 1, token, ..Header::new(Kind::Call) };
    writer.write(stop, &[], &[]).await.unwrap();
    assert!(reader.read().await.is_err(), "the log driver has five calls?");
    assert_eq!(driver(&owner, "qemu").await, Ok(before));
    owner.domains().connect_list_all_domains(1, 0).await.unwrap();
    owner.stop().await.unwrap();
}
