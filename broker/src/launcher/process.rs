//! Processes that exist: their end, their identity, their size.

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Waits for a child's end: its exit code, or minus its signal. `None` if somebody else reaped it (an application that
/// reaps everything) or it is not our child.
pub(crate) fn reap(pidfd: &OwnedFd) -> Option<i32> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::__WALL) {
            Ok(WaitStatus::Exited(_, code)) => return Some(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(-(signal as i32)),
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

/// Waits for a process's end without holding up anything else.
///
/// # Errors
/// When the runtime can't watch the descriptor.
pub(crate) async fn ended(pidfd: OwnedFd) -> io::Result<Option<i32>> {
    let watched = bulkhead_wire::link::watch(pidfd)?;
    let _ready = watched.readable().await?;
    Ok(reap(watched.get_ref()))
}

/// Has it ended, reaped or not?
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut watched = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut watched, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Sends a signal to exactly this process.
pub(crate) fn signal(pidfd: &OwnedFd, signal: i32) {
    // SAFETY: takes numbers and a null pointer.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0);
    }
}

/// A descriptor of a process that runs.
///
/// # Errors
/// A process that does not exist.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; the result, if one, is a fresh descriptor of ours.
    unsafe {
        let result = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(i32::try_from(result).map_err(io::Error::other)?))
    }
}

/// When a process began, in ticks since boot: with the process id it names one process for ever.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so fields are counted behind its closing parenthesis.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Resident memory in KiB; 0 for a process that has gone.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let pages = fs::read_to_string(format!("/proc/{pid}/statm"))
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4
}

/// Words for an end.
pub(crate) fn describe_end(status: Option<i32>) -> String {
    match status {
        Some(code) if code >= 0 => format!("exit code {code}"),
        Some(signal) => format!("signal {}", -signal),
        None => "end of unknown kind".to_owned(),
    }
}
