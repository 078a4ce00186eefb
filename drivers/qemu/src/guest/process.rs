//! What the kernel tells of a guest's process and its threads. A process that has gone tells nothing.

use crate::node::{PAGE_KIB, TICK_NS};
use std::fs::read_to_string;

/// What a process or thread has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time in user mode.
    pub(crate) user_ns: u64,
    /// CPU time in the kernel.
    pub(crate) system_ns: u64,
    /// Resident memory, of the whole process.
    pub(crate) resident_kib: u64,
    /// The host's CPU that it was on last.
    pub(crate) cpu: i32,
}

impl Usage {
    pub(crate) fn total_ns(self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }

    /// Reads the text of a `stat` file; its fields are numbered from the one behind the name.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            user_ns: number(11)?.saturating_mul(TICK_NS),
            system_ns: number(12)?.saturating_mul(TICK_NS),
            resident_kib: number(21)?.saturating_mul(PAGE_KIB),
            cpu: fields.get(36)?.parse().ok()?,
        })
    }
}

/// What a process with all its threads has used.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    Usage::parse(&read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// What one of its threads has used.
pub(crate) fn thread_usage(pid: u32, thread: i32) -> Option<Usage> {
    Usage::parse(&read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?)
}

/// For how long a thread was ready to run and did not, in ns.
pub(crate) fn thread_delay_ns(pid: u32, thread: i32) -> Option<u64> {
    let text = read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

/// The host's CPUs that a thread may run on, CPU 0 in the lowest bit of the first byte.
pub(crate) fn thread_cpus(pid: u32, thread: i32) -> Option<Vec<u8>> {
    let text = read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
    parse_mask(text.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?)
}

/// Reads the kernel's spelling of a mask: words of 32 bits in hexadecimal, the highest first.
fn parse_mask(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in text.trim().rsplit(',') {
        bytes.extend(u32::from_str_radix(word, 16).ok()?.to_le_bytes());
    }
    while bytes.len() > 1 && bytes.last() == Some(&0) {
        bytes.pop();
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let rest: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) b (c)) {}", rest.join(" ").replacen('3', "S", 1));
        let usage = Usage::parse(&stat).unwrap();
        assert_eq!((usage.user_ns, usage.system_ns), (14 * TICK_NS, 15 * TICK_NS));
        assert_eq!((usage.resident_kib, usage.cpu), (24 * PAGE_KIB, 39));
        assert_eq!(Usage::parse("7 (a) S 1 2"), None);
    }

    #[test]
    fn masks_are_read_from_their_end() {
        assert_eq!(parse_mask("\t3\n"), Some(vec![3]));
        assert_eq!(parse_mask("1,00000000"), Some(vec![0, 0, 0, 0, 1]));
        assert_eq!(parse_mask("ffff,80000001"), Some(vec![1, 0, 0, 0x80, 0xff, 0xff]));
        assert_eq!(parse_mask("x"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.resident_kib > 0);
        assert!(!thread_cpus(std::process::id(), std::process::id().cast_signed()).unwrap().is_empty());
    }
}
