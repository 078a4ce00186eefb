//! `bulkhead run`: a guest for as long as this command lives.

use crate::options::Options;
use crate::output::{self, Output};
use crate::{console, domains, open_own, uri};
use anyhow::{Context, Result};
use bulkhead::wire::types::{DomainEvent, DomainRef};
use bulkhead::{Connection, Which};
use std::path::Path;
use std::process::ExitCode;

/// Start paused, and end with the application.
const PAUSED: u32 = 1;
const AUTODESTROY: u32 = 2;
/// `VIR_DOMAIN_EVENT_STOPPED`.
const STOPPED: i32 = 5;

pub(crate) async fn run(
    options: &Options,
    file: &Path,
    with_console: bool,
    output: &Output,
) -> Result<ExitCode> {
    let xml = domains::read_xml(file)?;
    let temporary = match (&options.root, &options.connect) {
        (None, None) => Some(tempfolder()?),
        _ => None,
    };
    let uri = match &temporary {
        Some(folder) => {
            format!("qemu:///embed?root={}", output::percent_encode(&folder.display().to_string()))
        }
        None => uri(options)?,
    };
    let stack = open_own(options, &uri).await?;
    let done = guest(&stack, xml, with_console, output).await;
    // A daemon's stack is others' too.
    let own = matches!(bulkhead::Uri::parse(&uri)?.stack, Which::Embed(_));
    let stopped = if own { stack.stop().await } else { Ok(()) };
    drop(stack);
    if let Some(folder) = temporary {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    done?;
    stopped?;
    Ok(ExitCode::SUCCESS)
}

fn tempfolder() -> Result<std::path::PathBuf> {
    let template = std::env::temp_dir().join("bulkhead-XXXXXX");
    Ok(nix::unistd::mkdtemp(&template)?)
}

async fn guest(stack: &Connection, xml: String, with_console: bool, output: &Output) -> Result<()> {
    let domains = stack.domains();
    let mut events = stack.domain_events().await?;
    // Paused first, so that not a letter of its console is missed.
    let domain = domains.domain_create_xml(xml, PAUSED | AUTODESTROY).await?;
    let ended = async {
        while let Some(event) = events.recv().await {
            if is_end(&event, &domain) || domains.domain_get_state(domain.clone(), 0).await.is_err() {
                return;
            }
        }
    };
    if with_console {
        let console = domains.domain_open_console(domain.clone(), None, 0).await?;
        let terminal = console.into_owned().context("no console came")?;
        domains.domain_resume(domain.clone()).await?;
        // The console ends with the guest, or is left by the user; a guest without one more word ends by its event.
        tokio::select! {
            attached = console::attach(terminal) => attached?,
            () = ended => {}
        }
    } else {
        domains.domain_resume(domain.clone()).await?;
        ended.await;
    }
    if domains.domain_destroy_flags(domain.clone(), 0).await.is_ok() {
        output.line(&format!("\nDomain '{}' ended", domain.name))?;
    }
    Ok(())
}

fn is_end(event: &DomainEvent, domain: &DomainRef) -> bool {
    matches!(event, DomainEvent::Lifecycle { domain: which, event: STOPPED, .. } if which.uuid == domain.uuid)
}
