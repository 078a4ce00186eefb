//! The secret driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::types::Uuid;
use crate::types::secret::{KeyRotation, SecretList, SecretLookup, SecretRef, SecretValue};
use std::time::Duration;

/// Longest value of a secret, as libvirt's protocol has it.
pub const VALUE_MAX_BYTES: usize = 65_536;

calls! {
    driver: Secret;

    /// Defines a secret, or gives one a new definition; its value stays. `flags`: 1 refuses what the schema does not know.
    1 secret_define_xml(xml: String, flags: u32) -> SecretRef
        { remote: Some(142), deadline: Duration::from_secs(60), body_max_bytes: 8 << 20 }
    /// Removes a secret with its value.
    2 secret_undefine(secret: SecretRef) -> ()
        { remote: Some(146), deadline: Duration::from_secs(60) }
    /// Gives a secret a value, or another one.
    3 secret_set_value(secret: SecretRef, value: SecretValue, flags: u32) -> ()
        { remote: Some(144), deadline: Duration::from_secs(60), body_max_bytes: 256 << 10, sensitive: true, repeatable: true }
    /// The value, unless the secret is private: no client is ever told that.
    4 secret_get_value(secret: SecretRef, flags: u32) -> SecretValue
        { remote: Some(145), class: Class::Query, sensitive: true, repeatable: true }
    /// Number of secrets.
    10 connect_num_of_secrets() -> i32
        { remote: Some(139), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Uuids of secrets, as texts, so many at most.
    11 connect_list_secrets(max_uuids: i32) -> Vec<String>
        { remote: Some(140), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Lists secrets; `flags` are `virConnectListAllSecretsFlags`.
    12 connect_list_all_secrets(need_results: i32, flags: u32) -> SecretList
        { remote: Some(287), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a secret by its uuid.
    13 secret_lookup_by_uuid(uuid: Uuid) -> SecretRef
        { remote: Some(141), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// Finds a secret by what it is for.
    14 secret_lookup_by_usage(usage_type: i32, usage_id: String) -> SecretRef
        { remote: Some(147), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The definition. It never holds the value.
    15 secret_get_xml_desc(secret: SecretRef, flags: u32) -> String
        { remote: Some(143), permission: Permission::Read, class: Class::Query, repeatable: true }
    /// The value of a secret for a use that the calling driver's manifest grants, private or not.
    20 secret_value_for(secret: SecretLookup, usage_type: i32) -> SecretValue
        { permission: Permission::Driver, class: Class::Query, sensitive: true, repeatable: true }
    /// Stores all values under a new key and forgets the old one. Can be ended at any moment and called again.
    21 secret_rotate_key() -> KeyRotation
        { class: Class::Job, deadline: Duration::ZERO }
    /// From now on this channel carries the driver's events.
    50 events_subscribe() -> ()
        { permission: Permission::Read, class: Class::Query, repeatable: true }
}
