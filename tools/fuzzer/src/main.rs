//! `bulkhead-fuzzer SECONDS SEED [TARGET...]`: feeds all targets, or those, an equal share of the time each.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use bulkhead_fuzzer::{TARGETS, find, runner};
use std::time::Duration;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &str| -> Result<u64, String> {
        let text = arguments.next().ok_or_else(|| format!("{what} is missing: SECONDS SEED [TARGET...]"))?;
        text.parse().map_err(|_| format!("'{text}' is no {what}"))
    };
    let (seconds, seed) = (number("number of seconds")?, number("seed")?);
    let named: Vec<_> = arguments
        .map(|name| find(&name).copied().ok_or_else(|| format!("there is no target '{name}'")))
        .collect::<Result<_, _>>()?;
    let targets = if named.is_empty() { TARGETS.to_vec() } else { named };
    runner::notice_panics();
    let share = Duration::from_secs(seconds) / u32::try_from(targets.len()).unwrap_or(1);
    let mut total = 0;
    for target in &targets {
        let figures = runner::feed(target, seed, u64::MAX, share);
        println!(
            "{:<13} {:>9} executions, {:>8} accepted, slowest {:>4} ms",
            target.name,
            figures.executions,
            figures.accepted,
            figures.slowest.as_millis()
        );
        total += figures.executions;
    }
    println!("{total} executions with seed {seed}");
    Ok(())
}
