//! What helpers may be given at most, whichever driver asks for it: the classes, and files that are never given. The broker
//! judges each wish by it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a class of helper may be given at most.
#[derive(Debug)]
pub struct Ceiling {
    /// Its name.
    pub class: &'static str,
    /// File names that a program of this class may begin with, in the folders of [`PROGRAM_FOLDERS`].
    programs: &'static [&'static str],
    /// May an instance have the stack's network?
    pub network: bool,
    /// How many may run at one time.
    pub instances_max: usize,
    /// May an instance that runs be given more files?
    pub grows: bool,
    /// The program, if it is one of ours, beside the drivers: then the wish chooses none.
    pub own: Option<&'static str>,
}

const fn class(class: &'static str, programs: &'static [&'static str], instances_max: usize) -> Ceiling {
    Ceiling { class, programs, network: false, instances_max, grows: false, own: None }
}

impl Ceiling {
    /// Does the class list programs of that name?
    #[must_use]
    pub fn lists(&self, name: &str) -> bool {
        self.programs.iter().any(|program| match program.strip_suffix('-') {
            Some(_) => name.starts_with(program) && name.len() > program.len(),
            None => name == *program,
        })
    }
}

/// Where programs of helpers are.
pub const PROGRAM_FOLDERS: &[&str] = &["/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/sbin"];

/// All classes.
pub static CEILINGS: &[Ceiling] = &[
    Ceiling { network: true, grows: true, ..class("qemu", &["qemu-system-"], 4096) },
    class("qemu-probe", &["qemu-system-"], 8),
    class("qemu-img", &["qemu-img"], 16),
    class("swtpm", &["swtpm"], 4096),
    class("swtpm-setup", &["swtpm_setup"], 16),
    Ceiling { own: Some("bulkhead-pool"), ..class(POOL, &[], 4096) },
    Ceiling { network: true, ..class(DNSMASQ, &["dnsmasq"], 4096) },
];

/// The class that serves names and addresses to a network's guests.
pub const DNSMASQ: &str = "dnsmasq";

/// The class that a pool's folder is given to.
pub const POOL: &str = "pool";

/// Ports below are the host's own.
pub const PORT_MIN: u16 = 1024;

/// Never given to any helper.
const NEVER: &[&str] = &[
    "/etc",
    "/proc",
    "/sys",
    "/boot",
    "/run/systemd",
    "/run/dbus",
    "/run/docker.sock",
    "/run/libvirt",
    "/run/bulkhead",
    "/var/lib/bulkhead",
    "/var/log/bulkhead",
    "/var/cache/bulkhead",
    "/var/lib/libvirt/secrets",
    "/var/lib/private",
    "/var/lib/sss",
    "/var/lib/NetworkManager",
    "/var/backups",
    "/var/cache/debconf",
    "/run/credentials",
    "/run/secrets",
    "/dev/pts",
];

/// What lies in the former and may be read.
const BUT_READ: &[&str] = &["/etc/qemu", "/etc/pki/qemu", "/etc/ssl/certs"];

/// Files of which no other name is given either.
const NEVER_BY_ANY_NAME: &[&str] = &["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/passwd"];

/// Never given where they stand in anybody's home.
const SECRETS_OF_USERS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".config",
    ".pki",
    ".mozilla",
    ".password-store",
    ".netrc",
    ".git-credentials",
];

/// Never given for writing: who changes these commands the host.
const NEVER_WRITTEN: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/run",
    "/var/spool",
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/lib/systemd",
    "/var/lib/dbus",
    "/var/lib/polkit-1",
    "/var/lib/sudo",
];

/// What lies in the former and may be written: users' own folders.
const BUT_WRITTEN: &[&str] = &["/run/user", "/run/media"];

/// Device nodes that may be given, besides disks.
pub const DEVICES: &[&str] =
    &["/dev/kvm", "/dev/hwrng", "/dev/random", "/dev/urandom", "/dev/null", "/dev/zero", "/dev/vhost-net"];

/// Variables whose names begin like this make a loader, a library or the program run code or read files of somebody's choice.
const STEERING: &[&str] =
    &["LD_", "GLIBC_", "GCONV_", "LOCPATH", "NLSPATH", "QEMU_MODULE_DIR", "OPENSSL_", "GIO_", "GTK_"];

/// May a helper be given an environment variable of this name?
#[must_use]
pub fn is_fit_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains('=') && !STEERING.iter().any(|begin| name.starts_with(begin))
}

/// Why a file of the host's, by its real path, is never given, if it is not.
#[must_use]
pub fn never_given(real: &Path, writes: bool) -> Option<&'static str> {
    let below = |folders: &[&str]| folders.iter().any(|folder| real.starts_with(folder));
    if below(NEVER) && (writes || !below(BUT_READ)) {
        return Some("it is never given to a guest");
    }
    if real.components().any(|part| SECRETS_OF_USERS.iter().any(|secret| part.as_os_str() == *secret)) {
        return Some("it is a user's secret");
    }
    if !writes {
        return None;
    }
    if below(NEVER_WRITTEN) && !below(BUT_WRITTEN) {
        return Some("it is part of the system, which no guest writes to; put it elsewhere");
    }
    // What shells and programs read at their start.
    let hidden = real.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    hidden.then_some("no guest writes to a hidden file; give it another name")
}

/// What lies in a folder and is never given, so that the whole folder isn't either.
#[must_use]
pub fn never_given_within(folder: &Path) -> Option<PathBuf> {
    let known = NEVER.iter().chain(NEVER_WRITTEN).map(PathBuf::from).find(|never| never.starts_with(folder));
    let mut secrets = SECRETS_OF_USERS.iter().map(|secret| folder.join(secret));
    known.or_else(|| secrets.find(|secret| secret.symlink_metadata().is_ok()))
}

/// Is it a further name of a file of which no other name is given?
#[must_use]
pub fn is_other_name(metadata: &fs::Metadata) -> bool {
    NEVER_BY_ANY_NAME
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .any(|never| (never.dev(), never.ino()) == (metadata.dev(), metadata.ino()))
}

/// Looks whether a disk is free. The kernel refuses this for what is mounted, swapped to, or part of something else: who may
/// read such a disk may read every file of the host.
///
/// # Errors
/// A disk in use, and one of which that can't be told. An empty drive is none.
pub fn unused_disk(path: &Path) -> io::Result<()> {
    let flags = libc::O_EXCL | libc::O_NONBLOCK;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() != Some(libc::ENOMEDIUM) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_keeps_secret_is_never_given() {
        let given = |path: &str, writes| never_given(Path::new(path), writes).is_none();
        for path in ["/srv/disk.img", "/home/a/disk.img", "/run/user/1/disk.img", "/tmp/disk.img"] {
            assert!(given(path, true) && given(path, false), "{path}");
        }
        for path in ["/etc/ssl/certs/x.pem", "/usr/share/OVMF/OVMF_CODE.fd", "/home/a/.face"] {
            assert!(given(path, false) && !given(path, true), "{path}");
        }
        for path in
            ["/etc/shadow", "/var/backups/shadow.bak", "/proc/1/mem", "/home/a/.ssh/id", "/root/.netrc"]
        {
            assert!(!given(path, false) && !given(path, true), "{path}");
        }
    }

    #[test]
    fn variables_that_steer_a_loader_are_unfit_and_programs_are_listed_by_whole_names() {
        assert!(is_fit_variable("LC_ALL") && is_fit_variable("SLIRP_DEBUG"));
        assert!(!is_fit_variable("LD_PRELOAD") && !is_fit_variable("A=B") && !is_fit_variable(""));
        let qemu = CEILINGS.iter().find(|ceiling| ceiling.class == "qemu").expect("there is one");
        assert!(qemu.lists("qemu-system-arm") && !qemu.lists("qemu-system-") && !qemu.lists("qemu-img"));
    }
}
