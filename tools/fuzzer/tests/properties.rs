//! A bounded round of every target, in a process that can't have much memory: no panic, no hang, nothing that swells.
//!
//! One test, since the limit counts for the whole process. `BULKHEAD_SEED` says which changes are made.

use bulkhead_fuzzer::{TARGETS, runner};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;

/// Inputs for each target; those that need a socket are a hundred times slower.
const EXECUTIONS: u64 = 4000;
const TIME: Duration = Duration::from_secs(3);
/// Addresses that the process may have beyond those it has; inputs are 64 KiB at most, and one thread's stack and arena are in it.
const MORE: u64 = 256 << 20;

fn addresses() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = pages.split(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

#[test]
fn any_bytes_are_accepted_or_refused_and_nothing_else_happens() {
    let seed = std::env::var("BULKHEAD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).expect("a limit");
    setrlimit(Resource::RLIMIT_AS, addresses() + MORE, hard).expect("less than before");
    runner::notice_panics();
    for target in TARGETS {
        let figures = runner::feed(target, seed, EXECUTIONS, TIME);
        println!("{}: {figures:?}", target.name);
        // The monitor's peer would have to know what it is asked.
        assert!(figures.accepted > 0 || target.name == "monitor", "{} accepts nothing", target.name);
        assert!(figures.executions > 20, "{}: {figures:?}", target.name);
        assert!(figures.slowest < Duration::from_secs(10), "{}: {figures:?}", target.name);
    }
}
