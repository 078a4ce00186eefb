//! Content: copied with its holes, overwritten, given away in part.

use super::folder::{Folder, errno_of, number};
use crate::protocol::{Failure, Permissions};
use nix::errno::Errno;
use nix::fcntl::{OFlag, copy_file_range};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Gid, Uid, Whence, fchown, fsync, ftruncate, lseek};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Bytes that are read or written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Gives an open file its owner and mode, where they differ.
pub(super) fn grant(file: &impl AsFd, given: Permissions) -> Result<(), Errno> {
    let stat = fstat(file)?;
    let owner = given.owner.filter(|owner| *owner != stat.st_uid).map(Uid::from_raw);
    let group = given.group.filter(|group| *group != stat.st_gid).map(Gid::from_raw);
    if owner.is_some() || group.is_some() {
        fchown(file, owner, group)?;
    }
    // After the owner, whose change takes bits of the mode away.
    match given.mode {
        Some(mode) if mode != stat.st_mode & 0o7777 || owner.is_some() || group.is_some() => {
            fchmod(file, Mode::from_bits_truncate(mode))
        }
        _ => Ok(()),
    }
}

/// Calls `each` for every part of the file that is not a hole.
fn extents(file: &impl AsFd, mut each: impl FnMut(i64, i64) -> Result<(), Errno>) -> Result<i64, Errno> {
    let size = fstat(file)?.st_size;
    let mut at = 0;
    while at < size {
        let begin = match lseek(file, at, Whence::SeekData) {
            Ok(begin) => begin,
            // Nothing but a hole from here on.
            Err(Errno::ENXIO) => break,
            // A file system without holes.
            Err(Errno::EINVAL) => at,
            Err(errno) => return Err(errno),
        };
        let end = lseek(file, begin, Whence::SeekHole).unwrap_or(size).clamp(begin, size);
        each(begin, end)?;
        // A file that shrinks meanwhile must not keep this going.
        at = end.max(begin + 1);
    }
    Ok(size)
}

impl Folder {
    pub(super) fn copy(&self, unfinished: &str, source: &OwnedFd, capacity: u64) -> Result<(), Failure> {
        let failed =
            |errno| super::failure(format_args!("Can't copy to '{unfinished}' in {}", self.path), errno);
        let target = self.fresh(unfinished)?;
        let size = extents(source, |begin, end| copy_part(source, &target, begin, end)).map_err(failed)?;
        let size = size.max(i64::try_from(capacity).map_err(|_| failed(Errno::EFBIG))?);
        ftruncate(&target, size).map_err(failed)?;
        fsync(&target).map_err(failed)
    }

    pub(super) fn wipe(&self, name: &str) -> Result<(), Failure> {
        let failed = |errno| super::failure(format_args!("Can't wipe '{name}' in {}", self.path), errno);
        let file = self.file(name, OFlag::O_RDWR, false).map_err(failed)?;
        let zeros = vec![0; PIECE_BYTES];
        let overwrite = |begin: i64, end: i64| {
            let mut at = begin;
            while at < end {
                let length = PIECE_BYTES.min(number(end - at));
                at += number::<_, i64>(pwrite(&file, zeros.get(..length).unwrap_or(&zeros), at)?);
            }
            Ok(())
        };
        extents(&file, overwrite).map_err(failed)?;
        fsync(&file).map_err(failed)
    }
}

fn copy_part(source: &OwnedFd, target: &OwnedFd, begin: i64, end: i64) -> Result<(), Errno> {
    let (mut from, mut to) = (begin, begin);
    while from < end {
        let left = number(end - from);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), left) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Different file systems, or one that can't.
            Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, begin: i64, end: i64) -> Result<(), Errno> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = begin;
    while at < end {
        let wanted = PIECE_BYTES.min(number(end - at));
        let read = pread(source, piece.get_mut(..wanted).unwrap_or_default(), at)?;
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while let Some(rest) = piece.get(written..read).filter(|rest| !rest.is_empty()) {
            written += pwrite(target, rest, at + number::<_, i64>(written))?;
        }
        at += number::<_, i64>(read);
    }
    Ok(())
}

/// One end of a pipe, through which at most so many bytes of the file go.
pub(super) fn bounded(file: File, write: bool, length: u64) -> io::Result<OwnedFd> {
    let (reading, writing) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
    let (ours, theirs) = if write { (reading, writing) } else { (writing, reading) };
    let pipe = File::from(ours);
    std::thread::Builder::new().spawn(move || {
        let moved = if write { pour(&pipe, &file, length) } else { pour(&file, &pipe, length) };
        if let Err(error) = moved {
            let text = format!("stream: {}\n", errno_of(&error).desc());
            let _ = io::stderr().write_all(text.as_bytes());
        }
    })?;
    Ok(theirs)
}

fn pour(from: &File, to: &File, length: u64) -> io::Result<u64> {
    let mut to = to;
    io::copy(&mut from.take(length), &mut to)
}
