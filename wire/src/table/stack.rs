//! What the broker's control socket serves to the owner of a stack.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::descriptor::Descriptor;
use crate::frame::Token;
use crate::types::StackStatus;
use std::time::Duration;

calls! {
    driver: Broker;

    /// The whole stack: drivers, helpers, confinement, what each object is busy with.
    1 stack_status() -> StackStatus
        { permission: Permission::Owner, class: Class::Query, repeatable: true }
    /// A channel to a driver, with the token that speaks on it.
    2 channel_open(driver: Driver, read_only: bool) -> (Descriptor, Token)
        { permission: Permission::Owner, deadline: Duration::from_secs(30) }
    /// Takes a driver out of service.
    3 driver_hold(driver: Driver) -> ()
        { permission: Permission::Owner, repeatable: true }
    /// Brings a held driver back.
    4 driver_release(driver: Driver) -> ()
        { permission: Permission::Owner, repeatable: true }
    /// Ends the drivers in order. Guests live on.
    5 stack_stop() -> ()
        { permission: Permission::Owner, repeatable: true }
}
