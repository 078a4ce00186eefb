//! Devices that come, go and change.

use super::processors::{CONFIG, LIVE};
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::Guest;
use crate::guest::plug::{FORCE, Which, kept};
use bulkhead_wire::error::Error;
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_attach_device, domain_attach_device_flags, domain_detach_device, domain_detach_device_alias,
    domain_detach_device_flags, domain_update_device_flags,
};
use bulkhead_wire::types::DomainRef;
use std::time::Duration;

/// Time for which a caller waits for the guest to give a device up. What lasts longer is told by an event.
const GONE_WITHIN: Duration = Duration::from_secs(5);

async fn attach(driver: &Qemu, domain: &DomainRef, xml: String, flags: u32) -> Result<(), Error> {
    driver
        .guest(domain)?
        .object
        .run("domain_attach_device", move |guest: &mut Guest| {
            Box::pin(async move { guest.attach_device(&xml, flags).await })
        })
        .await?
}

async fn detach(driver: &Qemu, domain: &DomainRef, which: Which, flags: u32) -> Result<(), Error> {
    let handle = driver.guest(domain)?;
    let wanted = which.clone();
    let begun = handle
        .object
        .run("domain_detach_device", move |guest: &mut Guest| {
            Box::pin(async move { guest.begin_detach(&wanted, flags).await })
        })
        .await??;
    // Not in the guest's own task: what QEMU says arrives there.
    if let Some(gone) = begun.gone
        && let Ok(Ok(false)) = tokio::time::timeout(GONE_WITHIN, gone).await
    {
        return Err(kept(&handle.view.get().name));
    }
    if !begun.config {
        return Ok(());
    }
    handle
        .object
        .run("domain_detach_device", move |guest: &mut Guest| {
            Box::pin(async move { guest.detach_from_config(&which).await })
        })
        .await?
}

pub(super) async fn domain_attach_device(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_attach_device::Arguments,
) -> Result<(), Error> {
    attach(driver, &arguments.domain, arguments.xml, LIVE).await
}

pub(super) async fn domain_attach_device_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_attach_device_flags::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    attach(driver, &arguments.domain, arguments.xml, arguments.flags).await
}

pub(super) async fn domain_detach_device(
    driver: &Qemu,
    _call: CallContext,
    arguments: domain_detach_device::Arguments,
) -> Result<(), Error> {
    detach(driver, &arguments.domain, Which::Xml(arguments.xml), LIVE).await
}

pub(super) async fn domain_detach_device_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_detach_device_flags::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    detach(driver, &arguments.domain, Which::Xml(arguments.xml), arguments.flags).await
}

pub(super) async fn domain_detach_device_alias(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_detach_device_alias::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    detach(driver, &arguments.domain, Which::Alias(arguments.alias), arguments.flags).await
}

pub(super) async fn domain_update_device_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_update_device_flags::Arguments,
) -> Result<(), Error> {
    let domain_update_device_flags::Arguments { domain, xml, flags } = arguments;
    unsupported_flags(&call, flags, LIVE | CONFIG | FORCE)?;
    driver
        .guest(&domain)?
        .object
        .run("domain_update_device", move |guest: &mut Guest| {
            Box::pin(async move { guest.update_device(&xml, flags).await })
        })
        .await?
}
