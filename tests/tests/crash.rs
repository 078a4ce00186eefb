//! The qemu driver is killed or stopped while guests run: they notice nothing, and the next call succeeds.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead_tests::fixture::{
    Root, SERIAL_PTY, domain, driver, figure, guest_files, kill, skip, ticker_xml, wait_for,
};
use bulkhead_wire::types::State;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// The kills of one round; the figure is their median.
const KILLS: usize = 3;

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

/// Demands that the complete lines of a guest's output count without a gap; returns the last number.
fn counts(text: &str) -> u64 {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let numbers: Vec<u64> = whole.lines().filter_map(|line| line.trim().parse().ok()).collect();
    for pair in numbers.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "a number is missing or there twice");
    }
    numbers.last().copied().unwrap_or(0)
}

async fn first_call_after(stack: &Connection, signalled: Instant, pid: u32) -> Duration {
    // The signal may be answered by the old incarnation's last reply only if it was not dead yet.
    wait_for("the next incarnation", SOON, || async {
        let (now, _) = driver(stack, "qemu").await?;
        (now != pid).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
    let listed = stack.domains().connect_list_all_domains(1, 1).await.unwrap();
    assert_eq!(listed.count, 5, "all guests are found again");
    signalled.elapsed()
}

#[tokio::test]
async fn guests_count_on_over_deaths_of_their_driver() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let disk = root.path().join("disk.img");
    for number in 0..5 {
        let name = format!("tick{number}");
        let disk = disk.with_file_name(format!("{name}.img"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let output = root.path().join(format!("{name}.out"));
        let serial = if number == 0 {
            SERIAL_PTY.to_owned()
        } else {
            format!("<serial type='file'><source path='{}'/></serial>", output.display())
        };
        let defined =
            stack.domains().domain_define_xml_flags(ticker_xml(&name, &disk, &serial), 0).await.unwrap();
        stack.domains().domain_create_with_flags(defined, 0).await.unwrap();
    }
    let console =
        stack.domains().domain_open_console(domain(&stack, "tick0").await.unwrap(), None, 0).await.unwrap();
    let mut console = std::fs::File::from(console.into_owned().unwrap());
    let mut heard = String::new();
    let mut listen = move |heard: &mut String| {
        let mut bytes = [0; 4096];
        while let Ok(length) = console.read(&mut bytes) {
            if length == 0 {
                break;
            }
            heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    let pids = root.helpers();
    let before = on_disk(&root);
    let mut times = Vec::new();
    for _ in 0..KILLS {
        // Long enough to be restarted without a pause.
        wait_for("the driver has lived a second", SOON, || async {
            let status = stack.status().await.map_err(|error| error.to_string())?;
            let qemu = status.drivers.iter().find(|driver| driver.name == "qemu");
            qemu.filter(|driver| driver.uptime_ms > 1000).map(drop).ok_or("younger".to_owned())
        })
        .await;
        listen(&mut heard);
        let (pid, _) = driver(&stack, "qemu").await.unwrap();
        let signalled = Instant::now();
        kill(pid, Signal::SIGKILL);
        times.push(first_call_after(&stack, signalled, pid).await);
    }
    times.sort();
    figure(&format!("kill -9 to next call, median of {KILLS}: {} ms", times[KILLS / 2].as_millis()));
    assert!(times[KILLS / 2] < Duration::from_secs(1), "{times:?}");

    let (pid, _) = driver(&stack, "qemu").await.unwrap();
    let signalled = Instant::now();
    kill(pid, Signal::SIGSTOP);
    let stopped = first_call_after(&stack, signalled, pid).await;
    figure(&format!("SIGSTOP to next call: {} ms (heartbeat deadline 4000 ms)", stopped.as_millis()));
    assert!(stopped < Duration::from_secs(6), "{stopped:?}");

    assert_eq!(on_disk(&root), before, "nothing on disk changes");
    assert_eq!(root.helpers(), pids, "the same guests");
    listen(&mut heard);
    assert!(counts(&heard) > 20, "the console that was attached before heard it all: {heard}");
    for number in 1..5 {
        let text = std::fs::read_to_string(root.path().join(format!("tick{number}.out"))).unwrap();
        assert!(counts(&text) > 20, "{text}");
    }
    for number in 0..5 {
        let guest = domain(&stack, &format!("tick{number}")).await.unwrap();
        let state = stack.domains().domain_get_state(guest.clone(), 0).await.unwrap();
        assert_eq!(state.state, State::Running as i32);
        stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    }
    assert!(root.helpers().is_empty());
    stack.stop().await.unwrap();
}
