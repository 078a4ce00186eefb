//! Which files a helper may be given at most, whoever asks. The request comes from a driver, which may be captured: it is
//! judged by what was really opened.

use crate::helpers::{failed, refused};
use bulkhead_sandbox::ceiling::{self, DEVICES, DNSMASQ, POOL};
use bulkhead_wire::control::{Access, FilePurpose, Layout, Response};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::Error;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Is it in a folder of the helper's own? What serves a network's guests has one below the network driver's; a TPM's helpers, whose keys begin with the guest's, also have the folder of its
/// state; what makes TPMs, the certificate authority's.
fn is_own(layout: &Layout, class: &str, key: &str, real: &Path) -> bool {
    let tpms = layout.lib.join("qemu/swtpm");
    let state = key.get(..36).filter(|_| class.starts_with("swtpm")).map(|guest| tpms.join(guest));
    real.starts_with(layout.guest(key))
        || state.is_some_and(|state| real.starts_with(state))
        || class == "swtpm-setup" && real.starts_with(tpms.join("authority"))
        || class == DNSMASQ && real.starts_with(layout.lib.join("network/services").join(key))
}

/// The folders of the stack.
fn ours(layout: &Layout) -> [&PathBuf; 5] {
    [&layout.etc, &layout.run, &layout.log, &layout.cache, &layout.lib]
}

/// Why this file is never given, if it is not.
fn forbidden(layout: &Layout, class: &str, key: &str, real: &Path, writes: bool) -> Option<&'static str> {
    if is_own(layout, class, key, real) {
        return None;
    }
    // Firmware variables of guests, which the qemu driver makes, are the one thing of the stack that is given.
    if ours(layout).iter().any(|folder| real.starts_with(folder)) {
        let state = layout.lib.join("qemu");
        let variables = real.starts_with(&state) && !real.starts_with(state.join("swtpm")) && real.is_file();
        return (!variables).then_some("it belongs to the stack or to another guest");
    }
    ceiling::never_given(real, writes)
}

fn real_path(file: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens a file that a helper asks for, and decides by what was really opened.
pub(crate) fn open_checked(
    class: &str,
    key: &str,
    layout: &Layout,
    path: &Path,
    access: Access,
) -> Result<OwnedFd, Error> {
    let system = |what: &str| format!("Can't {what} {}", path.display());
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(nix::fcntl::AT_FDCWD, path, how).map_err(failed(system("open")))?;
    let real = real_path(&file).map_err(failed(system("look at")))?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let metadata = fs::metadata(&through).map_err(failed(system("look at")))?;
    let refuse = |why: &str| Err(refused(key, format!("{}: {why}", real.display())));
    let kind = metadata.file_type();
    // Here nobody has a reason for a second name, which would hide where a file belongs.
    if kind.is_file() && metadata.nlink() > 1 && ours(layout).iter().any(|folder| real.starts_with(folder)) {
        return refuse("it has another name");
    }
    // A device is judged as one, below.
    let writes = access != Access::Read && !kind.is_char_device();
    if let Some(why) = forbidden(layout, class, key, &real, writes) {
        return refuse(why);
    }
    if ceiling::is_other_name(&metadata) {
        return refuse("it is another name of a file that is never given to a guest");
    }
    if kind.is_char_device() && !DEVICES.iter().any(|device| real == Path::new(device)) {
        return refuse("it is a device that no guest gets");
    }
    if kind.is_block_device() {
        if let Err(error) = ceiling::unused_disk(&through) {
            let why = "this host uses the disk itself, or may not open it";
            return refuse(&format!("{why} ({error}); unmount it first"));
        }
    }
    if kind.is_socket() {
        return refuse("it is a socket; those are opened by the broker");
    }
    let own = is_own(layout, class, key, &real);
    if class == POOL && access == Access::Folder {
        let own = ours(layout).into_iter().find(|own| own.starts_with(&real));
        return match own.cloned().or_else(|| ceiling::never_given_within(&real)) {
            Some(inside) => {
                refuse(&format!("{} lies in it; a pool takes a folder of its own", inside.display()))
            }
            None => Ok(file),
        };
    }
    // What boots over the network reads a folder of the host's.
    let boots = class == DNSMASQ && access == Access::Read && ceiling::never_given_within(&real).is_none();
    if kind.is_dir() && access != Access::Folder && !boots || access == Access::Folder && !own {
        return refuse("a whole folder is given only of the guest's own");
    }
    Ok(file)
}

/// Makes a pool's folder, or removes an empty one, where a pool may be.
pub(crate) fn pool_folder(layout: &Layout, path: &Path, make: bool) -> Result<(), Error> {
    let what = format!("Folder {}", path.display());
    let plain = path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir);
    let above = path.ancestors().find(|above| above.exists()).filter(|_| plain);
    let above = above.ok_or_else(|| refused(POOL, format!("{} is no plain path", path.display())))?;
    let real = above.canonicalize().map_err(failed(&what))?.join(path.strip_prefix(above).unwrap_or(path));
    if let Some(why) = forbidden(layout, POOL, POOL, &real, true) {
        return Err(refused(POOL, format!("{}: {why}", real.display())));
    }
    let mut builder = fs::DirBuilder::new();
    let done = if make { builder.recursive(true).mode(0o711).create(&real) } else { fs::remove_dir(&real) };
    done.map_err(failed(what))
}

/// The folder that a file to be written or removed is in, and its name there, where that may be.
fn folder_of<'a>(key: &str, layout: &Layout, path: &'a Path) -> Result<(OwnedFd, &'a OsStr, PathBuf), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refused(key, format!("{} is no file", path.display())));
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let what = format!("Can't open {}", path.display());
    let folder = openat2(nix::fcntl::AT_FDCWD, parent, how).map_err(failed(&what))?;
    let real = real_path(&folder).map_err(failed(&what))?.join(name);
    match forbidden(layout, "", key, &real, true) {
        Some(why) => Err(refused(key, format!("{}: {why}", real.display()))),
        None => Ok((folder, name, real)),
    }
}

/// Opens or removes a file that a client named, for this helper or, as what a guest could be given, for its driver.
pub(crate) fn client_file(
    layout: &Layout,
    class: &str,
    key: &str,
    path: &Path,
    purpose: FilePurpose,
) -> Result<Response, Error> {
    let what = format!("Can't open {}", path.display());
    let file = match purpose {
        FilePurpose::Fill | FilePurpose::Append => {
            open_output(key, layout, path, purpose == FilePurpose::Append)?
        }
        FilePurpose::Remove => {
            let (folder, name, _) = folder_of(key, layout, path)?;
            unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir).map_err(failed(what))?;
            return Ok(Response::Done);
        }
        FilePurpose::Read | FilePurpose::Change => {
            let writes = purpose == FilePurpose::Change;
            let access = if writes { Access::ReadWrite } else { Access::Read };
            let file = open_checked(class, key, layout, path, access)?;
            let through = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            let opened = OpenOptions::new().read(true).write(writes).custom_flags(flags).open(through);
            opened.map_err(failed(what))?.into()
        }
    };
    Ok(Response::File(Descriptor::new(file)))
}

/// Opens a file that a helper writes to, made if it is not there, in a folder that may be given.
pub(crate) fn open_output(key: &str, layout: &Layout, path: &Path, append: bool) -> Result<OwnedFd, Error> {
    let what = || format!("Can't open {}", path.display());
    let (folder, name, real) = folder_of(key, layout, path)?;
    let refuse = |why: &str| Err(refused(key, format!("{}: {why}", real.display())));
    // Devices act when they are opened already, and what is open can't be emptied before it is known what it is.
    if real.starts_with("/dev") {
        return refuse("a device is no file");
    }
    let flags = OFlag::O_WRONLY
        | OFlag::O_CREAT
        | OFlag::O_CLOEXEC
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | if append { OFlag::O_APPEND } else { OFlag::empty() };
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    let file = File::from(nix::fcntl::openat(&folder, name, flags, mode).map_err(failed(what()))?);
    let metadata = file.metadata().map_err(failed(what()))?;
    if !metadata.is_file() {
        return refuse("it is no plain file");
    }
    if ceiling::is_other_name(&metadata) {
        return refuse("it is another name of a file that is never given to a guest");
    }
    if !append {
        file.set_len(0).map_err(failed(what()))?;
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_captured_driver_asks_for_is_refused() {
        let root = std::env::temp_dir().join(format!("bh-ceiling-{}", std::process::id()));
        let layout = Layout::embed(&root);
        let (own, other) = (layout.guest("own"), layout.guest("other"));
        let network = layout.etc.join("network");
        for folder in [&own, &other, &network] {
            fs::create_dir_all(folder).unwrap();
        }
        for file in [own.join("mine"), other.join("theirs"), network.join("state"), root.join("disk")] {
            fs::write(file, "x").unwrap();
        }
        symlink("/etc/shadow", own.join("link")).unwrap();
        symlink(other.join("theirs"), root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(own.join("socket")).unwrap();
        let open = |path: &Path, access| open_checked("qemu", "own", &layout, path, access).is_ok();
        assert!(open(&own.join("mine"), Access::ReadWrite) && open(&own, Access::Folder));
        assert!(open(&root.join("disk"), Access::ReadWrite));
        for path in [
            "/etc/shadow".into(),
            "/etc/../etc/passwd".into(),
            "/proc/self/mem".into(),
            "/proc/self/root/etc/shadow".into(),
            "/dev/mem".into(),
            "/dev/kmsg".into(),
            "/dev/pts/0".into(),
            "/dev/ptmx".into(),
            own.join("link"),
            own.join("socket"),
            own.join("../other/theirs"),
            root.join("link"),
            network.join("state"),
        ] {
            let path: PathBuf = path;
            assert!(!open(&path, Access::Read), "{}", path.display());
        }
        assert!(!open(&other, Access::Folder) && !open(&root, Access::Folder));
        let later = |class, path: &Path, purpose| client_file(&layout, class, "own", path, purpose).is_ok();
        assert!(later("qemu", &root.join("disk"), FilePurpose::Change));
        assert!(later("qemu", &own.join("mine"), FilePurpose::Read));
        for path in
            ["/etc/shadow".into(), own.join("link"), root.join("link"), network.join("state"), own.clone()]
        {
            let path: PathBuf = path;
            for opening in [FilePurpose::Read, FilePurpose::Change, FilePurpose::Append] {
                assert!(!later("qemu", &path, opening), "{}", path.display());
            }
        }
        let write = |path: &Path| open_output("own", &layout, path, true).is_ok();
        assert!(write(&own.join("log")) && write(&root.join("new")));
        for path in [
            "/etc/bh-test".into(),
            "/usr/bin/bh-test".into(),
            "/dev/bh-test".into(),
            own.join("link"),
            network.join("state"),
            root.join(".bashrc"),
        ] {
            let path: PathBuf = path;
            assert!(!write(&path), "{}", path.display());
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_pool_is_a_folder_in_which_nothing_of_others_lies() {
        let root = std::env::temp_dir().join(format!("bh-ceiling-pool-{}", std::process::id()));
        let layout = Layout::embed(&root);
        let (images, home) = (root.join("images"), root.join("home"));
        for folder in [&images, &home.join(".ssh"), &home.join("images"), &layout.etc] {
            fs::create_dir_all(folder).unwrap();
        }
        symlink(&layout.etc, root.join("link")).unwrap();
        let open = |class, path: &Path| open_checked(class, "pool-1", &layout, path, Access::Folder).is_ok();
        assert!(open("pool", &images) && open("pool", &home.join("images")));
        for path in [
            &root,
            &home,
            &layout.etc,
            &root.join("link"),
            Path::new("/"),
            Path::new("/etc"),
            Path::new("/usr"),
        ] {
            assert!(!open("pool", path), "{}", path.display());
        }
        assert!(!open("qemu", &images) && !open("qemu-img", &images));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_tpm_is_given_to_its_own_helpers_alone() {
        const GUEST: &str = "6f1d9c3e-5a55-4d0e-9a3c-0c2f6a1b7e10";
        let root = std::env::temp_dir().join(format!("bh-ceiling-tpm-{}", std::process::id()));
        let layout = Layout::embed(&root);
        let tpms = layout.lib.join("qemu/swtpm");
        let (own, other, authority) = (tpms.join(GUEST), tpms.join("other"), tpms.join("authority"));
        for folder in [&own, &other, &authority] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("state"), "x").unwrap();
        }
        let key = format!("{GUEST}-swtpm");
        let open =
            |class, key: &str, path: &Path, access| open_checked(class, key, &layout, path, access).is_ok();
        assert!(open("swtpm", &key, &own, Access::Folder) && open("swtpm-setup", &key, &own, Access::Folder));
        assert!(open("swtpm-setup", &key, &authority, Access::Folder));
        assert!(
            !open("swtpm", &key, &authority, Access::Folder) && !open("swtpm", &key, &other, Access::Folder)
        );
        assert!(
            !open("swtpm-setup", &key, &tpms, Access::Folder) && !open("swtpm", "own", &own, Access::Folder)
        );
        for path in [&own, &other, &authority] {
            assert!(!open("qemu", GUEST, path, Access::Folder));
            assert!(!open("qemu", GUEST, &path.join("state"), Access::Read), "{}", path.display());
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
