//! A pool's worker: the only program that looks into the pool's folder. The broker has confined it to that folder before its
//! first line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match bulkhead_storage::worker::main(std::env::args_os().nth(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("bulkhead-pool: {error}\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            ExitCode::FAILURE
        }
    }
}
