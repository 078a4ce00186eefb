//! Work that lasts: how far it has come stands on the terminal, and Ctrl-C ends it where it can.

use anyhow::Result;
use bulkhead::Domains;
use bulkhead::Error;
use bulkhead::wire::types::DomainRef;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Between two looks at how far it has come.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits for a call of class job on this domain, and shows how far it has come if a person watches.
pub(crate) async fn watch<T>(
    domains: &Domains,
    domain: &DomainRef,
    doing: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T> {
    let person = std::io::stderr().is_terminal();
    let mut shown = false;
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
    tokio::pin!(call);
    let done = loop {
        tokio::select! {
            done = &mut call => break done,
            Ok(()) = tokio::signal::ctrl_c() => {
                // It says itself what became of it.
                let _ = domains.domain_abort_job(domain.clone()).await;
            }
            _ = look.tick(), if person => {
                if let Ok(job) = domains.domain_get_job_info(domain.clone()).await
                    && let Some(percent) =
                        (job.data_processed_bytes.saturating_mul(100)).checked_div(job.data_total_bytes)
                {
                    shown = true;
                    let mut terminal = std::io::stderr().lock();
                    let _ = write!(terminal, "\r{doing} {}: {percent:3} %", domain.name);
                    let _ = terminal.flush();
                }
            }
        }
    };
    if shown {
        let _ = writeln!(std::io::stderr());
    }
    Ok(done?)
}
