//! Where a libvirt keeps what it knows, and what lies there. Everything is read, and nothing is changed.

use anyhow::{Context, Result, bail};
use bulkhead_xml::{Element, Limits};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is read of one kind at most: a host has hundreds.
const FILES_MAX: usize = 100_000;
/// What libvirt's state files are named by in its definitions.
const STATE: &str = "/var/lib/libvirt";

/// A libvirt's folders.
#[derive(Debug)]
pub(super) struct Origin {
    /// Definitions.
    etc: PathBuf,
    /// State that outlives a reboot.
    pub(super) state: PathBuf,
    /// TPMs, each in a folder named by its guest's uuid.
    pub(super) tpms: PathBuf,
    /// By this path definitions name `state`, wherever it is mounted now.
    named: PathBuf,
    /// Live state; `None` where it says nothing about this host.
    run: Option<PathBuf>,
}

/// A definition on disk.
#[derive(Debug)]
pub(super) struct Found {
    /// Its name, or that of its file where it has none.
    pub(super) name: String,
    /// Where it lies.
    pub(super) file: PathBuf,
    /// The definition, or what is wrong with it.
    pub(super) root: Result<Element, String>,
    /// Is it started with the host?
    pub(super) autostart: bool,
}

impl Origin {
    /// The host's, below a folder that stands for `/`.
    pub(super) fn host(root: &Path) -> Self {
        Self {
            etc: root.join("etc/libvirt"),
            state: root.join("var/lib/libvirt"),
            tpms: root.join("var/lib/libvirt/swtpm"),
            named: STATE.into(),
            run: Some(root.join("run/libvirt")),
        }
    }

    /// A user's own, by what the environment says of this user's folders.
    pub(super) fn session() -> Result<Self> {
        let home = std::env::var_os("HOME").map(PathBuf::from).context("HOME is not set")?;
        let folder = |name, usual: &str| {
            let set = std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
            set.unwrap_or_else(|| home.join(usual)).join("libvirt")
        };
        let etc = folder("XDG_CONFIG_HOME", ".config");
        let run = std::env::var_os("XDG_RUNTIME_DIR").map(|run| PathBuf::from(run).join("libvirt"));
        // There libvirt has state and definitions in one folder.
        Ok(Self { state: etc.clone(), tpms: etc.join("qemu/swtpm"), named: etc.clone(), etc, run })
    }

    /// Is there anything at all?
    pub(super) fn check(&self) -> Result<()> {
        match fs::read_dir(&self.etc) {
            Ok(_) => Ok(()),
            Err(error) => bail!(
                "{}: {error}; name the folder that has etc/libvirt and var/lib/libvirt in it with --from",
                self.etc.display()
            ),
        }
    }

    /// The definitions in a folder of `etc`, in the order of their names.
    pub(super) fn definitions(&self, folder: &str) -> Result<Vec<Found>> {
        let folder = self.etc.join(folder);
        let mut found = Vec::new();
        for file in files(&folder, "xml")? {
            let root = read(&file).map_err(|error| format!("{error:#}"));
            let named = |root: &Element| root.child_text("name").or_else(|| root.child_text("uuid"));
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let name = root.as_ref().ok().and_then(named).unwrap_or(stem);
            let link = file.file_name().map(|name| folder.join("autostart").join(name));
            // It leads to the definition, by a path of the host that it was made on.
            let autostart = link.is_some_and(|link| fs::symlink_metadata(link).is_ok());
            found.push(Found { name, file, root, autostart });
        }
        Ok(found)
    }

    /// The value of a secret as it is stored.
    pub(super) fn secret(&self, definition: &Path) -> Result<Option<Vec<u8>>> {
        // Twice what a value may be, for its encoding.
        let file = definition.with_extension("base64");
        match read_bounded(&file, 256 << 10) {
            Ok(text) => {
                let value = base64(&text).with_context(|| format!("{}: no base64", file.display()))?;
                Ok(Some(value))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }

    /// Where a state file is that a definition names; `None` for one that is not libvirt's own.
    pub(super) fn state_file(&self, named: &str) -> Option<PathBuf> {
        let rest = Path::new(named).strip_prefix(&self.named).ok()?;
        let plain = rest.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        plain.then(|| self.state.join(rest))
    }

    /// The process of a guest that runs under that libvirt now.
    pub(super) fn process(&self, name: &str) -> Option<u32> {
        let file = self.run.as_ref()?.join("qemu").join(format!("{name}.pid"));
        let pid: u32 = String::from_utf8(read_bounded(&file, 32).ok()?).ok()?.trim().parse().ok()?;
        Path::new("/proc").join(pid.to_string()).exists().then_some(pid)
    }

    /// How many files of a kind lie in a folder of the state.
    pub(super) fn count(&self, folder: &Path, extension: &str) -> usize {
        files(&self.state.join(folder), extension).map_or(0, |files| files.len())
    }

    /// What is there and is nobody's here: kind, name, why it is left.
    pub(super) fn strange(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut left = Vec::new();
        for (kind, folder) in [
            ("container", "lxc"),
            ("Xen domain", "libxl"),
            ("bhyve domain", "bhyve"),
            ("network filter", "nwfilter"),
        ] {
            let count = files(&self.etc.join(folder), "xml").map_or(0, |files| files.len());
            if count > 0 {
                left.push((kind, format!("{count} in {folder}"), "no driver of this stack serves it"));
            }
        }
        for file in files(&self.etc.join("hooks"), "").unwrap_or_default() {
            left.push(("hook", file.display().to_string(), "this stack runs no programs of others"));
        }
        for name in [
            "libvirtd.conf",
            "virtqemud.conf",
            "qemu.conf",
            "network.conf",
            "virtlockd.conf",
            "qemu-lockd.conf",
        ] {
            let text = read_bounded(&self.etc.join(name), 1 << 20).unwrap_or_default();
            let set = |line: &[u8]| line.trim_ascii().first().is_some_and(|first| *first != b'#');
            let count = text.split(|byte| *byte == b'\n').filter(|line| set(line)).count();
            if count > 0 {
                left.push(("settings", format!("{count} in {name}"), "they are about libvirt's own daemons"));
            }
        }
        left
    }
}

/// The files of a folder with that extension, or with any if it is empty; none if there is no such folder.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let wanted = extension.is_empty() || path.extension().is_some_and(|own| own == extension);
        if wanted && path.is_file() {
            if found.len() == FILES_MAX {
                bail!("{} holds more than {FILES_MAX} definitions", folder.display());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(file: &Path) -> Result<Element> {
    let limits = Limits::default();
    let text = read_bounded(file, limits.total_bytes).with_context(|| file.display().to_string())?;
    bulkhead_xml::parse(&text, limits, "domain/metadata").with_context(|| file.display().to_string())
}

fn read_bounded(file: &Path, most_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let most = u64::try_from(most_bytes).unwrap_or(u64::MAX);
    fs::File::open(file)?.take(most.saturating_add(1)).read_to_end(&mut text)?;
    if text.len() > most_bytes {
        return Err(std::io::Error::other(format!("it is larger than {most_bytes} bytes")));
    }
    Ok(text)
}

/// What a text in base64 stands for; `None` if it is none.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    text.truncate(text.len() - padding);
    let digit = |byte: u8| {
        let place = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(u32::from(place))
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0;
        for byte in group {
            bits = bits << 6 | digit(*byte)?;
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend(bits.to_be_bytes().into_iter().skip(1).take(group.len() * 3 / 4));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_from_base64() {
        for (text, value) in [
            ("", &b""[..]),
            ("eA==", b"x"),
            ("eHk=", b"xy"),
            ("c2VjcmV0IG9u\nZQ==\n", b"secret one"),
            ("/+8A", b"\xff\xef\0"),
        ] {
            assert_eq!(base64(text.as_bytes()).as_deref(), Some(value), "{text}");
        }
        for wrong in ["e", "eA=", "e===", "e\u{e9}A=", "eA==eA=="] {
            assert_eq!(base64(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn only_libvirts_own_state_is_a_state_file() {
        let origin = Origin::host(Path::new("/mnt"));
        let of = |named| origin.state_file(named);
        assert_eq!(
            of("/var/lib/libvirt/qemu/nvram/a_VARS.fd"),
            Some(PathBuf::from("/mnt/var/lib/libvirt/qemu/nvram/a_VARS.fd"))
        );
        for other in
            ["/srv/a_VARS.fd", "/var/lib/libvirt/../../../etc/shadow", "qemu/nvram/a", "/var/lib/libvirtx/a"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
