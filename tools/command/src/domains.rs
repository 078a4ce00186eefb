//! The actions on domains.

use crate::options::{Action, How};
use crate::output::Output;
use crate::{console, job};
use anyhow::{Context, Result, bail};
use bulkhead::Connection;
use bulkhead::Domains;
use bulkhead::wire::types::{DomainEvent, DomainRef, State, Uuid};
use serde_json::json;
use std::io::Read;
use std::path::Path;

/// `VIR_DOMAIN_SHUTDOWN_GUEST_AGENT` and its like for reboot.
const BY_AGENT: u32 = 2;

/// A domain by name, or by uuid.
pub(crate) async fn find(domains: &Domains, text: &str) -> Result<DomainRef> {
    let by_name = domains.domain_lookup_by_name(text.to_owned()).await;
    match (by_name, Uuid::parse(text)) {
        (Ok(domain), _) => Ok(domain),
        (Err(_), Some(uuid)) => Ok(domains.domain_lookup_by_uuid(uuid).await?),
        (Err(error), None) => Err(error.into()),
    }
}

pub(crate) fn read_xml(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.with_context(|| file.display().to_string())?;
    Ok(text)
}

fn flags(how: &How) -> u32 {
    if how.agent { BY_AGENT } else { 0 }
}

pub(crate) async fn act(stack: &Connection, action: Action, output: &Output) -> Result<()> {
    let domains = stack.domains();
    match action {
        Action::Define { file } => {
            let domain = domains.domain_define_xml_flags(read_xml(&file)?, 0).await?;
            report(output, &domain, "defined")
        }
        Action::Undefine { domain, managed_save, nvram, keep_nvram } => {
            let domain = find(&domains, &domain.domain).await?;
            let variables = if nvram { 4 } else { 0 } | if keep_nvram { 8 } else { 0 };
            domains.domain_undefine_flags(domain.clone(), u32::from(managed_save) | variables).await?;
            report(output, &domain, "undefined")
        }
        Action::List { all } => list(&domains, all, output).await,
        Action::Start { domain, paused, autodestroy, force_boot } => {
            let domain = find(&domains, &domain.domain).await?;
            let flags = u32::from(paused) | if autodestroy { 2 } else { 0 } | if force_boot { 8 } else { 0 };
            let domain = domains.domain_create_with_flags(domain, flags).await?;
            report(output, &domain, "started")
        }
        Action::Save { domain, running, paused } => {
            let domain = find(&domains, &domain.domain).await?;
            let flags = if running { 2 } else { 0 } | if paused { 4 } else { 0 };
            let saving = domains.domain_managed_save(domain.clone(), flags);
            job::watch(&domains, &domain, "saving", saving).await?;
            report(output, &domain, "saved")
        }
        Action::SaveRemove(name) => {
            let domain = find(&domains, &name.domain).await?;
            domains.domain_managed_save_remove(domain.clone(), 0).await?;
            report(output, &domain, "has no stored state")
        }
        Action::Shutdown { domain, how } => {
            let domain = find(&domains, &domain.domain).await?;
            domains.domain_shutdown_flags(domain.clone(), flags(&how)).await?;
            report(output, &domain, "asked to shut down")
        }
        Action::Reboot { domain, how } => {
            let domain = find(&domains, &domain.domain).await?;
            domains.domain_reboot(domain.clone(), flags(&how)).await?;
            report(output, &domain, "asked to reboot")
        }
        Action::Reset(name) => {
            let domain = find(&domains, &name.domain).await?;
            domains.domain_reset(domain.clone(), 0).await?;
            report(output, &domain, "reset")
        }
        Action::Destroy(name) => {
            let domain = find(&domains, &name.domain).await?;
            domains.domain_destroy_flags(domain.clone(), 0).await?;
            report(output, &domain, "destroyed")
        }
        Action::Suspend(name) => {
            let domain = find(&domains, &name.domain).await?;
            domains.domain_suspend(domain.clone()).await?;
            report(output, &domain, "suspended")
        }
        Action::Resume(name) => {
            let domain = find(&domains, &name.domain).await?;
            domains.domain_resume(domain.clone()).await?;
            report(output, &domain, "resumed")
        }
        Action::Dumpxml { domain, inactive, secure } => {
            let domain = find(&domains, &domain.domain).await?;
            let xml =
                domains.domain_get_xml_desc(domain, u32::from(secure) | if inactive { 2 } else { 0 }).await?;
            if output.json { output.value(&json!({ "xml": xml })) } else { output.raw(xml.as_bytes()) }
        }
        Action::Console { domain, device } => {
            let domain = find(&domains, &domain.domain).await?;
            let console = domains.domain_open_console(domain, device, 0).await?;
            console::attach(console.into_owned().context("no console came")?).await
        }
        Action::Screenshot { domain, file, screen } => {
            let domain = find(&domains, &domain.domain).await?;
            let picture = domains.domain_screenshot(domain, screen, 0).await?;
            let mut picture = std::fs::File::from(picture.file.into_owned().context("no picture came")?);
            let mut target = std::fs::File::create(&file).with_context(|| file.display().to_string())?;
            std::io::copy(&mut picture, &mut target)?;
            Ok(())
        }
        Action::Events { count } => events(stack, count, output).await,
        Action::Autostart { domain, disable } => {
            let domain = find(&domains, &domain.domain).await?;
            domains.domain_set_autostart(domain.clone(), i32::from(!disable)).await?;
            report(
                output,
                &domain,
                if disable { "not started with the stack" } else { "started with the stack" },
            )
        }
        Action::Argv { file } => {
            let xml = read_xml(&file)?;
            let native = domains.connect_domain_xml_to_native("qemu-argv".to_owned(), xml, 0).await?;
            output.line(&native)
        }
        other => bail!("{other:?} is no action on domains"),
    }
}

fn report(output: &Output, domain: &DomainRef, done: &str) -> Result<()> {
    if output.json {
        output.value(
            &json!({ "name": domain.name, "uuid": domain.uuid.to_string(), "id": domain.id, "done": done }),
        )
    } else {
        output.line(&format!("Domain '{}' {done}", domain.name))
    }
}

async fn list(domains: &Domains, all: bool, output: &Output) -> Result<()> {
    // VIR_CONNECT_LIST_DOMAINS_ACTIVE.
    let flags = u32::from(!all);
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for domain in domains.connect_list_all_domains(1, flags).await?.domains {
        // It may have gone since.
        let Ok(state) = domains.domain_get_state(domain.clone(), 0).await else {
            continue;
        };
        let label = State::from_number(state.state).label();
        let id = if domain.id > 0 { domain.id.to_string() } else { "-".to_owned() };
        values.push(
            json!({ "id": domain.id, "name": domain.name, "uuid": domain.uuid.to_string(), "state": label }),
        );
        rows.push(vec![id, domain.name, label.to_owned()]);
    }
    if output.json { output.value(&values) } else { output.table(&["Id", "Name", "State"], &rows) }
}

async fn events(stack: &Connection, count: Option<u64>, output: &Output) -> Result<()> {
    let mut events = stack.domain_events().await?;
    let mut left = count;
    while left != Some(0) {
        let Some(event) = events.recv().await else { break };
        left = left.map(|left| left - 1);
        if output.json {
            output.value(&event)?;
        } else {
            output.line(&describe(&event))?;
        }
    }
    Ok(())
}

fn describe(event: &DomainEvent) -> String {
    match event {
        DomainEvent::Lifecycle { domain, event, detail } => {
            let names = [
                "defined",
                "undefined",
                "started",
                "suspended",
                "resumed",
                "stopped",
                "shutdown",
                "pmsuspended",
                "crashed",
            ];
            let name = usize::try_from(*event).ok().and_then(|index| names.get(index)).unwrap_or(&"unknown");
            format!("lifecycle: domain '{}' {name} ({detail})", domain.name)
        }
        DomainEvent::Reboot { domain } => format!("reboot: domain '{}'", domain.name),
        DomainEvent::Watchdog { domain, action } => {
            format!("watchdog: domain '{}' action {action}", domain.name)
        }
        DomainEvent::Monitor { domain, event, details, .. } => {
            let details = details.as_deref().unwrap_or_default();
            format!("monitor: domain '{}' {event} {details}", domain.name)
        }
        DomainEvent::DeviceAdded { domain, alias } => {
            format!("device added: domain '{}', {alias}", domain.name)
        }
        DomainEvent::DeviceRemoved { domain, alias } => {
            format!("device removed: domain '{}', {alias}", domain.name)
        }
        DomainEvent::DeviceRemovalFailed { domain, alias } => {
            format!("device removal failed: domain '{}', {alias}", domain.name)
        }
        DomainEvent::TrayChange { domain, alias, reason } => {
            let moved = if *reason == 0 { "opened" } else { "closed" };
            format!("tray {moved}: domain '{}', {alias}", domain.name)
        }
        DomainEvent::Lagged { missed } => format!("lagged: {missed} events missed"),
    }
}
