//! The log driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::descriptor::Descriptor;

calls! {
    driver: Log;

    /// Opens a guest's log for appending: what is written into the returned pipe ends in the bounded, rotated file of that
    /// name. The pipe's reading end is on the broker's shelf, so it outlives this driver.
    1 log_open(name: String, max_bytes: u64, keep: u32) -> Descriptor
        { permission: Permission::Driver }
    /// The end of a log, for an error text: at most that many bytes.
    2 log_tail(name: String, max_bytes: u32) -> String
        { permission: Permission::Driver, class: Class::Query, repeatable: true }
}
