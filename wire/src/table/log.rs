//! The log driver's calls.

use super::{CallInfo, Class, Driver, Permission, calls};
use crate::descriptor::Descriptor;

calls! {
    driver: Log;

    /// Opens a guest's log for appending: what is written into the returned pipe ends in the bounded, rotated file of that
    /// name. The pipe's reading end is on the broker's shelf, so it outlives this driver. Writing never waits: what finds no
    /// room in the pipe is lost. Also told is where in the file that will stand.
    1 log_open(name: String, max_bytes: u64, keep: u32) -> (Descriptor, u64)
        { permission: Permission::Driver }
    /// The end of a log, for an error text: at most that many bytes, and none that stood there before `from`. Waits a moment
    /// for writers that are about to end.
    2 log_tail(name: String, from: u64, max_bytes: u32) -> String
        { permission: Permission::Driver, class: Class::Query, repeatable: true }
}
