//! The qemu driver is killed or stopped while guests run: they notice nothing, and the next call succeeds.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::{Connection, Intensity};
use bulkhead_broker::manifest;
use bulkhead_tests::fixture::{
    Root, SERIAL_PTY, domain, driver, figure, guest_files, kill, libexec, skip, ticker_xml, wait_for,
};
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::State;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// How often the driver is killed.
const KILLS: usize = 9;
/// Guests below the stack, and the same without one beside them.
const GUESTS: usize = 5;
const BARE: usize = 3;
/// The next call after a death.
const NEXT_CALL: Duration = Duration::from_millis(200);
/// The machine is not this test's alone: the quickest third shows what the stack takes, the rest may be late to this.
const NEXT_CALL_LATE: Duration = Duration::from_secs(2);
/// What a gap in the counting may be larger below the stack than without it, in the same seconds on the same machine.
const GAP_ROOM: Duration = Duration::from_millis(250);

/// Everything below a folder that must not change: path and content.
fn contents(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            contents(&entry.path(), found);
        } else if kind.is_file() {
            found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
}

fn on_disk(root: &Root) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in ["etc", "run", "lib"] {
        contents(&root.path().join(folder), &mut found);
    }
    // Which processes the drivers are changes with each of their deaths, and is on disk for that reason.
    found.retain(|path, _| !path.starts_with(root.path().join("run/broker/drivers")));
    found
}

/// Demands that the complete lines of a guest's output count without a gap; returns how many there are.
fn counts(text: &str) -> usize {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let numbers: Vec<u64> = whole.lines().filter_map(|line| line.trim().parse().ok()).collect();
    for pair in numbers.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "a number is missing or there twice");
    }
    numbers.len()
}

/// Reads what guests print as it comes, and when it comes.
struct Listener {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Heard>>,
}

/// One guest's output, and the longest time between two of its lines.
struct Heard {
    file: File,
    text: String,
    last: Option<Instant>,
    gap: Duration,
}

impl Heard {
    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = self.file.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]);
            if text.contains('\n') {
                let now = Instant::now();
                let gap = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
                self.gap = self.gap.max(gap);
            }
            self.text.push_str(&text);
        }
    }
}

impl Listener {
    fn new(files: Vec<File>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let heard = |file| Heard { file, text: String::new(), last: None, gap: Duration::ZERO };
            let mut all: Vec<Heard> = files.into_iter().map(heard).collect();
            while !end.load(Ordering::Relaxed) {
                all.iter_mut().for_each(Heard::listen);
                std::thread::sleep(Duration::from_millis(2));
            }
            all
        });
        Self { ended, thread }
    }

    fn end(self) -> Vec<Heard> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The same guest without a stack; ended when this is dropped.
struct Bare(Child);

impl Bare {
    fn start(disk: &Path, output: &Path) -> Self {
        let mut command = Command::new("/usr/bin/qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-m", "16"]);
        command.arg("-drive").arg(format!("file={},format=raw,if=ide", disk.display()));
        command.arg("-serial").arg(format!("file:{}", output.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Signals the driver and makes a call at once; the time until it is answered, by another incarnation.
async fn next_call_after(stack: &Connection, signal: Signal) -> Duration {
    let (pid, incarnation) = driver(stack, "qemu").await.unwrap();
    let signalled = Instant::now();
    kill(pid, signal);
    let listed = stack.domains().connect_list_all_domains(1, 1).await.unwrap();
    let took = signalled.elapsed();
    assert_eq!(usize::try_from(listed.count).unwrap(), GUESTS, "all guests are found again");
    let now = driver(stack, "qemu").await.unwrap();
    assert_eq!(now.1, incarnation + 1, "another incarnation has answered");
    took
}

/// Waits until the driver has lived a while, so that it is restarted without a pause.
async fn settled(stack: &Connection) {
    wait_for("the driver has lived a second", SOON, || async {
        let status = stack.status().await.map_err(|error| error.to_string())?;
        let qemu = status.drivers.iter().find(|driver| driver.name == "qemu");
        qemu.filter(|driver| driver.uptime_ms > 1000).map(drop).ok_or("younger".to_owned())
    })
    .await;
}

#[tokio::test]
async fn guests_count_on_over_deaths_of_their_driver() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let often = Intensity { deaths: 100, within: Duration::from_secs(1) };
    let stack =
        Connection::builder(&root.uri()).libexec(libexec()).restart_intensity(often).open().await.unwrap();
    let place = |name: &str| root.path().join(name);
    let mut outputs = Vec::new();
    for number in 0..GUESTS {
        let name = format!("tick{number}");
        let (disk, output) = (place(&format!("{name}.img")), place(&format!("{name}.out")));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let serial = if number == 0 {
            SERIAL_PTY.to_owned()
        } else {
            format!("<serial type='file'><source path='{}'/></serial>", output.display())
        };
        let defined =
            stack.domains().domain_define_xml_flags(ticker_xml(&name, &disk, &serial), 0).await.unwrap();
        stack.domains().domain_create_with_flags(defined.clone(), 0).await.unwrap();
        if number == 0 {
            let console = stack.domains().domain_open_console(defined, None, 0).await.unwrap();
            outputs.push(File::from(console.into_owned().unwrap()));
        } else {
            outputs.push(File::open(output).unwrap());
        }
    }
    let mut bare = Vec::new();
    for number in 0..BARE {
        let (disk, output) = (place(&format!("bare{number}.img")), place(&format!("bare{number}.out")));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        File::create(&output).unwrap();
        bare.push(Bare::start(&disk, &output));
        outputs.push(File::open(output).unwrap());
    }
    let listener = Listener::new(outputs);
    let pids = root.helpers();
    let before = on_disk(&root);
    let mut times = Vec::new();
    for _ in 0..KILLS {
        settled(&stack).await;
        times.push(next_call_after(&stack, Signal::SIGKILL).await);
    }
    times.sort();
    let (median, most) = (times[KILLS / 2], times[KILLS - 1]);
    figure(&format!(
        "kill -9 of the qemu driver to the next call, {KILLS} times: median {} ms, most {} ms",
        median.as_millis(),
        most.as_millis()
    ));
    assert!(times[KILLS / 3] < NEXT_CALL && most < NEXT_CALL_LATE, "{times:?}");

    settled(&stack).await;
    let stopped = next_call_after(&stack, Signal::SIGSTOP).await;
    let qemu = manifest::of(Driver::Qemu).unwrap();
    // It may have answered a moment before it was stopped.
    let deadline = qemu.heartbeat_every + qemu.heartbeat_within;
    figure(&format!(
        "SIGSTOP of the qemu driver to the next call: {} ms (asked every {} ms, has {} ms to answer)",
        stopped.as_millis(),
        qemu.heartbeat_every.as_millis(),
        qemu.heartbeat_within.as_millis()
    ));
    // As after a kill, which shows how busy the machine is.
    assert!(stopped < deadline + NEXT_CALL.max(most * 2), "{stopped:?}, {times:?}");

    assert_eq!(on_disk(&root), before, "nothing on disk changes");
    assert_eq!(root.helpers(), pids, "the same guests");
    let heard = listener.end();
    drop(bare);
    for (number, heard) in heard.iter().enumerate() {
        assert!(counts(&heard.text) > 100, "{number}: {}", heard.text);
    }
    let largest = |heard: &[Heard]| heard.iter().map(|heard| heard.gap).max().unwrap();
    let (ours, bare) = (largest(&heard[..GUESTS]), largest(&heard[GUESTS..]));
    figure(&format!(
        "largest gap between two numbers at 10 Hz over {} deaths: {} ms below the stack, {} ms without one",
        KILLS + 1,
        ours.as_millis(),
        bare.as_millis()
    ));
    assert!(ours < bare + GAP_ROOM, "{ours:?} {bare:?}");
    for number in 0..GUESTS {
        let guest = domain(&stack, &format!("tick{number}")).await.unwrap();
        let state = stack.domains().domain_get_state(guest.clone(), 0).await.unwrap();
        assert_eq!(state.state, State::Running as i32);
        stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    }
    assert!(root.helpers_gone());
    stack.stop().await.unwrap();
}
