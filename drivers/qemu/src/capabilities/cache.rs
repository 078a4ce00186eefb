//! When a stored answer is still good.

use serde::{Deserialize, Serialize};

/// What the host contributes to a QEMU's capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostFacts {
    /// Whether `/dev/kvm` can be opened.
    pub kvm: bool,
    /// The host CPU's name and stepping.
    pub cpu: String,
    /// Its microcode's version.
    pub microcode: String,
    /// The kernel's release and version.
    pub kernel: String,
}

/// Everything that a QEMU's capabilities depend on; stored answers are used only if their key is equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CacheKey {
    /// The binary's path.
    pub binary: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified: i128,
    /// The host's part.
    pub host: HostFacts,
    /// Our own version: another one may ask or read differently.
    pub version: String,
}

/// Goes up whenever something else is asked or the answers are read otherwise.
const REVISION: u32 = 2;

impl CacheKey {
    /// The key of a binary on a host, for this version of ours.
    #[must_use]
    pub fn new(binary: &str, size: u64, modified: i128, host: HostFacts) -> Self {
        Self {
            binary: binary.to_owned(),
            size,
            modified,
            host,
            version: format!("{}-{REVISION}", env!("CARGO_PKG_VERSION")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let host = HostFacts { kvm: true, cpu: "c".into(), microcode: "1".into(), kernel: "6".into() };
        let key = CacheKey::new("/usr/bin/q", 1, 2, host.clone());
        assert_eq!(key, CacheKey::new("/usr/bin/q", 1, 2, host.clone()));
        let others = [
            CacheKey::new("/usr/bin/r", 1, 2, host.clone()),
            CacheKey::new("/usr/bin/q", 2, 2, host.clone()),
            CacheKey::new("/usr/bin/q", 1, 3, host.clone()),
            CacheKey::new("/usr/bin/q", 1, 2, HostFacts { kvm: false, ..host.clone() }),
            CacheKey::new("/usr/bin/q", 1, 2, HostFacts { microcode: "2".into(), ..host.clone() }),
            CacheKey::new("/usr/bin/q", 1, 2, HostFacts { kernel: "7".into(), ..host.clone() }),
            CacheKey::new("/usr/bin/q", 1, 2, HostFacts { cpu: "d".into(), ..host }),
        ];
        assert!(others.iter().all(|other| *other != key));
    }
}
