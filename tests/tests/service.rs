//! The daemon as a service: what it tells its service manager, and what that keeps for the next one.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead::Connection;
use bulkhead::wire::types::secret::SecretValue;
use bulkhead_tests::fixture::{Root, libexec, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
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
}

impl Manager {
    fn new(home: &Path) -> Self {
        let socket = UnixDatagram::bind(home.join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, kept: BTreeMap::new(), told: BTreeMap::new() }
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
        // The descriptors are meant for the process with this id.
        script += "LISTEN_PID=$$ exec \"$0\" --session";
        let names: Vec<&str> = self.kept.keys().map(String::as_str).collect();
        let mut daemon = Command::new("/bin/bash");
        if !names.is_empty() {
            daemon.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        daemon
            .args(["-c", &script])
            .arg(libexec().join("bulkheadd"))
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("NOTIFY_SOCKET", home.join("notify"))
            .env("WATCHDOG_USEC", "200000")
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }
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
