//! States and memory of guests in files that a client names.

use super::{Tidy, unsupported_flags};
use crate::driver::Qemu;
use crate::guest::{Guest, SAVE_FLAGS, START_FLAGS, dump};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    domain_abort_job, domain_abort_job_flags, domain_core_dump, domain_core_dump_with_format,
    domain_managed_save_define_xml, domain_restore, domain_restore_flags, domain_restore_params, domain_save,
    domain_save_flags, domain_save_image_define_xml, domain_save_image_get_xml_desc, domain_save_params,
};
use bulkhead_wire::types::{DomainRef, Parameter, ParameterValue};

/// The CPUs run then (`VIR_DOMAIN_SAVE_RUNNING`).
const RUNNING: u32 = 2;
/// The CPUs stay stopped (`VIR_DOMAIN_SAVE_PAUSED`).
const PAUSED: u32 = 4;
/// The start of a guest with its CPUs stopped.
const START_PAUSED: u32 = 1;
/// Abort a migration after its switch to the other side (`VIR_DOMAIN_ABORT_JOB_POSTCOPY`).
const ABORT_POSTCOPY: u32 = 1;
/// Show secrets.
const SECURE: u32 = 1;

/// Checks the flags of a save or restore; answers what they say about the CPUs.
fn runs(call: &CallContext, flags: u32, known: u32) -> Result<Option<bool>, Error> {
    unsupported_flags(call, flags, known)?;
    match (flags & RUNNING != 0, flags & PAUSED != 0) {
        (false, false) => Ok(None),
        (runs, false) => Ok(Some(runs)),
        (false, true) => Ok(Some(false)),
        (true, true) => {
            let message =
                "A guest can't be both running and paused then: the flags for both exclude each other";
            Err(Error::new(Code::INVALID_ARG, Origin::DOMAIN, message))
        }
    }
}

/// What the named values of a save or restore say.
#[derive(Default)]
struct Named {
    file: Option<String>,
    xml: Option<String>,
}

impl Named {
    fn read(parameters: &[Parameter]) -> Result<Self, Error> {
        let mut named = Self::default();
        for parameter in parameters {
            let unsupported = |why: &str| {
                let message = format!("argument unsupported: parameter '{}' {why}", parameter.field);
                Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::NONE, message)
            };
            match (parameter.field.as_str(), &parameter.value) {
                ("file", ParameterValue::Text(text)) => named.file = Some(text.clone()),
                ("dxml", ParameterValue::Text(text)) => named.xml = Some(text.clone()),
                ("image_format", ParameterValue::Text(text)) if text == "raw" => {}
                ("image_format", ParameterValue::Text(text)) => {
                    let why = format!("asks for '{text}'; states are stored as 'raw' here");
                    return Err(unsupported(&why));
                }
                ("parallel.channels", ParameterValue::Int(1)) => {}
                ("parallel.channels", ParameterValue::Int(_)) => {
                    return Err(unsupported(
                        "asks for more than one channel, which take the format 'sparse'",
                    ));
                }
                ("file" | "dxml" | "image_format" | "parallel.channels", value) => {
                    let message =
                        format!("Parameter '{}' can't be of type {}", parameter.field, value.kind());
                    return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
                }
                _ => return Err(unsupported("not supported")),
            }
        }
        Ok(named)
    }
}

async fn save(
    driver: &Qemu,
    domain: &DomainRef,
    file: String,
    xml: Option<String>,
    flags: u32,
) -> Result<(), Error> {
    driver
        .guest(domain)?
        .object
        .run_job("domain_save", move |guest: &mut Guest, job| {
            Box::pin(async move { guest.save(file, xml, flags, &job).await })
        })
        .await?
}

pub(super) async fn domain_save(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_save::Arguments,
) -> Result<(), Error> {
    let domain_save::Arguments { domain, file } = arguments;
    domain_save_flags(driver, call, domain_save_flags::Arguments { domain, file, xml: None, flags: 0 }).await
}

pub(super) async fn domain_save_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_save_flags::Arguments,
) -> Result<(), Error> {
    let domain_save_flags::Arguments { domain, file, xml, flags } = arguments;
    runs(&call, flags, SAVE_FLAGS)?;
    save(driver, &domain, file, xml, flags).await
}

pub(super) async fn domain_save_params(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_save_params::Arguments,
) -> Result<(), Error> {
    let domain_save_params::Arguments { domain, parameters, flags } = arguments;
    runs(&call, flags, SAVE_FLAGS)?;
    let Named { file, xml } = Named::read(&parameters)?;
    match file {
        Some(file) => save(driver, &domain, file, xml, flags).await,
        None if xml.is_some() => {
            let message = "Another definition goes into a file alone: name it in the parameter 'file'";
            Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message))
        }
        // Without a file it is stored beside its definition.
        None => {
            driver
                .guest(&domain)?
                .object
                .run_job("domain_managed_save", move |guest: &mut Guest, job| {
                    Box::pin(async move { guest.managed_save(flags, &job).await })
                })
                .await?
        }
    }
}

async fn restore(driver: &Qemu, file: &str, xml: Option<&str>, runs: Option<bool>) -> Result<(), Error> {
    let (definition, stored) = driver.environment.open_image(file, xml, runs).await?;
    let guest = driver.guest_for(&definition)?;
    let _tidy = Tidy(guest.clone());
    let flags = if runs == Some(false) { START_PAUSED } else { 0 } & START_FLAGS;
    guest
        .object
        .run_job("domain_restore", move |guest: &mut Guest, job| {
            Box::pin(async move { guest.start_from(definition, Some(stored), flags, &job).await })
        })
        .await?
}

pub(super) async fn domain_restore(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_restore::Arguments,
) -> Result<(), Error> {
    let arguments = domain_restore_flags::Arguments { file: arguments.file, xml: None, flags: 0 };
    domain_restore_flags(driver, call, arguments).await
}

pub(super) async fn domain_restore_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_restore_flags::Arguments,
) -> Result<(), Error> {
    let runs = runs(&call, arguments.flags, SAVE_FLAGS)?;
    restore(driver, &arguments.file, arguments.xml.as_deref(), runs).await
}

pub(super) async fn domain_restore_params(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_restore_params::Arguments,
) -> Result<(), Error> {
    let runs = runs(&call, arguments.flags, SAVE_FLAGS)?;
    let Named { file, xml } = Named::read(&arguments.parameters)?;
    let file = file.ok_or_else(|| {
        Error::new(
            Code::INVALID_ARG,
            Origin::QEMU,
            "missing parameter: name the file to go on from in 'file'",
        )
    })?;
    restore(driver, &file, xml.as_deref(), runs).await
}

pub(super) async fn domain_save_image_get_xml_desc(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_save_image_get_xml_desc::Arguments,
) -> Result<String, Error> {
    unsupported_flags(&call, arguments.flags, SECURE)?;
    let definition = driver.environment.image_definition(&arguments.file).await?;
    Ok(definition.to_xml(arguments.flags & SECURE != 0))
}

pub(super) async fn domain_save_image_define_xml(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_save_image_define_xml::Arguments,
) -> Result<(), Error> {
    let runs = runs(&call, arguments.flags, RUNNING | PAUSED)?;
    driver.environment.amend_image(&arguments.file, Some(arguments.xml), runs).await
}

pub(super) async fn domain_managed_save_define_xml(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_managed_save_define_xml::Arguments,
) -> Result<(), Error> {
    let runs = runs(&call, arguments.flags, RUNNING | PAUSED)?;
    let xml = arguments.xml;
    driver
        .guest(&arguments.domain)?
        .object
        .run("domain_managed_save_define_xml", move |guest: &mut Guest| {
            Box::pin(async move { guest.amend_saved(xml, runs).await })
        })
        .await?
}

pub(super) async fn domain_core_dump(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_core_dump::Arguments,
) -> Result<(), Error> {
    let domain_core_dump::Arguments { domain, file, flags } = arguments;
    let arguments = domain_core_dump_with_format::Arguments { domain, file, format: 0, flags };
    domain_core_dump_with_format(driver, call, arguments).await
}

pub(super) async fn domain_core_dump_with_format(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_core_dump_with_format::Arguments,
) -> Result<(), Error> {
    let domain_core_dump_with_format::Arguments { domain, file, format, flags } = arguments;
    let known = dump::CRASH | dump::LIVE | dump::BYPASS_CACHE | dump::RESET | dump::MEMORY_ONLY;
    unsupported_flags(&call, flags, known)?;
    let wrong =
        |code, why: &str| Error::new(code, Origin::DOMAIN, format!("Domain '{}': {why}", domain.name));
    if flags & dump::CRASH != 0 && flags & (dump::LIVE | dump::RESET) != 0 {
        let why = "a guest that is to crash can't go on or be reset: these flags exclude each other";
        return Err(wrong(Code::INVALID_ARG, why));
    }
    if flags & dump::LIVE != 0 && flags & dump::RESET != 0 {
        return Err(wrong(Code::INVALID_ARG, "a guest is dumped while it runs or reset then, not both"));
    }
    let name = dump::format_name(format)
        .ok_or_else(|| wrong(Code::INVALID_ARG, &format!("there is no dump format {format}")))?;
    if format != 0 && flags & dump::MEMORY_ONLY == 0 {
        let why = format!("format {name} is of memory alone: add the flag for that (--memory-only)");
        return Err(wrong(Code::OPERATION_UNSUPPORTED, &why));
    }
    driver
        .guest(&domain)?
        .object
        .run_job("domain_core_dump", move |guest: &mut Guest, job| {
            Box::pin(async move { guest.dump(file, name, flags, &job).await })
        })
        .await?
}

pub(super) async fn domain_abort_job_flags(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_abort_job_flags::Arguments,
) -> Result<(), Error> {
    use bulkhead_wire::table::domain::Server;
    unsupported_flags(&call, arguments.flags, ABORT_POSTCOPY)?;
    if arguments.flags & ABORT_POSTCOPY != 0 {
        driver.observed(&arguments.domain)?;
        let message =
            format!("Domain '{}': its job is no migration that went over already", arguments.domain.name);
        return Err(Error::new(Code::OPERATION_INVALID, Origin::QEMU, message));
    }
    driver.domain_abort_job(call, domain_abort_job::Arguments { domain: arguments.domain }).await
}
