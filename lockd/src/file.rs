//! Locks of files: of the byte that virtlockd locks too, so that hosts with either exclude one another.

use libc::{F_RDLCK, F_WRLCK, SEEK_SET, c_short};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// The byte that stands for the whole file, and how many.
const LEASE_BYTE: libc::off_t = 0;
const LEASE_BYTES: libc::off_t = 1;

/// Which file it is, whatever it is called.
pub(crate) type Identity = (u64, u64);

/// Tells a file from all others of this host.
pub(crate) fn identity(file: &File) -> io::Result<Identity> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// What came of an attempt to lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// It is locked, for as long as somebody has the file open by this descriptor or a copy of it.
    Ours,
    /// Somebody has a lock that excludes it: a process of this host by its number, or, without one, who knows who.
    Others(Option<i32>),
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the system's constants are small and its field is a short"
)]
fn lock_of(shared: bool) -> libc::flock {
    libc::flock {
        l_type: if shared { F_RDLCK as c_short } else { F_WRLCK as c_short },
        l_whence: SEEK_SET as c_short,
        l_start: LEASE_BYTE,
        l_len: LEASE_BYTES,
        l_pid: 0,
    }
}

/// Locks a file, if nobody else has.
pub(crate) fn lock(file: &File, shared: bool) -> io::Result<Locked> {
    let mut lock = lock_of(shared);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => return Ok(Locked::Ours),
        Err(Errno::EAGAIN | Errno::EACCES) => {}
        Err(error) => return Err(error.into()),
    }
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    // A lock that belongs to an open file has no process's number.
    Ok(Locked::Others(Some(lock.l_pid).filter(|pid| *pid > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn writers_exclude_everybody_and_readers_one_another_not() {
        let path = std::env::temp_dir().join(format!("bh-lock-{}", std::process::id()));
        std::fs::write(&path, "x").unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (one, two) = (open(), open());
        assert_eq!(identity(&one).unwrap(), identity(&two).unwrap());
        assert_eq!(lock(&one, false).unwrap(), Locked::Ours);
        assert_eq!(lock(&two, false).unwrap(), Locked::Others(None));
        assert_eq!(lock(&two, true).unwrap(), Locked::Others(None));
        // A copy is the same lock, and holds it alone.
        let copy = one.try_clone().unwrap();
        drop(one);
        assert_eq!(lock(&two, true).unwrap(), Locked::Others(None));
        drop(copy);
        assert_eq!(lock(&two, true).unwrap(), Locked::Ours);
        let three = open();
        assert_eq!(lock(&three, true).unwrap(), Locked::Ours);
        assert_eq!(lock(&three, false).unwrap(), Locked::Others(None));
        std::fs::remove_file(path).unwrap();
    }
}
