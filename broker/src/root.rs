//! The root of a stack: its folders, and the lock that one process at a time holds on it.

use bulkhead_wire::control::Layout;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The three ways a stack runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For the host.
    System,
    /// For a user.
    Session,
    /// For one application, below one folder.
    Embed,
}

impl Mode {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Session => "session",
            Self::Embed => "embed",
        }
    }
}

/// Why a root can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The path can't be a root.
    #[error("Root {}: {reason}", .path.display())]
    Unfit {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another process has it open.
    #[error("Root {} is open in process {pid}; close it there, or reach that stack with 'bulkhead --root'", .path.display())]
    Busy {
        /// The path.
        path: PathBuf,
        /// The holder.
        pid: i32,
    },
    /// A folder or the lock can't be made.
    #[error("Root {}: {what}: {source}; choose a folder that user {} may write to", .path.display(), nix::unistd::geteuid())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Longest path of a unix socket, with the zero at its end.
const SOCKET_PATH_MAX_BYTES: usize = 108;
/// Longest name of a root: a path of the system's ends at 4,096 bytes, and guests' names may be long.
const ROOT_MAX_BYTES: usize = 2048;

/// An open root. The lock lives as long as this.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) layout: Layout,
    _lock: File,
}

/// Is this path fit to be a root? Checked before anything is made.
///
/// # Errors
/// See [`RootError::Unfit`].
pub fn check(path: &Path) -> Result<(), RootError> {
    let unfit = |reason: &str| Err(RootError::Unfit { path: path.to_owned(), reason: reason.to_owned() });
    if !path.is_absolute() {
        return unfit("it must be an absolute path");
    }
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().any(|byte| *byte < b' ' || *byte == 0x7f) {
        return unfit(
            "its name holds control characters, which files below it would carry into configuration texts",
        );
    }
    if bytes.len() > ROOT_MAX_BYTES {
        return unfit(&format!(
            "its name is longer than {ROOT_MAX_BYTES} bytes; files below it could not be named"
        ));
    }
    if path.parent().is_none() {
        return unfit("it is the host's own root; choose a folder of its own");
    }
    if std::str::from_utf8(bytes).is_err() {
        return unfit("its name is not UTF-8, so XML can't name files below it");
    }
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return unfit("it must not contain '..'");
    }
    Ok(())
}

impl Root {
    /// Makes the folders and takes the lock.
    pub(crate) fn open(path: &Path, mut layout: Layout) -> Result<Self, RootError> {
        let failed = |what: &str| {
            let (path, what) = (path.to_owned(), what.to_owned());
            move |source| RootError::Io { path, what, source }
        };
        for folder in [&mut layout.etc, &mut layout.lib, &mut layout.run, &mut layout.log, &mut layout.cache]
        {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&*folder);
            // Without symbolic links: what a helper may be given is decided by files' real names.
            *folder = made
                .and_then(|()| fs::canonicalize(&*folder))
                .map_err(failed(&format!("can't make the folder {}", folder.display())))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(layout.run.join("lock"))
            .map_err(failed("can't open its lock"))?;
        // A classic lock, on purpose: it belongs to the process, so a forked child of the application does not keep it.
        let mut wanted = libc::flock {
            l_type: i16::try_from(libc::F_WRLCK).unwrap_or(1),
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        if fcntl(&file, FcntlArg::F_SETLK(&wanted)).is_err() {
            fcntl(&file, FcntlArg::F_GETLK(&mut wanted))
                .map_err(io::Error::from)
                .map_err(failed("can't ask for its lock"))?;
            return Err(RootError::Busy { path: path.to_owned(), pid: wanted.l_pid });
        }
        let root = Self { path: path.to_owned(), layout, _lock: file };
        for folder in ["guests", "broker", "broker/helpers", "broker/drivers", "broker/aside"] {
            let folder = root.layout.run.join(folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(failed(&format!("can't make the folder {}", folder.display())))?;
        }
        Ok(root)
    }

    /// The folders of one driver, made if they are not there.
    pub(crate) fn driver_folders(&self, name: &str) -> io::Result<bulkhead_sandbox::profiles::Folders> {
        // A root's own lock has the shorter name.
        let name = if name == "lock" { "lockd" } else { name };
        let folders = bulkhead_sandbox::profiles::Folders {
            etc: self.layout.etc.join(name),
            lib: self.layout.lib.join(name),
            run: self.layout.run.join(name),
            cache: self.layout.cache.join(name),
            log: self.layout.log.clone(),
        };
        for folder in [&folders.etc, &folders.lib, &folders.run, &folders.cache] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(folders)
    }
}

/// A way to name a socket that is short enough for the system, whatever the root's length: through a descriptor of its
/// folder. The name is good in this process and as long as the descriptor is open.
///
/// # Errors
/// When the folder can't be opened.
pub fn short_socket_path(folder: &Path, name: &str) -> io::Result<(PathBuf, Option<File>)> {
    let whole = folder.join(name);
    if whole.as_os_str().len() < SOCKET_PATH_MAX_BYTES {
        return Ok((whole, None));
    }
    let handle = File::open(folder)?;
    let short =
        PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle))).join(name);
    Ok((short, Some(handle)))
}

/// Writes a small file of the broker's own: sibling, then rename.
pub(crate) fn write_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let sibling = path.with_extension("new");
    fs::write(&sibling, text)?;
    fs::rename(&sibling, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_roots_work_or_are_refused_with_the_reason() {
        for good in ["/tmp/a b", "/tmp/a,b", "/tmp/a%20b", &format!("/tmp/{}", "x".repeat(200))] {
            assert!(check(Path::new(good)).is_ok(), "{good}");
        }
        for (bad, reason) in [
            ("relative", "absolute"),
            ("/tmp/a\nb", "control"),
            ("/tmp/../etc", "'..'"),
            ("/", "own root"),
            (&format!("/tmp{}", "/x".repeat(1024)), "longer"),
        ] {
            assert!(check(Path::new(bad)).unwrap_err().to_string().contains(reason), "{bad}");
        }
    }
}
