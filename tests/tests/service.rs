//! The daemon as a service: what it tells its service manager, and what that keeps for the next one.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead::Connection;
use bulkhead::wire::types::secret::SecretValue;
use bulkhead_tests::fixture::{Root, libexec, skip, wait_for};
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use tokio::process::{Child, Command};

const SOON: Duration = Duration::from_secs(20);

/// What a service manager does as far as a daemon can tell.
struct Manager {
    socket: UnixDatagram,
    /// Descriptors that it was given to keep, by name. Their numbers are this process's.
    kept: BTreeMap<String, RawFd>,
    /// Everything else that it was told, with how often.
    told: BTreeMap<String, u32>,
    /// Sockets on which it listens for the daemon, by the names under which they are handed over.
    listening: Vec<(&'static str, UnixListener)>,
}

impl Manager {
    fn new(home: &Path) -> Self {
        let socket = UnixDatagram::bind(home.join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, kept: BTreeMap::new(), told: BTreeMap::new(), listening: Vec::new() }
    }

    /// Reads what has come.
    fn listen(&mut self) {
        let mut text = [0; 4096];
        let mut control = nix::cmsg_space!([RawFd; 8]);
        loop {
            let mut parts = [IoSliceMut::new(&mut text)];
            let number = self.socket.as_raw_fd();
            let message = recvmsg::<()>(number, &mut parts, Some(&mut control), MsgFlags::empty());
            let Ok(message) = message else { return };
            let files: Vec<RawFd> = message
                .cmsgs()
                .unwrap()
                .filter_map(|part| match part {
                    ControlMessageOwned::ScmRights(files) => Some(files),
                    _ => None,
                })
                .flatten()
                .collect();
            let bytes = message.bytes;
            let lines: Vec<&str> = std::str::from_utf8(&text[..bytes]).unwrap().lines().collect();
            let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
            if lines.contains(&"FDSTOREREMOVE=1") {
                self.kept.remove(name);
            } else if lines.contains(&"FDSTORE=1") {
                assert_eq!(files.len(), 1, "{lines:?}");
                assert!(name.len() < 256 && !name.contains(':') && !name.is_empty(), "{name:?}");
                self.kept.insert(name.to_owned(), files[0]);
            } else {
                lines.iter().for_each(|line| *self.told.entry((*line).to_owned()).or_default() += 1);
            }
        }
    }

    async fn hears(&mut self, word: &str, times: u32) {
        let heard = tokio::sync::Mutex::new(self);
        wait_for("the service manager is told", SOON, || async {
            let mut manager = heard.lock().await;
            manager.listen();
            let told = manager.told.get(word).copied().unwrap_or(0);
            if told >= times { Ok(()) } else { Err(format!("{word} came {told} times: {:?}", manager.told)) }
        })
        .await;
    }

    /// Starts the daemon, with what was kept for it.
    fn start(&self, home: &Path) -> Child {
        std::fs::create_dir_all(home.join("run")).unwrap();
        let mut script = String::new();
        for (number, file) in (3..).zip(self.kept.values()) {
            write!(script, "exec {number}<>/proc/{}/fd/{file}; ", std::process::id()).unwrap();
        }
        // Sockets can't be opened again: these go over as they are, above all numbers that are given away.
        let high = |(_, socket): &(_, UnixListener)| fcntl(socket, FcntlArg::F_DUPFD(200)).unwrap();
        let handed_over: Vec<RawFd> = self.listening.iter().map(high).collect();
        for (number, from) in (3 + self.kept.len()..).zip(&handed_over) {
            write!(script, "exec {number}<&{from} {from}<&-; ").unwrap();
        }
        // The descriptors are meant for the process with this id.
        script += "LISTEN_PID=$$ exec \"$0\" --session";
        let listening = self.listening.iter().map(|(name, _)| *name);
        let names: Vec<&str> = self.kept.keys().map(String::as_str).chain(listening).collect();
        let mut daemon = Command::new("/bin/bash");
        if !names.is_empty() {
            daemon.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        let started = daemon
            .args(["-c", &script])
            .arg(libexec().join("bulkheadd"))
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("NOTIFY_SOCKET", home.join("notify"))
            .env("WATCHDOG_USEC", "200000")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for number in handed_over {
            nix::unistd::close(number).unwrap();
        }
        started
    }
}

/// Runs `virsh` with a socket.
async fn virsh(socket: &Path, arguments: &[&str]) -> (String, bool) {
    let uri = format!("qemu+unix:///session?socket={}", socket.display());
    let mut virsh = Command::new("virsh");
    virsh.args(["-q", "-c", &uri]).args(arguments).env("LC_ALL", "C.UTF-8").kill_on_drop(true);
    let output = tokio::time::timeout(SOON, virsh.output()).await.unwrap().unwrap();
    (String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(), output.status.success())
}

async fn reach(home: &Path) -> Connection {
    let layout = bulkhead::wire::control::Layout::session(home, &home.join("run"));
    wait_for("the daemon answers", SOON, || async {
        Connection::attach_to(&layout).await.map_err(|error| error.to_string())
    })
    .await
}

#[tokio::test]
async fn what_a_driver_deposited_outlives_a_daemon_whose_service_manager_keeps_it() {
    let home = Root::new();
    std::fs::create_dir_all(home.path()).unwrap();
    let mut manager = Manager::new(home.path());
    let mut first = manager.start(home.path());
    manager.hears("READY=1", 1).await;
    manager.hears("WATCHDOG=1", 3).await;
    let stack = reach(home.path()).await;
    let (one, two) = ("00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002");
    let (value, mut made) = (b"kept by nobody else".to_vec(), Vec::new());
    for uuid in [one, two] {
        let xml = format!("<secret ephemeral='yes'><uuid>{uuid}</uuid></secret>");
        let secret = stack.secrets().secret_define_xml(xml, 0).await.unwrap();
        let value = SecretValue::new(value.clone());
        stack.secrets().secret_set_value(secret.clone(), value, 0).await.unwrap();
        made.push(secret);
    }
    // What is withdrawn is not kept, nor twice what was replaced.
    stack.secrets().secret_undefine(made[1].clone()).await.unwrap();
    let heard = tokio::sync::Mutex::new(&mut manager);
    wait_for("one secret is kept", SOON, || async {
        let mut manager = heard.lock().await;
        manager.listen();
        let names: Vec<&String> = manager.kept.keys().filter(|name| name.starts_with("secret/")).collect();
        if names == [&format!("secret/{one}")] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    drop(stack);
    first.start_kill().unwrap();
    first.wait().await.unwrap();

    let mut second = manager.start(home.path());
    manager.hears("READY=1", 2).await;
    let stack = reach(home.path()).await;
    let found = stack.secrets().secret_get_value(made[0].clone(), 0).await.unwrap();
    assert_eq!(found.expose(), value);
    assert!(stack.secrets().secret_get_value(made[1].clone(), 0).await.is_err());
    drop(stack);
    kill(Pid::from_raw(i32::try_from(second.id().unwrap()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(second.wait().await.unwrap().success());
    manager.hears("STOPPING=1", 1).await;
}

#[tokio::test]
async fn sockets_that_the_service_manager_listens_on_are_served_and_no_others_are_made() {
    if Command::new("virsh").arg("--version").output().await.is_err() {
        return skip("virsh is not installed");
    }
    let home = Root::new();
    std::fs::create_dir_all(home.path()).unwrap();
    let mut manager = Manager::new(home.path());
    let (writers, readers) = (home.path().join("for-writers"), home.path().join("for-readers"));
    // One name may stand for several sockets.
    let (also, unknown) = (home.path().join("also-for-writers"), home.path().join("unknown"));
    for (name, path) in [
        ("libvirt-sock", &writers),
        ("strangers", &unknown),
        ("libvirt-sock-ro", &readers),
        ("libvirt-sock", &also),
    ] {
        manager.listening.push((name, UnixListener::bind(path).unwrap()));
    }
    let xml = home.path().join("secret.xml");
    std::fs::write(&xml, "<secret ephemeral='yes'/>").unwrap();
    let define = ["secret-define", xml.to_str().unwrap()];
    // Who comes while there is no daemon waits for it.
    let (early, mut first) = tokio::join!(virsh(&writers, &define), async {
        let listener = &manager.listening[0].1;
        wait_for("a client has come", SOON, || async {
            let mut comes = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            if poll(&mut comes, PollTimeout::ZERO) == Ok(1) { Ok(()) } else { Err("none".to_owned()) }
        })
        .await;
        manager.start(home.path())
    });
    assert!(early.1, "{}", early.0);
    assert!(virsh(&also, &define).await.1);
    let (said, taken) = virsh(&readers, &["secret-list"]).await;
    assert!(taken && said.lines().count() == 2, "{said}");
    let (said, taken) = virsh(&readers, &define).await;
    assert!(!taken && said.contains("read"), "{said}");
    assert!(!home.path().join("run/libvirt").exists(), "nobody asked for others");

    // The next one is handed the same.
    first.start_kill().unwrap();
    first.wait().await.unwrap();
    manager.listen();
    let (late, mut second) =
        tokio::join!(virsh(&readers, &["secret-list"]), async { manager.start(home.path()) });
    assert!(late.1 && late.0.lines().count() == 2, "{}", late.0);
    // From then on an end is an orderly one.
    manager.hears("READY=1", 2).await;
    kill(Pid::from_raw(i32::try_from(second.id().unwrap()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(second.wait().await.unwrap().success());

    // What is no socket that listens is refused, and named.
    let connected = UnixStream::connect(&writers).unwrap();
    let odd = UnixListener::from(OwnedFd::from(connected));
    manager.listening = vec![("libvirt-sock", odd)];
    assert!(!manager.start(home.path()).wait().await.unwrap().success());
}
