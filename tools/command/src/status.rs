//! `bulkhead status`: the stack as a tree.

use crate::output::Output;
use anyhow::Result;
use bulkhead::Connection;
use bulkhead::wire::types::{DriverStatus, HelperStatus, StackStatus};
use std::time::Duration;

pub(crate) async fn show(stack: &Connection, output: &Output) -> Result<()> {
    let status = stack.status().await?;
    if output.json {
        return output.value(&status);
    }
    for line in lines(&status) {
        output.line(&line)?;
    }
    Ok(())
}

fn lines(status: &StackStatus) -> Vec<String> {
    let mut lines = vec![format!(
        "{} stack {} (broker pid {}, version {})",
        status.mode, status.root, status.pid, status.version
    )];
    let count = status.drivers.len();
    for (index, driver) in status.drivers.iter().enumerate() {
        let last = index + 1 == count;
        lines.push(format!("{} {}", if last { "└─" } else { "├─" }, driver_line(driver)));
        let stem = if last { "   " } else { "│  " };
        let confinement = driver.confinement.join(", ");
        if !confinement.is_empty() {
            lines.push(format!("{stem}   in force: {confinement}"));
        }
        lines.extend(driver.confinement_missing.iter().map(|missing| format!("{stem}   missing: {missing}")));
        if let Some(reason) = &driver.reason {
            lines.push(format!("{stem}   last end: {reason}"));
        }
        lines.extend(driver.set_aside.iter().map(|object| format!("{stem}   set aside: {object}")));
        lines.extend(driver.busy.iter().map(|busy| {
            let progress = busy.progress.and_then(|(done, all)| done.saturating_mul(100).checked_div(all));
            format!(
                "{stem}   {}: {} for {} ms{}, {} waiting",
                busy.object,
                busy.operation,
                busy.since_ms,
                progress.map_or_else(String::new, |percent| format!(", {percent} % done")),
                busy.waiting
            )
        }));
        let helpers = status.helpers.iter().filter(|helper| helper.owner == driver.name);
        lines.extend(helpers.map(|helper| format!("{stem}├─ {}", helper_line(helper))));
    }
    lines
}

fn driver_line(driver: &DriverStatus) -> String {
    let pid = driver.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let uptime = Duration::from_millis(driver.uptime_ms);
    format!(
        "{} [{}] pid {pid}, incarnation {}, {} restarts, up {:.1} s, {} KiB",
        driver.name,
        driver.state,
        driver.incarnation,
        driver.restarts,
        uptime.as_secs_f64(),
        driver.memory_kib
    )
}

fn helper_line(helper: &HelperStatus) -> String {
    format!(
        "{} {} pid {}, {} KiB ({})",
        helper.class,
        helper.key,
        helper.pid,
        helper.memory_kib,
        helper.confinement.join(", ")
    )
}
