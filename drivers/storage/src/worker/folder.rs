//! The folder itself: single files are made, opened, changed and removed here, each by its name and the folder's descriptor.

use super::copy::{bounded, grant};
use super::failure;
use crate::image::{HEAD_BYTES, Image, probe};
use crate::protocol::{Failure, Found, Permissions, Status, UNFINISHED};
use bulkhead_wire::descriptor::Descriptor;
use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, posix_fallocate, renameat2,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::sys::uio::pread;
use nix::unistd::{UnlinkatFlags, Whence, fsync, ftruncate, lseek, unlinkat};
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

/// A volume's mode, unless its definition names another.
const DEFAULT_MODE: u32 = 0o600;
/// The permission bits of a mode.
const MODE_BITS: u32 = 0o7777;

/// The pool's folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) handle: OwnedFd,
    pub(super) path: String,
    /// What was seen in which file the last time: nothing is read again that did not change.
    pub(super) seen: Mutex<HashMap<String, Found>>,
}

/// Is this the name of an entry, and of nothing else?
fn check(name: &str) -> Result<(), Failure> {
    let fits = !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\0']);
    if fits { Ok(()) } else { Err(failure(format_args!("name '{name}'"), Errno::EINVAL)) }
}

pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

pub(super) fn number<T, U: TryFrom<T> + Default>(value: T) -> U {
    U::try_from(value).unwrap_or_default()
}

pub(super) fn status_of(stat: &FileStat) -> Status {
    Status {
        size_bytes: number(stat.st_size),
        allocated_bytes: number::<_, u64>(stat.st_blocks).saturating_mul(512),
        mode: stat.st_mode & MODE_BITS,
        owner: stat.st_uid,
        group: stat.st_gid,
        accessed: (stat.st_atime, stat.st_atime_nsec),
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        changed: (stat.st_ctime, stat.st_ctime_nsec),
        inode: stat.st_ino,
    }
}

pub(super) fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

impl Folder {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let handle = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits())
            .open(path)?;
        Ok(Self { handle: handle.into(), path: path.display().to_string(), seen: Mutex::default() })
    }

    fn failed(&self, what: &str, name: &str) -> impl Fn(Errno) -> Failure + use<> {
        let text = format!("Can't {what} '{name}' in {}", self.path);
        move |errno| failure(&text, errno)
    }

    /// Opens an entry that must be a file; a link only if `follow`, and never out of the folder.
    pub(super) fn file(&self, name: &str, flags: OFlag, follow: bool) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let mut flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        if !follow {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
            flags |= OFlag::O_NOFOLLOW;
        }
        // What it is shows before it is opened: a device or a pipe may act by being opened.
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        let looked = fstat(openat2(&self.handle, name, how)?)?;
        if kind_of(&looked) != SFlag::S_IFREG {
            return Err(Errno::EINVAL);
        }
        let file = openat2(&self.handle, name, OpenHow::new().flags(flags).resolve(resolve))?;
        let opened = fstat(&file)?;
        if (opened.st_dev, opened.st_ino) == (looked.st_dev, looked.st_ino) {
            Ok(file)
        } else {
            Err(Errno::ESTALE)
        }
    }

    /// What is there under this name, and whether it is a link.
    pub(super) fn stat(&self, name: &str) -> Result<(FileStat, bool), Errno> {
        let stat = fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind_of(&stat) != SFlag::S_IFLNK {
            return Ok((stat, false));
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        fstat(openat2(&self.handle, name, how)?).map(|stat| (stat, true))
    }

    /// What the file's header says; `None` for what is no volume.
    pub(super) fn image(&self, name: &str, stat: &FileStat, link: bool) -> Result<Image, Errno> {
        // A file without a block is zeros, and a file of zeros has no header.
        if stat.st_blocks == 0 {
            return Ok(Image::default());
        }
        let file = self.file(name, OFlag::O_RDONLY, link)?;
        let mut head = vec![0; HEAD_BYTES.min(number(stat.st_size))];
        let mut filled = 0;
        while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match pread(&file, rest, number(filled)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(probe(head.get(..filled).unwrap_or_default()))
    }

    pub(super) fn look(&self, name: &str, raw: bool) -> Result<Found, Failure> {
        check(name)?;
        let failed = self.failed("look at", name);
        let (stat, link) = self.stat(name).map_err(&failed)?;
        self.found(name, &stat, link, raw).map_err(&failed)?.ok_or_else(|| failed(Errno::EINVAL))
    }

    pub(super) fn make(&self, unfinished: &str, capacity: u64, allocation: u64) -> Result<(), Failure> {
        let failed = self.failed("make", unfinished);
        let file = self.fresh(unfinished)?;
        let size = i64::try_from(capacity).map_err(|_| failed(Errno::EFBIG))?;
        ftruncate(&file, size).map_err(&failed)?;
        let wanted = i64::try_from(allocation.min(capacity)).unwrap_or(size);
        if wanted > 0 {
            posix_fallocate(&file, 0, wanted).map_err(&failed)?;
        }
        fsync(&file).map_err(failed)
    }

    /// A new file that only its user may open.
    pub(super) fn fresh(&self, unfinished: &str) -> Result<OwnedFd, Failure> {
        check(unfinished)?;
        if !unfinished.starts_with(UNFINISHED) {
            return Err(failure(
                format_args!("'{unfinished}' is no name of an unfinished file"),
                Errno::EINVAL,
            ));
        }
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let mode = Mode::from_bits_truncate(DEFAULT_MODE);
        openat(&self.handle, unfinished, flags, mode).map_err(self.failed("make", unfinished))
    }

    pub(super) fn finish(&self, unfinished: &str, name: &str, given: Permissions) -> Result<(), Failure> {
        check(name)?;
        let failed = self.failed("make", name);
        let file = self.file(unfinished, OFlag::O_RDWR, false).map_err(&failed)?;
        grant(&file, given).map_err(&failed)?;
        fsync(&file).map_err(&failed)?;
        renameat2(&self.handle, unfinished, &self.handle, name, RenameFlags::RENAME_NOREPLACE)
            .map_err(&failed)?;
        fsync(&self.handle).map_err(failed)
    }

    pub(super) fn discard(&self, unfinished: &str) -> Result<(), Failure> {
        check(unfinished)?;
        match unlinkat(&self.handle, unfinished, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", unfinished)(errno)),
        }
    }

    pub(super) fn make_folder(&self, name: &str, given: Permissions) -> Result<(), Failure> {
        check(name)?;
        let failed = self.failed("make", name);
        mkdirat(&self.handle, name, Mode::S_IRWXU).map_err(&failed)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let made = openat(&self.handle, name, flags, Mode::empty()).map_err(&failed)?;
        grant(&made, given).map_err(&failed)?;
        fsync(&self.handle).map_err(failed)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Failure> {
        check(name)?;
        let failed = self.failed("remove", name);
        let stat = fstatat(&self.handle, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(&failed)?;
        let how = if kind_of(&stat) == SFlag::S_IFDIR {
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        unlinkat(&self.handle, name, how).map_err(&failed)?;
        fsync(&self.handle).map_err(failed)
    }

    pub(super) fn resize(&self, name: &str, capacity: u64, allocate: bool) -> Result<(), Failure> {
        check(name)?;
        let failed = self.failed("resize", name);
        let file = self.file(name, OFlag::O_RDWR, false).map_err(&failed)?;
        let size = i64::try_from(capacity).map_err(|_| failed(Errno::EFBIG))?;
        let before = fstat(&file).map_err(&failed)?.st_size;
        if allocate && size > before {
            posix_fallocate(&file, before, size - before).map_err(&failed)?;
        }
        ftruncate(&file, size).map_err(&failed)?;
        fsync(&file).map_err(failed)
    }

    /// Opens a file for somebody else. For writing it is locked until he has closed it, which is what `released` waits for.
    pub(super) fn open_for(
        &self,
        name: &str,
        write: bool,
        offset: u64,
        length: u64,
    ) -> Result<Descriptor, Failure> {
        check(name)?;
        let failed = self.failed("open", name);
        let flags = if write { OFlag::O_WRONLY } else { OFlag::O_RDONLY };
        let file = self.file(name, flags, !write).map_err(&failed)?;
        let begin = i64::try_from(offset).map_err(|_| failed(Errno::EINVAL))?;
        lseek(&file, begin, Whence::SeekSet).map_err(&failed)?;
        let file = File::from(file);
        if write {
            file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => failed(Errno::EBUSY),
                TryLockError::Error(error) => failed(errno_of(&error)),
            })?;
        }
        let handed = if length == 0 { Ok(file.into()) } else { bounded(file, write, length) };
        handed.map(Descriptor::new).map_err(|error| failed(errno_of(&error)))
    }

    pub(super) fn released(&self, name: &str) -> Result<(), Failure> {
        check(name)?;
        let failed = self.failed("wait for", name);
        let file = self.file(name, OFlag::O_RDONLY, false).map_err(&failed)?;
        File::from(file).lock().map_err(|error| failed(errno_of(&error)))
    }

    pub(super) fn own(&self, given: Permissions) -> Result<(), Failure> {
        grant(&self.handle, given).map_err(self.failed("set the owner and mode of", "."))
    }
}
