//! The network driver's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_actors::driver::driver_main::<bulkhead_network::Networks>()
}
