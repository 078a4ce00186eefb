//! The network driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::types::{InterfaceStats, Tap};
use std::time::Duration;

calls! {
    driver: Network;

    /// Opens a tap for a guest: one made in advance (`managed` false: nothing about it is changed), or a new one,
    /// plugged into `bridge` if that is named.
    1 tap_open(name: Option<String>, managed: bool, bridge: Option<String>, mac: String, queues: u16) -> Tap
        { permission: Permission::Driver }
    /// Removes a tap that `tap_open` made. One that is gone already is no error.
    2 tap_close(name: String) -> ()
        { permission: Permission::Driver, repeatable: true }
    /// What has gone through an interface, as the host counts it: received is what came out of the guest.
    3 interface_counters(name: String) -> InterfaceStats
        { permission: Permission::Driver, class: Class::Query, repeatable: true, deadline: Duration::from_secs(2) }
}
