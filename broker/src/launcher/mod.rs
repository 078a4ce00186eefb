//! The one place where a process begins: `clone` with a pidfd, then exec. Not `clone3`: a filter can't see its flags, so where a
//! service manager forbids kinds of namespaces it does not exist.
//!
//! In embed mode this runs inside somebody's multi-threaded application: between clone and exec nothing is allocated and no
//! lock is taken, no signal handler of ours exists, and the child's end is learned from its pidfd alone.
#![expect(unsafe_code, reason = "clone and what a child may do before exec have no safe wrapper")]

pub(crate) mod process;

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to start.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    /// Arguments, the program's own name not among them.
    pub(crate) arguments: Vec<CString>,
    /// The whole environment, `NAME=VALUE`.
    pub(crate) environment: Vec<CString>,
    /// Descriptors: number in the child, file. 0, 1 and 2 must be among them. Everything else is closed.
    pub(crate) descriptors: Vec<(RawFd, OwnedFd)>,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Readable when it has ended.
    pub(crate) pidfd: OwnedFd,
}

/// Numbers above all that a child gets, where descriptors are parked while they change places.
const PARKED: RawFd = 512;

/// Starts a process; returns when its program has replaced ours.
///
/// # Errors
/// A program that can't be executed, descriptors or processes that can't be had.
pub(crate) fn launch(command: &Command<'_>) -> io::Result<Process> {
    let program = c_string(command.program.as_os_str())?;
    let arguments = pointers(std::iter::once(&program).chain(&command.arguments));
    let environment = pointers(command.environment.iter());
    let mut targets = Vec::with_capacity(command.descriptors.len() + 1);
    for (number, file) in &command.descriptors {
        if *number < 0 || *number >= PARKED {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("descriptor number {number} is out of range"),
            ));
        }
        targets.push((*number, file.as_raw_fd()));
    }
    // Empty once exec has happened; otherwise it carries the errno. Not read to its end: a thread of the application may fork
    // at this very moment, and its child would keep the other side.
    let (failure, report) = io::pipe()?;
    let report_target = targets.iter().map(|(number, _)| number + 1).max().unwrap_or(3).max(3);
    let gaps = gaps(&targets, report_target);
    let mut parked = vec![0; targets.len()];

    let mut pidfd: RawFd = -1;
    // This thread waits until the child has executed its program or ended.
    let flags = libc::c_long::from(libc::CLONE_PIDFD | libc::CLONE_VFORK);
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything, and runs `child` alone, which
    // makes only system calls and touches only memory prepared above.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, &raw mut pidfd, 0_usize, 0_usize) };
    if pid == 0 {
        // SAFETY: see `child`; this is the child.
        unsafe {
            child(&targets, &mut parked, &gaps, report.as_raw_fd(), report_target, &arguments, &environment)
        }
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(report);
    // SAFETY: the kernel has just put the descriptor there for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if let Some(errno) = reported(failure.into())? {
        let _ = process::reap(&pidfd);
        return Err(io::Error::from_raw_os_error(errno));
    }
    let pid = u32::try_from(pid).map_err(io::Error::other)?;
    Ok(Process { pid, pidfd })
}

/// What the child has said about its failure, without waiting for anybody.
fn reported(failure: OwnedFd) -> io::Result<Option<i32>> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&failure, nix::fcntl::FcntlArg::F_SETFL(flags))?;
    let mut errno = [0; 4];
    match std::fs::File::from(failure).read_exact(&mut errno) {
        Ok(()) => Ok(Some(i32::from_ne_bytes(errno))),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a name holds a zero byte"))
}

fn pointers<'a>(strings: impl Iterator<Item = &'a CString>) -> Vec<*const libc::c_char> {
    strings.map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The ranges of descriptor numbers that the child must not have.
fn gaps(targets: &[(RawFd, RawFd)], report: RawFd) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> =
        targets.iter().map(|(number, _)| number.unsigned_abs()).chain([report.unsigned_abs()]).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut gaps = Vec::new();
    let mut first = 0;
    for number in kept {
        if number > first {
            gaps.push((first, number - 1));
        }
        first = number + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

/// The child, from clone to exec.
///
/// # Safety
/// Must run in a fresh single-threaded child. Makes system calls only: no allocation, no lock, no panic.
unsafe fn child(
    targets: &[(RawFd, RawFd)],
    parked: &mut [RawFd],
    gaps: &[(u32, u32)],
    report: RawFd,
    report_target: RawFd,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> ! {
    // SAFETY: plain system calls on numbers and on memory that outlives them; see the function's own contract.
    unsafe {
        let mut report = report;
        let failed = |report: RawFd| -> ! {
            let errno = (*libc::__errno_location()).to_ne_bytes();
            libc::write(report, errno.as_ptr().cast(), errno.len());
            libc::_exit(127)
        };
        // A session of its own: what happens on the application's terminal is none of the child's business.
        libc::setsid();
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        // An ignored signal stays ignored over exec; handlers do not.
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let moved = libc::fcntl(report, libc::F_DUPFD_CLOEXEC, PARKED);
        if moved < 0 {
            failed(report);
        }
        report = moved;
        let mut index = 0;
        while index < targets.len() {
            let moved = libc::fcntl(targets.get_unchecked(index).1, libc::F_DUPFD_CLOEXEC, PARKED);
            if moved < 0 {
                failed(report);
            }
            *parked.get_unchecked_mut(index) = moved;
            index += 1;
        }
        index = 0;
        while index < targets.len() {
            if libc::dup2(*parked.get_unchecked(index), targets.get_unchecked(index).0) < 0 {
                failed(report);
            }
            index += 1;
        }
        if libc::dup3(report, report_target, libc::O_CLOEXEC) < 0 {
            failed(report);
        }
        report = report_target;
        for (first, last) in gaps {
            if libc::syscall(libc::SYS_close_range, *first, *last, 0) != 0 {
                failed(report);
            }
        }
        libc::execve(*arguments.get_unchecked(0), arguments.as_ptr(), environment.as_ptr());
        failed(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
    }

    fn shell(script: &str, extra: Vec<(RawFd, OwnedFd)>) -> (Process, String) {
        let (mut output, write) = io::pipe().unwrap();
        let mut descriptors = vec![(0, null()), (1, write.into()), (2, null())];
        descriptors.extend(extra);
        let process = launch(&Command {
            program: Path::new("/bin/sh"),
            arguments: vec![c"-c".to_owned(), CString::new(script).unwrap()],
            environment: vec![c"WORD=free".to_owned()],
            descriptors,
        })
        .unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        (process, text)
    }

    #[test]
    fn a_child_has_its_environment_and_descriptors_and_no_others() {
        let (read, mut write) = io::pipe().unwrap();
        io::Write::write_all(&mut write, b"handed over\n").unwrap();
        drop(write);
        let script = "echo $WORD; cat <&7; ls /proc/self/fd | tr '\\n' ' '";
        let (process, text) = shell(script, vec![(7, read.into())]);
        // `ls` itself holds one more: the folder that it lists.
        assert_eq!(text, "free\nhanded over\n0 1 2 3 7 ");
        assert_eq!(process::reap(&process.pidfd), Some(0));
    }

    #[test]
    fn the_end_is_told_by_code_or_signal() {
        let (process, _) = shell("exit 3", Vec::new());
        assert_eq!(process::reap(&process.pidfd), Some(3));
        let (process, _) = shell("kill -9 $$", Vec::new());
        assert_eq!(process::reap(&process.pidfd), Some(-9));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_at_once() {
        let command = Command {
            program: Path::new("/nonexistent/program"),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: vec![(0, null()), (1, null()), (2, null())],
        };
        assert_eq!(launch(&command).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
