//! Networks, their ports and leases, as libvirt's protocol has them.

use super::{Tap, Uuid};
use serde::{Deserialize, Serialize};

/// A network as libvirt's clients name it. The uuid is what counts; the name is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRef {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
}

/// A port as libvirt's clients name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRef {
    /// Its network.
    pub network: NetworkRef,
    /// Its identity.
    pub uuid: Uuid,
}

/// A guest's interface that was plugged into a network.
#[derive(Debug, Serialize, Deserialize)]
pub struct PortTap {
    /// The tap.
    pub tap: Tap,
    /// The bridge that it is plugged into.
    pub bridge: String,
    /// The port.
    pub port: Uuid,
}

/// A list of networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkList {
    /// They, unless only the number was asked for.
    pub networks: Vec<NetworkRef>,
    /// How many there are.
    pub count: u32,
}

/// A list of ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortList {
    /// They, unless only the number was asked for.
    pub ports: Vec<PortRef>,
    /// How many there are.
    pub count: u32,
}

/// An address that somebody has for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The bridge.
    pub interface: String,
    /// Until when, in seconds since 1970; 0 is for ever.
    pub expiry: i64,
    /// `virIPAddrType`.
    pub kind: i32,
    /// Whose.
    pub mac: Option<String>,
    /// Its identity association, of IPv6.
    pub iaid: Option<String>,
    /// The address.
    pub address: String,
    /// The prefix of its network.
    pub prefix: u32,
    /// What it calls itself.
    pub host_name: Option<String>,
    /// What it says that it is.
    pub client_id: Option<String>,
}

/// A list of leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseList {
    /// They, unless only the number was asked for.
    pub leases: Vec<Lease>,
    /// How many there are.
    pub count: u32,
}

/// A network at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkOverview {
    /// Which.
    pub network: NetworkRef,
    /// Is it active?
    pub active: bool,
    /// Does its definition outlive it?
    pub persistent: bool,
    /// Why it does not serve all that it should, if it does not.
    pub degraded: Option<String>,
}

/// Something that happened to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkEvent {
    /// `VIR_NETWORK_EVENT_ID_LIFECYCLE`.
    Lifecycle {
        /// Which.
        network: NetworkRef,
        /// `virNetworkEventLifecycleType`.
        event: i32,
        /// Its detail.
        detail: i32,
    },
    /// `VIR_NETWORK_EVENT_ID_METADATA_CHANGE`.
    Metadata {
        /// Which.
        network: NetworkRef,
        /// `virNetworkMetadataType`.
        kind: i32,
        /// Whose, for what programs keep there.
        uri: Option<String>,
    },
    /// This subscriber was too slow; so many events are lost. It should look at the present state.
    Lagged {
        /// How many.
        missed: u64,
    },
}
