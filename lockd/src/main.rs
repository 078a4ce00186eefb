//! The lock driver's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_actors::driver::driver_main::<bulkhead_lock::Locks>()
}
