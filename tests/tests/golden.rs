//! Recorded conversations of libvirt's clients with a stock daemon, replayed frame by frame to a stack: each answer decodes
//! with the structures of the recorded one, and each value that differs is explained here.
//!
//! Left out, since what they are about has tests of its own or is not there: networks' events (`06-net-*`), virt-install (what it
//! sends is not recorded whole; `programs.rs` and `pools.rs` run it), snapshots (`08`), descriptors (`11`), polkit and SASL
//! (`13`), administration (`14`), the lock and log daemons' protocols (`17`), migration (`18`).
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{figure, guest_files, skip};
use bulkhead_tests::served::{PYTHON, Served};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// The story in its order: what one makes, a later one uses.
const STORY: &[&str] = &[
    "01-list-11.3",
    "01-list-9.0",
    "01-list-all-11.3",
    "01-uri-version",
    "16-lists",
    "16-capabilities",
    "02-define-11.3",
    "02-define-9.0",
    "02-dominfo-11.3",
    "02-dumpxml-11.3",
    "02-dumpxml-9.0",
    "03-start-11.3",
    "03-start-paused-9.0",
    "03-list-running-11.3",
    "03-domstats-11.3",
    "03-suspend-resume",
    "04-console-11.3",
    "04-console-9.0",
    "04-screenshot-11.3",
    "05-pool",
    "05-vol-upload-11.3",
    "05-vol-upload-9.0",
    "05-vol-download-11.3",
    "05-vol-download-sparse-11.3",
    "05-vol-upload-sparse-11.3",
    "06-event-loop-11.3",
    "06-event-one-11.3",
    "06-pool-event-11.3",
    "07-secret",
    "09-errors",
    "10-readonly-11.3",
    "12-python-connect-11.3",
    "12-python-connect-9.0",
    "15-destroy-undefine",
];

/// What differs, and why: how the procedure's name begins, how the value's place begins, the reason.
const EXPLAINED: &[(&str, &str, &str)] = &[
    (
        "DOMAIN_OPEN_CONSOLE stream",
        "",
        "a guest answers when it has come that far, and an emulated one is slow",
    ),
    ("NODE_GET_INFO", "/", "another machine, and other memory"),
    ("NODE_GET_CPU_STATS", "/params", "another machine, at another time"),
    ("NODE_GET_MEMORY_STATS", "/params", "another machine, at another time"),
    ("NODE_GET_FREE_MEMORY", "/freeMem", "another machine, at another time"),
    ("CONNECT_GET_HOSTNAME", "/hostname", "another machine"),
    ("CONNECT_GET_CAPABILITIES", "/capabilities", "another machine"),
    (
        "CONNECT_GET_DOMAIN_CAPABILITIES",
        "/capabilities",
        "another machine, recorded with a /dev/kvm that works",
    ),
    ("CONNECT_GET_SYSINFO", "/", "the recorded machine shows no SMBIOS tables"),
    ("STORAGE_POOL_GET_INFO", "/", "another disk"),
    ("STORAGE_VOL_GET_XML_DESC", "/xml/volume/target/timestamps", "made at another time"),
    ("CONNECT_GET_ALL_DOMAIN_STATS", "/retStats/params/balloon.rss", "measured"),
    ("CONNECT_GET_ALL_DOMAIN_STATS", "/retStats/params/block.0", "measured; the image is another one"),
    ("CONNECT_GET_ALL_DOMAIN_STATS", "/retStats/params/cpu.time", "measured"),
    ("CONNECT_GET_ALL_DOMAIN_STATS", "/retStats/params/cpu.user", "measured"),
    ("CONNECT_GET_ALL_DOMAIN_STATS", "/retStats/params/cpu.system", "measured"),
    ("CONNECT_GET_ALL_DOMAIN_STATS", "/retStats/params/vcpu.0", "measured"),
    (
        "CONNECT_GET_ALL_DOMAIN_STATS",
        "/retStats/params/cpu.cache",
        "no cache monitor can be set up, so none are counted",
    ),
    (
        "CONNECT_GET_ALL_DOMAIN_STATS",
        "/retStats/params/cpu.haltpoll",
        "a kernel without KVM polls no halted processors",
    ),
    (
        "DOMAIN_GET_XML_DESC",
        "/xml",
        "a guest that runs is in no cgroup and has no label, its terminals are its own, and its processor is given as it was defined",
    ),
    (
        "DOMAIN_EVENT_CALLBACK_LIFECYCLE",
        "",
        "a guest that is destroyed is ended at once, not asked, so its QEMU does not tell of a shutdown first",
    ),
    ("DOMAIN_SNAPSHOT", "/", "snapshots are not there yet"),
    ("DOMAIN_CHECKPOINT", "/", "checkpoints are not there yet"),
    ("DOMAIN_BLOCK_JOB", "/", "block jobs are not there yet"),
    ("DOMAIN_DETACH_DEVICE_ALIAS", "/", "hot plug is not there yet"),
    ("DOMAIN_PM_WAKEUP", "/", "waking is not there yet"),
    ("NETWORK", "/", "networks are not there yet"),
    ("CONNECT_LIST_ALL_NETWORKS", "/", "networks are not there yet"),
    ("NODE_DEVICE", "/", "node devices are not served"),
    ("CONNECT_LIST_ALL_NODE_DEVICES", "/", "node devices are not served"),
    ("NWFILTER", "/", "network filters are not served"),
    ("CONNECT_LIST_ALL_NWFILTER", "/", "network filters are not served"),
    ("INTERFACE", "/", "the host's interfaces are not served"),
    ("CONNECT_LIST_ALL_INTERFACES", "/", "the host's interfaces are not served"),
    ("SECRET", "", "the gateway does not serve secrets yet"),
    ("CONNECT_LIST_ALL_SECRETS", "/", "the gateway does not serve secrets yet"),
    ("CONNECT_SECRET_EVENT", "", "the gateway does not serve secrets yet"),
    ("STORAGE_POOL_EVENT", "", "pools' events are not there yet"),
    ("CONNECT_STORAGE_POOL_EVENT", "", "pools' events are not there yet"),
    ("STORAGE_VOL_DOWNLOAD stream-hole", "", "downloads send no holes yet"),
];

/// A folder that takes the place of the recorded one, whose name is as long, and goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(files: &Path) -> Self {
        let recorded = "/var/tmp/flowd".len();
        let path = format!("/tmp/{:0>width$}", std::process::id(), width = recorded - "/tmp/".len());
        let folder = Self(PathBuf::from(path));
        std::fs::create_dir_all(&folder.0).unwrap();
        std::fs::copy(files.join("vmlinuz"), folder.0.join("vmlinuz")).unwrap();
        std::fs::copy(files.join("initramfs-tiny.cpio.gz"), folder.0.join("initrd.gz")).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn explanation(what: &str, path: &str) -> Option<usize> {
    EXPLAINED.iter().position(|(procedure, place, _)| what.starts_with(procedure) && path.starts_with(place))
}

#[tokio::test]
async fn recorded_requests_are_answered_as_they_were() {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    if !shared.join("protocol/traces").is_dir() {
        return skip("no recorded conversations at hand");
    }
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let served = Served::new().await;
    let folder = Folder::new(&files);
    for name in ["a.qcow2", "b.qcow2"] {
        let disk = folder.0.join(name).display().to_string();
        served.does("qemu-img", &["create", "-q", "-f", "qcow2", &disk, "64M"]).await;
    }
    let mut replay = Command::new(PYTHON);
    replay
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/replay.py"))
        .args([&shared, &served.root.path().join("run"), &folder.0])
        .args(STORY)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(Duration::from_secs(300), replay.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let (mut answers, mut same, mut explained, mut wrong) = (0, 0, 0, Vec::new());
    let mut used = vec![false; EXPLAINED.len()];
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let answer: Value = serde_json::from_str(line).unwrap();
        let (what, found) = (answer["what"].as_str().unwrap(), answer["differences"].as_array().unwrap());
        let mut unexplained = Vec::new();
        for difference in found {
            match explanation(what, difference[0].as_str().unwrap()) {
                Some(index) => used[index] = true,
                None => unexplained.push(difference.to_string()),
            }
        }
        answers += 1;
        same += usize::from(found.is_empty());
        explained += usize::from(!found.is_empty() && unexplained.is_empty());
        if !unexplained.is_empty() {
            wrong.push(format!(
                "{} line {}: {what}: {}",
                answer["trace"],
                answer["n"],
                unexplained.join(", ")
            ));
        }
    }
    figure(&format!("of {answers} recorded answers {same} are the same and {explained} differ for a reason"));
    for ((procedure, place, why), _) in EXPLAINED.iter().zip(used).filter(|(_, used)| !used) {
        println!("nothing differs at {procedure} {place} any more: {why}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(answers > 1000, "only {answers} answers were compared");
    served.stack.stop().await.unwrap();
}
