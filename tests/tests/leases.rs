//! Disks that two guests want: the second is refused, by name, whatever dies; and gets it the moment the first is gone.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::control::FaultRule;
use bulkhead::wire::table::Driver;
use bulkhead::wire::types::DomainRef;
use bulkhead_base::points::POINTS;
use bulkhead_tests::fixture::{Root, driver, figure, guest_files, kill, libexec, skip, ticker_xml, wait_for};
use bulkhead_tests::served::PYTHON;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// `VIR_ERR_RESOURCE_BUSY`, `VIR_FROM_LOCKING`: as stock says it.
const BUSY: (i32, i32) = (87, 51);

fn have() -> Option<PathBuf> {
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

fn disk(root: &Root, files: &Path) -> PathBuf {
    let disk = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    disk
}

/// A guest with that disk, which has these elements too.
async fn define(stack: &Connection, name: &str, disk: &Path, elements: &str) -> DomainRef {
    let xml = ticker_xml(name, disk, "<serial type='null'/>")
        .replace("<target dev='hda'", &format!("{elements}<target dev='hda'"));
    stack.domains().domain_define_xml_flags(xml, 0).await.unwrap()
}

async fn start(stack: &Connection, guest: &DomainRef) -> Result<(), bulkhead::Error> {
    stack.domains().domain_create_with_flags(guest.clone(), 0).await.map(drop)
}

async fn destroy(stack: &Connection, guest: &DomainRef) {
    stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
}

fn assert_busy(error: &bulkhead::Error, says: &[&str]) {
    assert_eq!((error.code.0, error.origin.0), BUSY, "{error}");
    for word in says {
        assert!(error.message.contains(word), "{word}: {error}");
    }
}

/// Is a lock of virtlockd's kind refused on that file, as another host would find it?
fn is_locked(disk: &Path, shared: bool) -> bool {
    let file = OpenOptions::new().read(true).write(true).open(disk).unwrap();
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    let mut lock =
        libc::flock { l_type: i16::try_from(kind).unwrap(), l_whence: 0, l_start: 0, l_len: 1, l_pid: 0 };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).unwrap();
    i32::from(lock.l_type) != libc::F_UNLCK
}

fn qemu_of(root: &Root) -> u32 {
    let is_qemu = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("qemu-system")
    };
    root.helpers().into_iter().find(is_qemu).unwrap()
}

#[tokio::test]
async fn a_disk_is_one_guests_unless_all_say_that_they_share_it() {
    let Some(files) = have() else { return };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let disk = disk(&root, &files);
    let by_link = root.path().join("link.img");
    std::os::unix::fs::symlink(&disk, &by_link).unwrap();
    let first = define(&stack, "first", &disk, "").await;
    let second = define(&stack, "second", &by_link, "").await;
    let reader = define(&stack, "reader", &disk, "<readonly/>").await;
    let sharer = define(&stack, "sharer", &disk, "<shareable/>").await;
    let other = define(&stack, "other", &disk, "<shareable/>").await;
    start(&stack, &first).await.unwrap();
    assert!(is_locked(&disk, true));
    for guest in [&second, &sharer] {
        let error = start(&stack, guest).await.unwrap_err();
        assert_busy(&error, &["'first'", &first.uuid.to_string(), &guest.name, ".img"]);
    }
    let held = stack.locks().leases_list().await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].owner.name.as_str(), held[0].shared, held[0].runs), ("first", false, true));
    assert_eq!(held[0].path, disk.to_str().unwrap());
    // Whoever only reads takes none; whether QEMU lets it is QEMU's affair.
    let read = start(&stack, &reader).await.err().map(|error| error.origin.0);
    assert_ne!(read, Some(BUSY.1));
    if read.is_none() {
        destroy(&stack, &reader).await;
    }

    // At once, not when somebody has noticed.
    destroy(&stack, &first).await;
    start(&stack, &second).await.unwrap();
    assert_busy(&start(&stack, &first).await.unwrap_err(), &["'second'"]);
    destroy(&stack, &second).await;
    start(&stack, &sharer).await.unwrap();
    start(&stack, &other).await.unwrap();
    assert!(is_locked(&disk, false) && !is_locked(&disk, true));
    assert_busy(&start(&stack, &first).await.unwrap_err(), &["er'"]);
    destroy(&stack, &sharer).await;
    assert_busy(&start(&stack, &first).await.unwrap_err(), &["'other'"]);
    destroy(&stack, &other).await;
    wait_for("nobody has it", SOON, || async {
        let held = stack.locks().leases_list().await.unwrap();
        if held.is_empty() && !is_locked(&disk, false) { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
    // A start that fails keeps nothing.
    let xml = ticker_xml("broken", &disk, "<serial type='dev'><source path='/nowhere/tty'/></serial>");
    let broken = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
    start(&stack, &broken).await.unwrap_err();
    assert!(!is_locked(&disk, false));
    start(&stack, &first).await.unwrap();
    destroy(&stack, &first).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn what_an_image_stands_on_is_nobodys_to_write() {
    let Some(files) = have() else { return };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let base = disk(&root, &files);
    let overlay = |name: &str| {
        let path = root.path().join(format!("{name}.qcow2"));
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&base, &path])
            .status();
        assert!(made.unwrap().success());
        path
    };
    let mut guests = Vec::new();
    for name in ["one", "two"] {
        let xml =
            ticker_xml(name, &overlay(name), "<serial type='null'/>").replace("type='raw'", "type='qcow2'");
        let guest = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
        start(&stack, &guest).await.unwrap();
        guests.push(guest);
    }
    let writer = define(&stack, "writer", &base, "").await;
    assert_busy(&start(&stack, &writer).await.unwrap_err(), &["disk.img"]);
    destroy(&stack, &guests[0]).await;
    assert_busy(&start(&stack, &writer).await.unwrap_err(), &["'two'"]);
    destroy(&stack, &guests[1]).await;
    start(&stack, &writer).await.unwrap();
    assert_busy(&start(&stack, &guests[0]).await.unwrap_err(), &["'writer'"]);
    destroy(&stack, &writer).await;
    stack.stop().await.unwrap();
}

/// Locks what virtlockd locks, until it is spoken to.
const LOCKER: &str = r#"
import fcntl, sys
disk = open(sys.argv[1], "r+b")
fcntl.lockf(disk, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
print("ready", flush=True)
sys.stdin.read()
"#;

#[tokio::test]
async fn another_stack_is_refused_and_so_is_whoever_asks_as_virtlockd_does() {
    let Some(files) = have() else { return };
    let (root, neighbour) = (Root::new(), Root::new());
    let (stack, beside) = (root.open().await.unwrap(), neighbour.open().await.unwrap());
    let disk = disk(&root, &files);
    let ours = define(&stack, "ours", &disk, "").await;
    let theirs = define(&beside, "theirs", &disk, "").await;
    start(&stack, &ours).await.unwrap();
    assert_busy(&start(&beside, &theirs).await.unwrap_err(), &["another"]);
    destroy(&stack, &ours).await;
    start(&beside, &theirs).await.unwrap();
    destroy(&beside, &theirs).await;
    // A lock of a process, as virtlockd takes it.
    let mut locker = Command::new(PYTHON)
        .args(["-c", LOCKER, disk.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(locker.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    assert_busy(&start(&stack, &ours).await.unwrap_err(), &[&format!("process {}", locker.id())]);
    drop(locker.stdin.take());
    assert!(locker.wait().unwrap().success());
    start(&stack, &ours).await.unwrap();
    destroy(&stack, &ours).await;
    stack.stop().await.unwrap();
    beside.stop().await.unwrap();
}

/// The lease holds through this, and ends with QEMU.
async fn outlives(root: &Root, stack: &Connection, first: &DomainRef, second: &DomainRef, disk: &Path) {
    assert!(is_locked(disk, true));
    let refused = wait_for("an answer", SOON, || async {
        match start(stack, second).await {
            // Who dies with a call in flight says so.
            Err(error) if error.code.0 == BUSY.0 => Ok(error),
            Err(error) => Err(error.to_string()),
            Ok(()) => panic!("two guests have one disk"),
        }
    })
    .await;
    assert_busy(&refused, &["'first'", &first.uuid.to_string()]);
    assert_eq!(root.helpers().len(), 1);
}

#[tokio::test]
async fn a_lease_outlives_everybody_but_qemu() {
    let Some(files) = have() else { return };
    let root = Root::new();
    let mut stack = root.open().await.unwrap();
    let disk = disk(&root, &files);
    let first = define(&stack, "first", &disk, "").await;
    let second = define(&stack, "second", &disk, "").await;
    start(&stack, &first).await.unwrap();
    for dying in [&["lock"][..], &["qemu"], &["lock", "qemu"], &["qemu", "lock"]] {
        let mut before = Vec::new();
        for name in dying {
            before.push(driver(&stack, name).await.unwrap());
        }
        for (pid, _) in &before {
            kill(*pid, Signal::SIGKILL);
        }
        outlives(&root, &stack, &first, &second, &disk).await;
        for (name, (_, incarnation)) in dying.iter().zip(before) {
            wait_for("the next one", SOON, || async {
                let (_, now) = driver(&stack, name).await?;
                (now > incarnation).then_some(()).ok_or_else(|| "the old one".to_owned())
            })
            .await;
        }
        outlives(&root, &stack, &first, &second, &disk).await;
    }
    // Its application goes, and with it the shelf.
    stack.stop().await.unwrap();
    assert!(is_locked(&disk, true));
    stack = root.open().await.unwrap();
    outlives(&root, &stack, &first, &second, &disk).await;

    // The lock driver is not there when QEMU ends, nor is the qemu driver.
    for name in ["lock", "qemu"] {
        let (pid, _) = driver(&stack, name).await.unwrap();
        kill(pid, Signal::SIGSTOP);
    }
    kill(qemu_of(&root), Signal::SIGKILL);
    let ended = Instant::now();
    wait_for("it is free", SOON, || async {
        if is_locked(&disk, false) { Err("locked".to_owned()) } else { Ok(()) }
    })
    .await;
    figure(&format!(
        "a lease of a guest that outlived its broker ended {} ms after it",
        ended.elapsed().as_millis()
    ));
    wait_for("the second starts", SOON, || async {
        start(&stack, &second).await.map_err(|error| error.to_string())
    })
    .await;
    assert_busy(&start(&stack, &first).await.unwrap_err(), &["'second'"]);
    destroy(&stack, &second).await;
    stack.stop().await.unwrap();
}

/// One of the two drivers dies at a point of a start or an end: never do two guests have the disk, and it is not lost either.
async fn dies_at(files: &Path, point: String, of: Driver) {
    let root = Root::new();
    let rule = FaultRule { driver: of, point: point.clone(), nth: 1, hang: false };
    let stack = Connection::builder(&root.uri()).libexec(libexec()).faults(vec![rule]).open().await.unwrap();
    let disk = disk(&root, files);
    let first = define(&stack, "first", &disk, "").await;
    let second = define(&stack, "second", &disk, "").await;
    let begun = start(&stack, &first).await;
    let state = || async {
        let list = stack.domains().connect_list_all_domains(1, 1).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(list.domains.len())
    };
    let running = wait_for("an answer", SOON, state).await;
    if running == 1 {
        outlives(&root, &stack, &first, &second, &disk).await;
        wait_for("it is destroyed", SOON, || async {
            let _ = stack.domains().domain_destroy_flags(first.clone(), 0).await;
            match state().await? {
                0 => Ok(()),
                running => Err(format!("{running} run")),
            }
        })
        .await;
    } else {
        assert!(begun.is_err(), "{point}: started and not there");
    }
    wait_for("the second gets it", SOON, || async {
        match start(&stack, &second).await {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("{point}: {error}")),
        }
    })
    .await;
    assert_busy(&start(&stack, &first).await.unwrap_err(), &["'second'"]);
    destroy(&stack, &second).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn after_a_death_at_any_point_one_guest_has_the_disk_and_the_next_gets_it() {
    let Some(files) = have() else { return };
    let mut points: Vec<(String, Driver)> = POINTS
        .iter()
        .filter(|point| point.driver == "lock")
        .map(|point| (format!("{}.{}", point.subject, point.moment), Driver::Lock))
        .collect();
    assert!(points.len() >= 5);
    for moment in
        ["before_leases", "before_taps", "before_helper", "after_helper", "before_running", "after_running"]
    {
        points.push((format!("start.{moment}"), Driver::Qemu));
    }
    points.push(("stop.before_cleanup".to_owned(), Driver::Qemu));
    for (point, of) in points {
        dies_at(&files, point, of).await;
    }
    // The file is there still, and nothing was written to it by those who lock.
    assert!(File::open(files.join("ticker.img")).is_ok());
}
