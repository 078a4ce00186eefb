//! What each driver is and may ask for, as data: who may call whom, which helpers, how it is kept alive.
//!
//! The sandbox half of a manifest, what the process itself may do, stands in `bulkhead_sandbox::profiles`.

use bulkhead_wire::table::Driver;
use std::time::Duration;

/// One driver.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Which.
    pub driver: Driver,
    /// Its program's file name.
    pub program: &'static str,
    /// Whose calls it may make. Together these form a graph without cycles: nothing can wait in a circle.
    pub calls: &'static [Driver],
    /// The classes of helper it may ask for.
    pub helpers: &'static [&'static str],
    /// What drivers that it calls may give it, in their words: the uses for which it gets values of secrets.
    pub grants: &'static [(Driver, &'static [&'static str])],
    /// The credential that the host's service manager may have for it.
    pub credential: Option<&'static str>,
    /// Descriptors it may have deposited at one time.
    pub deposits_max: usize,
    /// Time from start to ready.
    pub ready_within: Duration,
    /// Time between two heartbeats.
    pub heartbeat_every: Duration,
    /// Time in which a heartbeat must be answered.
    pub heartbeat_within: Duration,
    /// Time to leave in order when asked to.
    pub stop_within: Duration,
    /// Shorter lives than this are restarted with a pause.
    pub min_uptime: Duration,
}

const fn manifest(driver: Driver, program: &'static str) -> Manifest {
    Manifest {
        driver,
        program,
        calls: &[],
        helpers: &[],
        grants: &[],
        credential: None,
        deposits_max: 64,
        ready_within: Duration::from_secs(20),
        heartbeat_every: Duration::from_millis(1000),
        heartbeat_within: Duration::from_millis(3000),
        stop_within: Duration::from_secs(3),
        min_uptime: Duration::from_millis(500),
    }
}

/// All drivers, in the order in which they are started.
pub static MANIFESTS: &[Manifest] = &[
    // A pipe for each guest, and one for its TPM.
    Manifest { deposits_max: 8192, ..manifest(Driver::Log, "bulkhead-log") },
    Manifest { helpers: &["dnsmasq"], ..manifest(Driver::Network, "bulkhead-network") },
    Manifest {
        credential: Some("bulkhead-secret-key"),
        // One for each ephemeral secret, which is stored nowhere else.
        deposits_max: 1024,
        ..manifest(Driver::Secret, "bulkhead-secret")
    },
    // Each guest's disks, with who has them and its process.
    Manifest { deposits_max: 16_384, ..manifest(Driver::Lock, "bulkhead-lock") },
    Manifest {
        calls: &[Driver::Network, Driver::Log, Driver::Secret, Driver::Lock],
        grants: &[(Driver::Secret, &["volume", "ceph", "iscsi", "tls", "vtpm"])],
        helpers: &["qemu", "qemu-probe", "qemu-img", "swtpm", "swtpm-setup"],
        deposits_max: 4096,
        ..manifest(Driver::Qemu, "bulkhead-qemu")
    },
    Manifest { helpers: &["pool", "qemu-img"], ..manifest(Driver::Storage, "bulkhead-storage") },
    Manifest {
        calls: &[Driver::Qemu, Driver::Network, Driver::Secret, Driver::Storage],
        ..manifest(Driver::Gateway, "bulkhead-gateway")
    },
];

/// The manifest of a driver, if this stack has it.
#[must_use]
pub fn of(driver: Driver) -> Option<&'static Manifest> {
    MANIFESTS.iter().find(|manifest| manifest.driver == driver)
}

/// All programs of ours that a stack needs: the drivers, and what is started as a helper.
pub fn programs() -> impl Iterator<Item = &'static str> {
    MANIFESTS.iter().map(|manifest| manifest.program).chain(["bulkhead-launch", "bulkhead-pool"])
}

/// How often a driver may die before it is taken out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// So many deaths ...
    pub deaths: usize,
    /// ... within this time.
    pub within: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { deaths: 5, within: Duration::from_secs(30) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_graph_has_no_cycle() {
        // Each driver may only call what is started before it.
        for (index, manifest) in MANIFESTS.iter().enumerate() {
            for called in manifest.calls {
                assert!(
                    MANIFESTS[..index].iter().any(|earlier| earlier.driver == *called),
                    "{} calls {called}, which does not stand before it",
                    manifest.driver
                );
            }
        }
    }
}
