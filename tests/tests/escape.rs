//! The matrix of process and forbidden thing, tried out of every real profile: as root, as an ordinary user, and as one for
//! whom there are no user namespaces.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead_sandbox::matrix::{Forbidden, PROCESSES, THINGS, Verdict, verdict};
use bulkhead_tests::fixture::{libexec, skip};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An ordinary user; whether it has a name does not matter.
const USER: u32 = 12_345;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, owner: u32) -> Self {
        let path = std::env::temp_dir().join(format!("bh-escape-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("bin")).unwrap();
        for program in ["escape-probe", "bulkhead-launch"] {
            std::fs::copy(libexec().join(program), path.join("bin").join(program)).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Outcomes by process and thing, and what else the suite says.
fn suite(name: &str, owner: u32, before: &[&str], bare: bool) {
    let folder = Folder::new(name, owner);
    let program = folder.0.join("bin/escape-probe");
    let mut child = Command::new(before[0])
        .args(&before[1..])
        .args(["timeout", "-k", "5", "120"])
        .args([program.as_path(), "suite".as_ref(), folder.0.as_path()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if bare {
        name_users(&child);
    }
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}\n{complaint}", output.status);
    assert!(text.contains("Panic true Some(6)"), "a panic and an abort:\n{text}");
    assert_eq!(text.contains("user namespace,"), !bare && owner != 0, "{text}");
    let outcomes: BTreeMap<(&str, &str), &str> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            Some(((words.next()?, words.next()?), words.next()?))
        })
        .collect();
    let mut wrong = Vec::new();
    for thing in THINGS {
        let what = format!("{thing:?}");
        // The attempts are real ones: root can do all of it, and a user what takes no right.
        let unconfined = outcomes[&("Unconfined", what.as_str())];
        let privileged = [
            Forbidden::OpenShadow,
            Forbidden::Mount,
            Forbidden::Unshare,
            Forbidden::Bpf,
            Forbidden::MakeDevice,
            Forbidden::OtherUser,
        ];
        if unconfined != "allowed" && (owner == 0 || !privileged.contains(thing)) {
            wrong.push(format!("Unconfined {what}: {unconfined}"));
        }
        for process in PROCESSES {
            let outcome = outcomes[&(format!("{process:?}").as_str(), what.as_str())];
            let expected = match verdict(*process, *thing) {
                Verdict::Denied => "denied",
                Verdict::AllowedBare(_) if bare => "allowed",
                Verdict::AllowedBare(_) => "denied",
                Verdict::Allowed(_) => "allowed",
                Verdict::Elsewhere(_) => continue,
            };
            if !outcome.starts_with(expected) {
                wrong.push(format!("{process:?} {what}: {outcome}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "as {name}:\n{}", wrong.join("\n"));
}

/// Gives a process that waits in a fresh user namespace the users of this one.
fn name_users(child: &Child) {
    let folder = PathBuf::from(format!("/proc/{}", child.id()));
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_link(folder.join("ns/user")).unwrap() == own {
        assert!(Instant::now() < deadline, "no user namespace");
        std::thread::yield_now();
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(folder.join(map), "0 0 65536").unwrap();
    }
    writeln!(child.stdin.as_ref().unwrap(), "go").unwrap();
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("the escape tests change between users, which takes root");
    }
    root
}

#[test]
fn nothing_forbidden_can_be_done_as_root() {
    if is_root() {
        // What the unconfined one mounts is gone with this.
        suite("root", 0, &["unshare", "--mount"], false);
    }
}

#[test]
fn nothing_forbidden_can_be_done_as_an_ordinary_user() {
    if is_root() {
        let user = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"];
        suite("user", USER, &user, false);
    }
}

#[test]
fn nothing_forbidden_can_be_done_by_a_user_without_namespaces() {
    if is_root() {
        // The limit counts below the namespace in which it is set.
        let script = "read go; echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --reuid 12345 --regid 12345 \
                      --clear-groups --inh-caps=-all --ambient-caps=-all \"$@\"";
        let bare = ["unshare", "--user", "--keep-caps", "sh", "-c", script, "sh"];
        suite("bare", USER, &bare, true);
    }
}
