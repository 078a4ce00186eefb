//! The lock driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::descriptor::Descriptor;
use crate::types::Uuid;
use crate::types::lock::{LeaseInfo, LeaseOwner, LeaseWanted};
use std::time::Duration;

calls! {
    driver: Lock;

    /// Takes leases of files for a guest that is about to open them: all or none. Refused at once, with the holder named, if
    /// somebody else has one of them. A lease lasts as long as one of the returned descriptors, which the guest's process
    /// inherits, and as long as the lock driver knows nothing of the guest's end.
    1 leases_acquire(owner: LeaseOwner, leases: Vec<LeaseWanted>) -> Vec<Descriptor>
        { permission: Permission::Driver, deadline: Duration::from_secs(30), body_max_bytes: 1 << 20, repeatable: true }
    /// From now on the guest is this process, with whose end its leases end. Of a guest that nothing is known of any more the
    /// leases are learned by this; its process has them.
    2 leases_bind(owner: LeaseOwner, leases: Vec<LeaseWanted>, process: Descriptor) -> ()
        { permission: Permission::Driver, deadline: Duration::from_secs(30), body_max_bytes: 1 << 20 }
    /// Gives all leases of a guest back that does not run.
    3 leases_release(owner: Uuid) -> ()
        { permission: Permission::Driver, repeatable: true }
    /// All leases.
    10 leases_list() -> Vec<LeaseInfo>
        { permission: Permission::Read, class: Class::Query, repeatable: true }
}
