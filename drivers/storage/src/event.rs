//! Events of pools.

use bulkhead_wire::types::storage::{PoolEvent, PoolRef};

/// `virStoragePoolEventLifecycleType`.
pub(crate) const DEFINED: i32 = 0;
pub(crate) const UNDEFINED: i32 = 1;
pub(crate) const STARTED: i32 = 2;
pub(crate) const STOPPED: i32 = 3;
pub(crate) const CREATED: i32 = 4;
pub(crate) const DELETED: i32 = 5;

/// A turn in a pool's life.
pub(crate) fn lifecycle(pool: PoolRef, event: i32) -> PoolEvent {
    PoolEvent::Lifecycle { pool, event, detail: 0 }
}

/// What is in a pool was looked at.
pub(crate) fn refresh(pool: PoolRef) -> PoolEvent {
    PoolEvent::Refresh { pool }
}
