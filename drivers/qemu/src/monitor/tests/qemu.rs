//! The monitor against QEMU itself, over a socket that it gets as a descriptor.

use crate::monitor::commands::{Actions, Protocol};
use crate::monitor::{Cause, Entry, EventKind, Monitor, MonitorError, Notice, Options};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

const BINARY: &str = "qemu-system-x86_64";
/// Generous: the machine that tests run on may be busy.
const LIMIT: Duration = Duration::from_secs(60);

struct Qemu {
    child: Child,
    /// Our end of the monitor; connections are made of duplicates, so that it outlives them.
    socket: Socket,
}

impl Qemu {
    /// Starts QEMU, if there is one.
    fn start(arguments: &[&str]) -> Option<Self> {
        let (socket, theirs) = Socket::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let child = Command::new(BINARY)
            .args(["-nodefaults", "-display", "none", "-chardev", "socket,id=m,fd=0"])
            .args(["-mon", "chardev=m,mode=control"])
            .args(arguments)
            .stdin(OwnedFd::from(theirs))
            .spawn();
        match child {
            Ok(child) => Some(Self { child, socket }),
            Err(error) => {
                println!("skipped: {BINARY} can't be started: {error}");
                None
            }
        }
    }

    fn stream(&self) -> UnixStream {
        UnixStream::from_std(self.socket.try_clone().unwrap()).unwrap()
    }

    async fn attach(&self, entry: Entry) -> (Monitor, mpsc::Receiver<Notice>) {
        let (sender, events) = mpsc::channel(64);
        let mut options = Options::new(entry);
        options.handshake = LIMIT;
        let monitor = Monitor::attach(self.stream(), sender, options).await;
        (monitor.unwrap(), events)
    }

    async fn end(mut self) -> ExitStatus {
        // Its end of the socket is closed by now, so this does not block for long.
        let wait = tokio::task::spawn_blocking(move || {
            let status = self.child.wait();
            drop(self);
            status
        });
        timeout(LIMIT, wait).await.unwrap().unwrap().unwrap()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

async fn next(events: &mut mpsc::Receiver<Notice>) -> Option<EventKind> {
    match timeout(LIMIT, events.recv()).await.unwrap() {
        None => None,
        Some(Notice::Event(event)) => Some(event.kind),
        Some(Notice::Lagged(count)) => panic!("lost {count} events"),
    }
}

#[tokio::test]
async fn asks_what_a_binary_can_do() {
    let Some(qemu) = Qemu::start(&["-machine", "none"]) else {
        return;
    };
    let (monitor, mut events) = qemu.attach(Entry::Fresh).await;
    let commands = monitor.within(LIMIT);
    assert_eq!(&commands.query_version().await.unwrap(), monitor.version());
    assert!(monitor.version().major >= 7);
    assert!(commands.query_commands().await.unwrap().iter().any(|name| name == "query-status"));
    let machines = commands.query_machines().await.unwrap();
    assert!(machines.iter().any(|machine| machine.alias.as_deref() == Some("q35")));
    let models = commands.query_cpu_definitions().await.unwrap();
    assert!(models.iter().any(|model| model.name == "qemu64"));
    assert_eq!(commands.query_target().await.unwrap(), "x86_64");
    assert!(!commands.query_kvm().await.unwrap().enabled);
    let types = commands.qom_list_types(Some("device"), false).await.unwrap();
    assert!(types.iter().any(|kind| kind.name == "virtio-blk-pci" && !kind.is_abstract));
    let properties = commands.device_list_properties("virtio-blk-pci").await.unwrap();
    assert!(properties.iter().any(|property| property.name == "drive"));
    let error = commands.device_list_properties("no-such-device").await.unwrap_err();
    assert!(matches!(error, MonitorError::Refused { .. }), "{error:?}");
    commands.quit().await.unwrap();
    assert!(matches!(next(&mut events).await, Some(EventKind::Shutdown(it)) if it.reason == "host-qmp-quit"));
    assert_eq!(next(&mut events).await, None);
    assert_eq!(monitor.closed().await, Cause::EndOfFile);
    assert!(qemu.end().await.success());
}

#[tokio::test]
async fn drives_a_machine() {
    let arguments = [
        "-machine",
        "q35,accel=tcg",
        "-S",
        "-name",
        "guest",
        "-vnc",
        "none,password=on",
        "-device",
        "virtio-balloon-pci",
        "-uuid",
        "8fbd1a54-28c1-4d7a-a3ac-5ed36ccf1aba",
    ];
    let Some(qemu) = Qemu::start(&arguments) else {
        return;
    };
    let (monitor, mut events) = qemu.attach(Entry::Fresh).await;
    let commands = monitor.within(LIMIT);
    let status = commands.query_status().await.unwrap();
    assert!(!status.running && status.status == "prelaunch", "{status:?}");
    commands.cont().await.unwrap();
    assert_eq!(next(&mut events).await, Some(EventKind::Resume));
    assert!(commands.query_status().await.unwrap().running);
    commands.stop().await.unwrap();
    assert_eq!(next(&mut events).await, Some(EventKind::Stop));
    assert_eq!(commands.query_status().await.unwrap().status, "paused");
    commands.system_powerdown().await.unwrap();
    assert_eq!(next(&mut events).await, Some(EventKind::Powerdown));
    commands.system_reset().await.unwrap();
    assert!(matches!(next(&mut events).await, Some(EventKind::Reset(it)) if !it.guest));

    assert_eq!(commands.query_name().await.unwrap().as_deref(), Some("guest"));
    assert_eq!(commands.query_uuid().await.unwrap(), "8fbd1a54-28c1-4d7a-a3ac-5ed36ccf1aba");
    assert_eq!(commands.query_cpus_fast().await.unwrap().len(), 1);
    assert!(commands.query_block().await.unwrap().is_empty());
    assert!(commands.query_chardev().await.unwrap().iter().any(|device| device.label == "m"));
    let memory = commands.query_balloon().await.unwrap();
    assert_eq!(memory, 128 << 20);
    commands.balloon(memory).await.unwrap();
    let told = commands.human_monitor_command("info status").await.unwrap();
    assert!(told.contains("paused"), "{told}");
    assert!(commands.query_vnc().await.unwrap().clients.is_empty());
    commands.set_password(Protocol::Vnc, "secret", Some("keep")).await.unwrap();
    commands.expire_password(Protocol::Vnc, "never").await.unwrap();
    let actions = Actions { reboot: Some("shutdown"), ..Actions::default() };
    commands.set_action(&actions).await.unwrap();
    commands.quit().await.unwrap();
    assert!(qemu.end().await.success());
}

#[tokio::test]
async fn passes_each_descriptor_with_its_command() {
    let Some(qemu) = Qemu::start(&["-machine", "none"]) else {
        return;
    };
    let (monitor, _events) = qemu.attach(Entry::Fresh).await;
    let commands = monitor.within(LIMIT);
    let (first, first_end) = Socket::pair().unwrap();
    let (second, second_end) = Socket::pair().unwrap();
    let inode =
        |socket: &Socket| std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    let expected = [inode(&first_end), inode(&second_end)];
    let (one, two, three) = tokio::join!(
        commands.add_fd(Some(1), Some("first"), first_end.into()),
        commands.add_fd(Some(2), None, second_end.into()),
        commands.getfd("third", first.into()),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    three.unwrap();
    assert_eq!((one.fdset_id, two.fdset_id), (1, 2));
    let held = [one.fd, two.fd]
        .map(|number| std::fs::read_link(format!("/proc/{}/fd/{number}", qemu.child.id())).unwrap());
    assert_eq!(held, expected);
    drop(second);
    commands.quit().await.unwrap();
    assert!(qemu.end().await.success());
}

/// Writes as an owner would that died in the middle of it.
async fn write_raw(qemu: &Qemu, bytes: &[u8]) {
    let stream = qemu.stream();
    let mut rest = bytes;
    while !rest.is_empty() {
        timeout(LIMIT, stream.writable()).await.unwrap().unwrap();
        if let Ok(count) = stream.try_write(rest) {
            rest = &rest[count..];
        }
    }
}

#[tokio::test]
async fn adopts_a_connection_whose_owner_died() {
    let Some(qemu) = Qemu::start(&["-machine", "q35,accel=tcg", "-S"]) else {
        return;
    };
    let started = Instant::now();
    // Died before it had read a byte.
    let (monitor, mut events) = qemu.attach(Entry::Adopted).await;
    let version = monitor.version().clone();
    monitor.within(LIMIT).cont().await.unwrap();
    assert_eq!(next(&mut events).await, Some(EventKind::Resume));
    drop(monitor);
    assert_eq!(next(&mut events).await, None, "the task must have let go of the socket");

    // Died with replies under way, a few bytes of the first one read, and half a request written.
    write_raw(
        &qemu,
        b"{\"execute\": \"query-commands\", \"id\": \"0-0\"}\n{\"execute\": \"stop\", \"id\": \"0-1\"}\n",
    )
    .await;
    let stream = qemu.stream();
    timeout(LIMIT, stream.readable()).await.unwrap().unwrap();
    let mut some = [0; 7];
    assert!(stream.try_read(&mut some).unwrap() > 0);
    drop(stream);
    for half in ["{\"execute\": \"query-name\", \"arguments\": {\"x\": [", "{\"execute\": \"query-na"] {
        write_raw(&qemu, half.as_bytes()).await;
        let (monitor, mut events) = qemu.attach(Entry::Adopted).await;
        assert_eq!(monitor.version(), &version);
        assert!(!monitor.within(LIMIT).query_status().await.unwrap().running);
        drop(monitor);
        while next(&mut events).await.is_some() {}
    }

    let (monitor, _events) = qemu.attach(Entry::Adopted).await;
    monitor.within(LIMIT).quit().await.unwrap();
    assert!(qemu.end().await.success());
    assert!(started.elapsed() < 4 * LIMIT);
}
