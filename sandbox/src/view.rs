//! A process's own view of the file system: a new root that holds what the profile names, at the same paths, and nothing
//! else. What Landlock can't hide (unix sockets by path, `stat`, `chmod`) is not there to be named.

use crate::profile::{Access, Place, Profile};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const OLD: &str = "/.old";
/// Where programs have their temporary files.
pub(crate) const SCRATCH: &str = "/tmp";

/// Makes the new root and moves into it. The process must be in a mount namespace of its own.
pub(crate) fn enter(profile: &Profile) -> io::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // Any folder that is always there will do: what the new root hides comes back below OLD.
    let base = Path::new("/tmp");
    mount(
        Some("bulkhead"),
        base,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755,size=1m"),
    )?;
    fs::create_dir(base.join(OLD.trim_start_matches('/')))?;
    pivot_root(base, &base.join(OLD.trim_start_matches('/')))?;
    chdir("/")?;
    if profile.scratch.is_some() {
        fs::create_dir(SCRATCH)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("scratch"), SCRATCH, Some("tmpfs"), flags, Some("mode=0700,size=16m"))?;
    }
    for rule in &profile.files {
        match &rule.place {
            // The right to what is shown comes from the descriptor: what lies at the path by now decides nothing.
            Place::Path(path) | Place::Shown(_, path) => show(path, rule.access)?,
            Place::Opened(_) => {}
        }
    }
    umount2(OLD, MntFlags::MNT_DETACH)?;
    fs::remove_dir(OLD)?;
    let read_only =
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, "/", none, read_only, none)?;
    Ok(())
}

/// Puts terminals of the process's own where everybody's were. The process must be in a mount namespace of its own.
pub(crate) fn own_terminals() -> io::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), "/dev/pts", Some("devpts"), flags, Some("newinstance,ptmxmode=0666,mode=0600"))?;
    mount(Some("/dev/pts/ptmx"), "/dev/ptmx", none, MsFlags::MS_BIND, none)?;
    Ok(())
}

fn show(path: &Path, access: Access) -> io::Result<()> {
    let relative = path
        .strip_prefix("/")
        .map_err(|_| io::Error::other(format!("{} is no absolute path", path.display())))?;
    let old: PathBuf = Path::new(OLD).join(relative);
    // What does not exist can't be granted; the profile's reader knows which rules are optional on which hosts.
    let Ok(metadata) = fs::metadata(&old) else {
        return Ok(());
    };
    if metadata.is_dir() {
        fs::create_dir_all(path)?;
    } else {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if !path.exists() {
            fs::File::create(path)?;
        }
    }
    let none: Option<&str> = None;
    mount(Some(old.as_path()), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    // In a user namespace the flags that the mount had are locked: they must be named again.
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID;
    let present = statvfs(path)?.flags();
    for (flag, same) in [
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        if present.contains(flag) {
            flags |= same;
        }
    }
    if matches!(access, Access::Read | Access::Execute) {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(none, path, none, flags, none)?;
    Ok(())
}
