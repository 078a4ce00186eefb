//! The storage driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::descriptor::Descriptor;
use crate::types::Uuid;
use crate::types::storage::{PoolInfo, PoolList, PoolOverview, PoolRef, VolumeInfo, VolumeList, VolumeRef};
use std::time::Duration;

calls! {
    driver: Storage;

    /// Number of pools that are active.
    1 connect_num_of_storage_pools() -> i32
        { remote: Some(71), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Names of active pools, so many at most.
    2 connect_list_storage_pools(max_names: i32) -> Vec<String>
        { remote: Some(72), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Number of pools that are defined and not active.
    3 connect_num_of_defined_storage_pools() -> i32
        { remote: Some(73), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Names of pools that are defined and not active, so many at most.
    4 connect_list_defined_storage_pools(max_names: i32) -> Vec<String>
        { remote: Some(74), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Lists pools; `flags` are `virConnectListAllStoragePoolsFlags`.
    5 connect_list_all_storage_pools(need_results: i32, flags: u32) -> PoolList
        { remote: Some(281), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What pools of each type may be made of, as XML.
    6 connect_get_storage_pool_capabilities(flags: u32) -> String
        { remote: Some(403), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// What a pool of that type could be made of, as XML.
    7 connect_find_storage_pool_sources(kind: String, source: Option<String>, flags: u32) -> String
        { remote: Some(75), class: Class::Query, repeatable: true }

    /// Starts a pool that is gone when it stops; `flags` are `virStoragePoolCreateFlags`.
    10 storage_pool_create_xml(xml: String, flags: u32) -> PoolRef
        { remote: Some(76), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Defines a pool, or gives one a new definition. `flags`: 1 refuses what the schema does not know.
    11 storage_pool_define_xml(xml: String, flags: u32) -> PoolRef
        { remote: Some(77), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Starts a defined pool; `flags` are `virStoragePoolCreateFlags`.
    12 storage_pool_create(pool: PoolRef, flags: u32) -> ()
        { remote: Some(78), deadline: Duration::from_secs(60) }
    /// Makes what a pool stands on; `flags` are `virStoragePoolBuildFlags`.
    13 storage_pool_build(pool: PoolRef, flags: u32) -> ()
        { remote: Some(79), deadline: Duration::from_secs(60) }
    /// Stops a pool. What is in it stays.
    14 storage_pool_destroy(pool: PoolRef) -> ()
        { remote: Some(80), deadline: Duration::from_secs(60) }
    /// Removes what an inactive pool stands on.
    15 storage_pool_delete(pool: PoolRef, flags: u32) -> ()
        { remote: Some(81), deadline: Duration::from_secs(60) }
    /// Removes the definition of an inactive pool.
    16 storage_pool_undefine(pool: PoolRef) -> ()
        { remote: Some(82), deadline: Duration::from_secs(60) }
    /// Looks what is in a pool now.
    17 storage_pool_refresh(pool: PoolRef, flags: u32) -> ()
        { remote: Some(83), deadline: Duration::from_secs(60), repeatable: true }
    /// Finds a pool by its name.
    18 storage_pool_lookup_by_name(name: String) -> PoolRef
        { remote: Some(84), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a pool by its uuid.
    19 storage_pool_lookup_by_uuid(uuid: Uuid) -> PoolRef
        { remote: Some(85), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds the pool of a volume.
    20 storage_pool_lookup_by_volume(volume: VolumeRef) -> PoolRef
        { remote: Some(86), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds an active pool by the folder that it shows.
    21 storage_pool_lookup_by_target_path(path: String) -> PoolRef
        { remote: Some(391), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// State and size.
    22 storage_pool_get_info(pool: PoolRef) -> PoolInfo
        { remote: Some(87), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The definition; `flags`: 1 asks for what the next start uses.
    23 storage_pool_get_xml_desc(pool: PoolRef, flags: u32) -> String
        { remote: Some(88), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Is it started with the stack?
    24 storage_pool_get_autostart(pool: PoolRef) -> i32
        { remote: Some(89), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Starts it with the stack, or no longer.
    25 storage_pool_set_autostart(pool: PoolRef, autostart: i32) -> ()
        { remote: Some(90), repeatable: true }
    /// Is it active?
    26 storage_pool_is_active(pool: PoolRef) -> i32
        { remote: Some(154), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Does its definition outlive it?
    27 storage_pool_is_persistent(pool: PoolRef) -> i32
        { remote: Some(155), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Number of volumes in an active pool.
    28 storage_pool_num_of_volumes(pool: PoolRef) -> i32
        { remote: Some(91), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Names of volumes in an active pool, so many at most.
    29 storage_pool_list_volumes(pool: PoolRef, max_names: i32) -> Vec<String>
        { remote: Some(92), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Lists the volumes of an active pool.
    30 storage_pool_list_all_volumes(pool: PoolRef, need_results: i32, flags: u32) -> VolumeList
        { remote: Some(282), permission: Permission::Read, class: Class::Query, repeatable: true }

    /// Makes a volume; `flags` are `virStorageVolCreateFlags`.
    40 storage_vol_create_xml(pool: PoolRef, xml: String, flags: u32) -> VolumeRef
        { remote: Some(93), class: Class::Job, deadline: Duration::ZERO, body_max_bytes: 8 << 20 }
    /// Makes a volume with the content of another one.
    41 storage_vol_create_xml_from(pool: PoolRef, xml: String, source: VolumeRef, flags: u32) -> VolumeRef
        { remote: Some(125), class: Class::Job, deadline: Duration::ZERO, body_max_bytes: 8 << 20 }
    /// Removes a volume with its content.
    42 storage_vol_delete(volume: VolumeRef, flags: u32) -> ()
        { remote: Some(94), deadline: Duration::from_secs(60) }
    /// Changes a volume's capacity; `flags` are `virStorageVolResizeFlags`.
    43 storage_vol_resize(volume: VolumeRef, capacity: u64, flags: u32) -> ()
        { remote: Some(260), class: Class::Job, deadline: Duration::ZERO }
    /// Overwrites a volume's content with zeros.
    44 storage_vol_wipe(volume: VolumeRef, flags: u32) -> ()
        { remote: Some(165), class: Class::Job, deadline: Duration::ZERO }
    /// Overwrites a volume's content; `algorithm` is a `virStorageVolWipeAlgorithm`.
    45 storage_vol_wipe_pattern(volume: VolumeRef, algorithm: u32, flags: u32) -> ()
        { remote: Some(259), class: Class::Job, deadline: Duration::ZERO }
    /// Opens a volume for new content, from `offset` on; the volume is busy until the descriptor is closed.
    46 storage_vol_upload(volume: VolumeRef, offset: u64, length: u64, flags: u32) -> Descriptor
        { remote: Some(208), stream: true }
    /// Opens a volume for reading, from `offset` on.
    47 storage_vol_download(volume: VolumeRef, offset: u64, length: u64, flags: u32) -> Descriptor
        { remote: Some(209), stream: true, repeatable: true }
    /// Finds a volume by its name in a pool.
    50 storage_vol_lookup_by_name(pool: PoolRef, name: String) -> VolumeRef
        { remote: Some(95), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a volume by its key in any active pool.
    51 storage_vol_lookup_by_key(key: String) -> VolumeRef
        { remote: Some(96), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a volume by its path in any active pool.
    52 storage_vol_lookup_by_path(path: String) -> VolumeRef
        { remote: Some(97), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Type and sizes.
    53 storage_vol_get_info(volume: VolumeRef) -> VolumeInfo
        { remote: Some(98), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Type and sizes; `flags`: 1 asks for the physical size instead of the allocation.
    54 storage_vol_get_info_flags(volume: VolumeRef, flags: u32) -> VolumeInfo
        { remote: Some(378), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// All that is known of a volume, as XML.
    55 storage_vol_get_xml_desc(volume: VolumeRef, flags: u32) -> String
        { remote: Some(99), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Where a volume lies.
    56 storage_vol_get_path(volume: VolumeRef) -> String
        { remote: Some(100), permission: Permission::Read, class: Class::Query, repeatable: true }

    /// From now on this channel carries the driver's events.
    90 events_subscribe() -> ()
        { permission: Permission::Read, class: Class::Query, repeatable: true }
    /// All pools at a glance, for those who keep a picture of them.
    91 pools_overview() -> Vec<PoolOverview>
        { permission: Permission::Read, class: Class::Query, repeatable: true }
}
