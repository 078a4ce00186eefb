//! Taps out of the driver's confinement: as root, and as an ordinary user, whose driver is in a user namespace of its own
//! but in the network namespace of everybody.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "this is a test, though not one of the usual harness"
)]

use bulkhead_network::open;
use bulkhead_sandbox::{confine, profiles};
use bulkhead_wire::table::network::tap_open::Arguments;
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the process that is to be confined.
const CONFINED: &str = "BULKHEAD_TEST_CONFINED";
/// An ordinary one; whether it has a name does not matter.
const USER: u32 = 12_345;

fn main() {
    if std::env::var_os(CONFINED).is_some() {
        return confined();
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        println!("skipped: taps take root and /dev/net/tun");
        return;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        println!("skipped: the program 'ip' prepares the test");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for arguments in [
        "tuntap add dev mine mode tap user 12345",
        "tuntap add dev others mode tap user 1234",
        "tuntap add dev group mode tap group 1234",
        "tuntap add dev open mode tap multi_queue",
        "link add br0 type bridge",
    ] {
        let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    let root = run(None);
    for line in [
        "mine: mine 1",
        "others: others 1",
        "group: group 1",
        "open: open 2",
        "new: vnet0 1",
        "bridge: vnet0 1",
    ] {
        assert!(root.lines().any(|seen| seen == line), "no '{line}' in:\n{root}");
    }
    println!("as root: ok");

    let user = run(Some(USER));
    for line in [
        "mine: mine 1",
        "open: open 2",
        "others: 38 1 Tap 'others' can't be opened by user 12345, it belongs to another user:",
        "group: 38 1 Tap 'group' can't be opened by user 12345, it belongs to another group:",
        "new: 38 1 Tap 'vnet%d' can't be made, the network driver lacks CAP_NET_ADMIN",
        "bridge: 38 1 Tap 'vnet%d' can't be made and plugged into bridge 'br0', the network driver lacks CAP_NET_ADMIN",
    ] {
        assert!(user.lines().any(|seen| seen.starts_with(line)), "no '{line}' in:\n{user}");
    }
    println!("as an ordinary user: ok");
}

/// Runs this program again, to be confined; returns what it says.
fn run(user: Option<u32>) -> String {
    // Where it lies, others may not be allowed to go.
    let folder = TemporaryFolder::new();
    let program = folder.0.join("confined");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command.env(CONFINED, "1").current_dir("/");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {complaint}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("bulkhead-network-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the driver would do, in a process like the driver's.
fn confined() {
    let nowhere = PathBuf::from("/nonexistent");
    let profile = profiles::network(&profiles::Folders {
        etc: nowhere.clone(),
        lib: nowhere.clone(),
        run: nowhere.clone(),
        cache: nowhere.clone(),
        log: nowhere,
    });
    let report = confine(&profile, &[]).unwrap();
    println!("in force: {}", report.in_force.join(", "));
    println!("missing: {}", report.missing.join(", "));
    for (label, name, bridge, queues) in [
        ("mine", Some("mine"), None, 1),
        ("others", Some("others"), None, 1),
        ("group", Some("group"), None, 1),
        ("open", Some("open"), None, 2),
        ("new", None, None, 1),
        ("bridge", None, Some("br0"), 1),
    ] {
        let opened = open(&Arguments {
            name: name.map(str::to_owned),
            managed: name.is_none(),
            bridge: bridge.map(str::to_owned),
            mac: "52:54:00:12:34:56".to_owned(),
            queues,
        });
        match opened {
            Ok(tap) => println!("{label}: {} {}", tap.name, tap.queues.len()),
            Err(error) => println!("{label}: {} {} {error}", error.code.0, error.int1),
        }
    }
}
