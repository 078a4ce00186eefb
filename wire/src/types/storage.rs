//! Pools and volumes as libvirt's protocol has them.

use super::Uuid;
use serde::{Deserialize, Serialize};

/// A pool as libvirt's clients name it. The uuid is what counts; the name is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRef {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
}

/// A volume as libvirt's clients name it. Pool and name are what counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRef {
    /// Its pool's name.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// What it is known by among all pools.
    pub key: String,
}

/// A list of pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolList {
    /// They, unless only the number was asked for.
    pub pools: Vec<PoolRef>,
    /// How many there are.
    pub count: u32,
}

/// A list of volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeList {
    /// They, unless only the number was asked for.
    pub volumes: Vec<VolumeRef>,
    /// How many there are.
    pub count: u32,
}

/// What `virStoragePoolGetInfo` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// `virStoragePoolState`.
    pub state: u8,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes that are used.
    pub allocation_bytes: u64,
    /// Bytes that are free.
    pub available_bytes: u64,
}

/// What `virStorageVolGetInfo` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// `virStorageVolType`.
    pub kind: i8,
    /// Bytes that a guest sees.
    pub capacity_bytes: u64,
    /// Bytes that it takes.
    pub allocation_bytes: u64,
}

/// A pool at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolOverview {
    /// Who.
    pub pool: PoolRef,
    /// Is it active?
    pub active: bool,
    /// Does its definition outlive it?
    pub persistent: bool,
}

/// Something that happened to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PoolEvent {
    /// `VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE`.
    Lifecycle {
        /// Who.
        pool: PoolRef,
        /// `virStoragePoolEventLifecycleType`.
        event: i32,
        /// Its detail.
        detail: i32,
    },
    /// `VIR_STORAGE_POOL_EVENT_ID_REFRESH`.
    Refresh {
        /// Who.
        pool: PoolRef,
    },
    /// This subscriber was too slow; so many events are lost. It should look at the present state.
    Lagged {
        /// How many.
        missed: u64,
    },
}
