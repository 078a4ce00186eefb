//! Hostile documents, each read by a process of its own that may use 100 ms of CPU and 64 MiB of addresses.
//!
//! The program is its own child: `limits --read FILE` reads one document below these limits and prints the verdict.
//! What stock libvirt refuses must be refused with line and element; `malformed.txt` decides about the rest.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program of tests, which may fail and says what it did"
)]

use bulkhead_qemu::domain::host::CountedIdentifiers;
use bulkhead_qemu::domain::{Definition, Host, Purpose};
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// CPU time of the child, from its first instruction on.
const CPU: Duration = Duration::from_millis(100);
/// Addresses of the child, its program included.
const MEMORY: u64 = 64 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.as_slice() {
        [_, read, file] if read == "--read" => read_below_limits(Path::new(file)),
        [_, damage, folder, seed] if damage == "--damage" => {
            read_damaged(Path::new(folder), seed.parse().unwrap());
        }
        // Asked by the test runner for a list of tests, or for another test.
        [_, rest @ ..] if rest.iter().any(|word| word == "--list") => println!("limits: test"),
        _ => all_documents(),
    }
}

/// The child: limits first, then the document.
fn read_below_limits(file: &Path) {
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
    let end = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
    let mut timer = Timer::new(ClockId::CLOCK_PROCESS_CPUTIME_ID, end).unwrap();
    let at = Expiration::OneShot(TimeSpec::from_duration(CPU));
    timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).unwrap();
    let host = Host::qemu_10_0(Arc::new(CountedIdentifiers::default()));
    let verdict = match Definition::read(&std::fs::read(file).unwrap(), &host, Purpose::Define) {
        Ok(definition) => format!("accepted, {} bytes", definition.to_xml(true).len()),
        Err(error) => format!("refused: {}", error.message),
    };
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let cpu = used.user_time() + used.system_time();
    println!("{} {} {verdict}", cpu.num_microseconds(), used.max_rss());
}

/// The child that reads every domain of the corpus after it was damaged, each within the limits of one document.
fn read_damaged(folder: &Path, seed: u64) {
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
    let host = Host::qemu_10_0(Arc::new(CountedIdentifiers::default()));
    let mut numbers = Numbers(seed);
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let used = || Duration::from(nix::time::clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
    let (mut accepted, mut refused) = (0, 0);
    for name in names {
        let mut document = std::fs::read(&name).unwrap();
        for _ in 0..=numbers.below(4) {
            damage(&mut document, &mut numbers);
        }
        let before = used();
        let read = Definition::read(&document, &host, Purpose::Define).and_then(|definition| {
            let again = Definition::read(definition.to_xml(true).as_bytes(), &host, Purpose::Define);
            assert!(again.is_ok(), "{}: what was written is not read again: {again:?}", name.display());
            definition.native(&host)
        });
        let spent = used() - before;
        // Twice the time of one document: it was read twice.
        assert!(spent < CPU * 2, "{}: {spent:?}", name.display());
        match read {
            Ok(_) => accepted += 1,
            Err(error) => {
                refused += 1;
                assert!(!error.message.is_empty());
            }
        }
    }
    println!("{accepted} damaged documents are accepted and {refused} refused");
}

/// Numbers that look random and are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }
}

/// What values are replaced by: the ends of ranges, and what is no value at all.
const VALUES: &[&str] = &[
    "",
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65535",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "0x",
    "0xffffffff",
    "yes",
    "none",
    "auto",
    "virtio",
    "pci",
    "usb",
    "\u{e9}",
    "../..",
    "a,b=c",
    "%s",
    "&#10;",
    "0-4294967295",
];

/// One fault: a value, an element or some bytes are not what they were.
fn damage(document: &mut Vec<u8>, numbers: &mut Numbers) {
    let length = document.len();
    let from = numbers.below(length);
    let next = |document: &[u8], from: usize, byte: &[u8]| {
        document.get(from..)?.iter().position(|other| byte.contains(other)).map(|at| from + at)
    };
    match numbers.below(12) {
        // Another value of an attribute.
        0..=6 => {
            let Some(equals) = next(document, from, b"=") else { return };
            let Some(&quote) = document.get(equals + 1).filter(|byte| matches!(byte, b'\'' | b'"')) else {
                return;
            };
            let Some(end) = next(document, equals + 2, &[quote]) else { return };
            let value = VALUES[numbers.below(VALUES.len())];
            document.splice(equals + 2..end, value.bytes());
        }
        // An element without content twice, or gone.
        7 | 8 => {
            let Some(start) = next(document, from, b"<") else { return };
            let Some(end) = next(document, start, b">").filter(|end| document[end - 1] == b'/') else {
                return;
            };
            if numbers.below(2) == 0 {
                document.drain(start..=end);
            } else {
                let twice = document[start..=end].to_vec();
                document.splice(start..start, twice);
            }
        }
        // A text is another one.
        9 | 10 => {
            let Some(start) = next(document, from, b">") else { return };
            let Some(end) = next(document, start, b"<") else { return };
            let value = VALUES[numbers.below(VALUES.len())];
            document.splice(start + 1..end, value.bytes());
        }
        // A byte is another one, or the rest is missing.
        _ => {
            if numbers.below(8) == 0 {
                document.truncate(from);
            } else if let Some(byte) = document.get_mut(from) {
                *byte = u8::try_from(numbers.below(256)).unwrap();
            }
        }
    }
}

/// What a child said.
struct Answer {
    microseconds: u64,
    kibibytes: u64,
    /// Why it was refused, if it was.
    refusal: Option<String>,
}

fn ask_child(file: &Path) -> Answer {
    let child = Command::new(std::env::current_exe().unwrap()).arg("--read").arg(file).output().unwrap();
    let text = String::from_utf8(child.stdout).unwrap();
    assert!(
        child.status.success(),
        "{}: the child ended with {}: {}",
        file.display(),
        child.status,
        String::from_utf8_lossy(&child.stderr)
    );
    let mut words = text.trim_end().splitn(3, ' ');
    let mut next = || words.next().unwrap();
    Answer {
        microseconds: next().parse().unwrap(),
        kibibytes: next().parse().unwrap(),
        refusal: next().strip_prefix("refused: ").map(str::to_owned),
    }
}

/// The decisions about documents that stock accepts: name, whether they are accepted here.
fn decisions() -> BTreeMap<&'static str, bool> {
    let lines = include_str!("malformed.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let (name, verdict) = (words.next().unwrap(), words.next().unwrap());
            assert!(matches!(verdict, "accept" | "refuse"), "{name}: '{verdict}' is no decision");
            assert!(words.count() > 3, "{name}: a decision has a reason");
            (name, verdict == "accept")
        })
        .collect()
}

fn all_documents() {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let corpus = shared.join("corpus");
    let Ok(expected) = std::fs::read(corpus.join("expected.json")) else {
        println!("skipped: no corpus at {}", corpus.display());
        return;
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let mut decisions = decisions();
    let (mut refused, mut decided) = (0, 0);
    let (mut slowest, mut largest) = (0, 0);
    for (name, case) in expected["cases"].as_object().unwrap() {
        let Some(file) = name.strip_prefix("malformed/").filter(|file| file.starts_with("domain-")) else {
            continue;
        };
        let answer = ask_child(&corpus.join(format!("{name}.xml")));
        slowest = slowest.max(answer.microseconds);
        largest = largest.max(answer.kibibytes);
        if case["steps"]["define"]["error"].is_null() {
            let accept = decisions.remove(file);
            let accept =
                accept.unwrap_or_else(|| panic!("{file}: stock accepts it; malformed.txt has no decision"));
            assert_eq!(answer.refusal.is_none(), accept, "{file}: {:?}", answer.refusal);
            decided += 1;
        } else {
            let refusal = answer.refusal.unwrap_or_else(|| panic!("{file} is accepted, stock refuses it"));
            assert!(names_line_and_element(&refusal), "{file}: no line or element in '{refusal}'");
            refused += 1;
        }
    }
    assert!(decisions.is_empty(), "malformed.txt decides about what is not there: {decisions:?}");
    for entry in std::fs::read_dir(corpus.join("defect")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("domain-")) {
            let refusal = ask_child(&path).refusal;
            assert!(refusal.is_some_and(|text| names_line_and_element(&text)), "{}", path.display());
        }
    }
    println!("{refused} malformed documents are refused as stock does, {decided} as malformed.txt says");
    let rounds = std::env::var("BULKHEAD_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    for seed in 1..=rounds {
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("--damage")
            .arg(corpus.join("domain"))
            .arg(seed.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(
            child.status.success(),
            "seed {seed}: {}: {}",
            child.status,
            String::from_utf8_lossy(&child.stderr)
        );
        print!("{said}");
    }
    println!("at most {slowest} us of CPU and {largest} KiB of memory for one");
}

/// Whether a text says `line N` and an element, or that there was none yet.
fn names_line_and_element(text: &str) -> bool {
    let line = text.split("line ").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let element = text.split('<').skip(1).any(|rest| {
        rest.split_once('>').is_some_and(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
    });
    line && (element || text.contains("(outside of the root element)"))
}
