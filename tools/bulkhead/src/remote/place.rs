//! Where a daemon that speaks libvirt's protocol is found.

use crate::{OpenError, Uri, Which};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where Bulkhead's own daemon serves libvirt's clients if it runs beside libvirt, and where libvirt's are.
const SYSTEM: [&str; 2] = ["/run/bulkhead-clients", "/run/libvirt"];
/// The socket of a daemon that serves QEMU alone, and of one that serves everything. The first that is there is taken.
const NAMES: [&str; 2] = ["virtqemud-sock", "libvirt-sock"];

/// A daemon's socket, and what is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The socket.
    pub(crate) path: PathBuf,
    /// The URI, as the daemon knows it.
    pub(crate) uri: &'static str,
    /// Is this client to be kept from changing things?
    pub(crate) read_only: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the daemon at {}", self.path.display())
    }
}

impl Place {
    /// The place that a URI means. A socket that is there may still have nobody behind it.
    pub(crate) fn find(uri: &Uri, read_only: bool) -> Result<Self, OpenError> {
        let system = uri.stack == Which::System;
        let path = match &uri.socket {
            Some(path) => path.clone(),
            None => {
                // As libvirt's clients have it: a user's own daemon has one socket, and is told what the client wants.
                let suffix = if read_only && system { "-ro" } else { "" };
                let folders = if system { SYSTEM.map(PathBuf::from).to_vec() } else { vec![session()?] };
                first(&folders, suffix)
            }
        };
        let uri = if system { "qemu:///system" } else { "qemu:///session" };
        Ok(Self { path, uri, read_only })
    }
}

fn first(folders: &[PathBuf], suffix: &str) -> PathBuf {
    let all = || {
        let named = |folder: &PathBuf| NAMES.map(|name| folder.join(format!("{name}{suffix}")));
        folders.iter().flat_map(named)
    };
    // Where there is none, the last is what a person looks for.
    all().find(|path| path.exists()).or_else(|| all().next_back()).unwrap_or_default()
}

/// The folder of this user's sockets.
fn session() -> Result<PathBuf, OpenError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || Some(variable("HOME")?.join(".cache"));
    let folder = variable("XDG_RUNTIME_DIR").or_else(cache).ok_or(OpenError::NoHome("HOME"))?;
    Ok(folder.join("libvirt"))
}

/// Where the same stack's owner has its control socket, if the stack is of ours: beside the socket below a private root, at
/// its own place otherwise.
pub(crate) fn run_folder(place: &Path, usual: Option<PathBuf>, named: bool) -> Option<PathBuf> {
    if named {
        let beside = place.parent()?;
        let below = beside.parent().map(|folder| folder.join("bulkhead"));
        let there = |folder: &PathBuf| folder.join(bulkhead_broker::control::SOCKET).exists();
        return Some(below.filter(there).unwrap_or_else(|| beside.to_owned()));
    }
    usual
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_socket_that_is_there_is_taken() {
        let folder = std::env::temp_dir().join(format!("bh-place-{}", std::process::id()));
        let (ours, theirs) = (folder.join("ours"), folder.join("theirs"));
        std::fs::create_dir_all(&theirs).expect("the folder can be made");
        let folders = [ours, theirs.clone()];
        assert_eq!(first(&folders, "-ro"), theirs.join("libvirt-sock-ro"));
        for name in ["libvirt-sock", "virtqemud-sock"] {
            std::fs::write(theirs.join(name), "").expect("the file can be written");
            assert_eq!(first(&folders, ""), theirs.join(name));
        }
        std::fs::remove_dir_all(folder).expect("the folder can be removed");
    }
}
