//! CPUs compared with what host and emulators have, and the best one that several hosts have in common.

use super::unsupported_flags;
use crate::capabilities::comparison::{
    Comparison, Described, Features, failed, model_features, model_queries, models_of, nearest,
    vendor_of_model, write,
};
use crate::capabilities::{Capabilities, usual_name};
use crate::documents::host;
use crate::driver::Qemu;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{
    connect_baseline_cpu, connect_baseline_hypervisor_cpu, connect_compare_cpu,
    connect_compare_hypervisor_cpu,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What does not fit is an error (`VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE`).
const FAIL: u32 = 1;
/// The document is checked (`VIR_CONNECT_COMPARE_CPU_VALIDATE_XML`), as it is in any case.
const VALIDATE: u32 = 2;
/// Name all features (`VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES`).
const EXPAND: u32 = 1;
/// Without what keeps a guest where it is (`VIR_CONNECT_BASELINE_CPU_MIGRATABLE`).
const MIGRATABLE: u32 = 2;
/// Processors in one question.
const CPUS_MAX: usize = 256;
/// No guest that has it can be moved.
const NOT_MOVABLE: &str = "invtsc";

/// An emulator that is asked about processors.
struct Asked {
    path: String,
    arch: String,
    kvm: bool,
    capabilities: Arc<Capabilities>,
}

impl Asked {
    async fn new(
        driver: &Qemu,
        emulator: Option<String>,
        arch: Option<String>,
        machine: Option<&str>,
        accelerator: Option<&str>,
    ) -> Result<Self, Error> {
        let environment = &driver.environment;
        let invalid = |message: String| Error::new(Code::INVALID_ARG, Origin::QEMU, message);
        let usual = environment.installed.usual();
        let of_emulator = emulator.as_deref().and_then(|path| environment.installed.architecture_of(path));
        let arch = arch.or(of_emulator).unwrap_or_else(|| usual.arch.clone());
        let known = usual.emulator(&arch).ok_or_else(|| {
            invalid(format!("unknown architecture: {arch}; 'virsh capabilities' lists those known"))
        })?;
        let path = emulator.unwrap_or_else(|| known.path.clone());
        if !environment.installed.is_installed(&path) {
            return Err(invalid(format!("the emulator '{path}' of {arch} is not installed; choose another")));
        }
        let kvm = match accelerator {
            None => known.kvm,
            Some("qemu") => false,
            Some("kvm") if known.kvm => true,
            Some(other) => {
                return Err(invalid(format!("'{path}' has no guests of type '{other}' on this host")));
            }
        };
        let capabilities = environment.probe(&path, crate::probe::host_facts(kvm)).await?;
        if let Some(machine) = machine.filter(|machine| capabilities.machine(machine).is_none()) {
            let message = format!("the machine '{machine}' is not supported by emulator '{path}'");
            return Err(invalid(message));
        }
        Ok(Self { path, arch, kvm, capabilities })
    }

    /// What models have, by name.
    async fn models(
        &self,
        driver: &Qemu,
        names: &BTreeSet<&str>,
    ) -> Result<BTreeMap<String, Features>, Error> {
        let mut found = BTreeMap::new();
        if names.is_empty() {
            return Ok(found);
        }
        let queries = model_queries(names.iter().copied());
        let replies = driver.environment.ask_binary(&self.path, self.kvm, queries).await?;
        for (name, reply) in names.iter().zip(&replies) {
            found.insert((*name).to_owned(), model_features(name, reply)?);
        }
        Ok(found)
    }

    /// What it can give to guests.
    fn given(&self) -> Features {
        self.capabilities.cpu_features.iter().map(|name| usual_name(name).to_owned()).collect()
    }
}

fn features_of_host(arch: &str) -> Features {
    host::processor_features(arch).into_iter().collect()
}

/// Compares, where only what `host` has can be had.
async fn compare(
    driver: &Qemu,
    asked: &Asked,
    xml: &str,
    flags: u32,
    host: Features,
    of_host: bool,
) -> Result<i32, Error> {
    let described = Described::read(xml)?;
    let answer = |(result, why): (Comparison, String)| match result {
        Comparison::Incompatible if flags & FAIL != 0 => {
            let message = format!("the CPU is incompatible with the one that is to be had: {why}");
            Err(failed(Code::CPU_INCOMPATIBLE, message))
        }
        Comparison::Incompatible => Ok(0),
        Comparison::Identical => Ok(1),
        Comparison::Superset => Ok(2),
    };
    if let Some(arch) = described.arch.as_ref().filter(|arch| **arch != asked.arch) {
        let why = format!("its architecture is {arch}, and not {}", asked.arch);
        return answer((Comparison::Incompatible, why));
    }
    let Some(model) = described.model.as_deref() else {
        // Whatever there is will do.
        return answer((Comparison::Superset, String::new()));
    };
    let models = asked.models(driver, &BTreeSet::from([model])).await?;
    let vendor = host::processor_vendor();
    if of_host
        && let (Some(wanted), Some(own)) = (described.vendor.as_deref(), vendor)
        && wanted != own
    {
        let why = format!("it is {wanted}'s, and the host's is {own}'s");
        return answer((Comparison::Incompatible, why));
    }
    let empty = Features::new();
    answer(described.compare(models.get(model).unwrap_or(&empty), &host))
}

pub(super) async fn connect_compare_cpu(
    driver: &Qemu,
    call: CallContext,
    arguments: connect_compare_cpu::Arguments,
) -> Result<i32, Error> {
    unsupported_flags(&call, arguments.flags, FAIL | VALIDATE)?;
    // What a model has does not depend on the accelerator; an emulator is asked that works everywhere.
    let asked = Asked::new(driver, None, None, None, Some("qemu")).await?;
    let host = features_of_host(&asked.arch);
    compare(driver, &asked, &arguments.xml, arguments.flags, host, true).await
}

pub(super) async fn connect_compare_hypervisor_cpu(
    driver: &Qemu,
    call: CallContext,
    arguments: connect_compare_hypervisor_cpu::Arguments,
) -> Result<i32, Error> {
    unsupported_flags(&call, arguments.flags, FAIL | VALIDATE)?;
    let connect_compare_hypervisor_cpu::Arguments { emulator, arch, machine, accelerator, xml, flags } =
        arguments;
    let asked = Asked::new(driver, emulator, arch, machine.as_deref(), accelerator.as_deref()).await?;
    let given = asked.given();
    compare(driver, &asked, &xml, flags, given, false).await
}

/// What processors have in common, as a model with features.
async fn baseline(
    driver: &Qemu,
    asked: &Asked,
    cpus: &[String],
    flags: u32,
    of_host: bool,
) -> Result<String, Error> {
    if cpus.is_empty() || cpus.len() > CPUS_MAX {
        return Err(failed(Code::INVALID_ARG, format!("From 1 to {CPUS_MAX} CPUs can be asked about")));
    }
    let mut described = Vec::new();
    for (index, xml) in cpus.iter().enumerate() {
        let cpu = Described::read(xml)?;
        if of_host && cpu.mode.as_deref().is_some_and(|mode| mode != "custom") {
            let message = "A CPU of a host has no mode; pass the <cpu> of its capabilities";
            return Err(failed(Code::CONFIG_UNSUPPORTED, message));
        }
        if cpu.model.is_none() {
            return Err(failed(Code::INVALID_ARG, format!("no CPU model specified at index {index}")));
        }
        if let Some(arch) = cpu.arch.as_ref().filter(|arch| **arch != asked.arch) {
            let message =
                format!("The CPU at index {index} is of architecture {arch}, and not {}", asked.arch);
            return Err(failed(Code::INVALID_ARG, message));
        }
        described.push(cpu);
    }
    let mut vendors = described.iter().filter_map(|cpu| {
        cpu.vendor.as_deref().or_else(|| vendor_of_model(cpu.model.as_deref().unwrap_or_default()))
    });
    let vendor = vendors.next();
    // Models alone may be of several makers: what is wanted then is what they share.
    let named: BTreeSet<&str> = described.iter().filter_map(|cpu| cpu.vendor.as_deref()).collect();
    let mixed = vendors.any(|other| Some(other) != vendor);
    if named.len() > 1 || (mixed && !named.is_empty()) {
        return Err(failed(Code::OPERATION_FAILED, "CPU vendors do not match"));
    }
    let candidates = models_of(&asked.capabilities, vendor.filter(|_| !mixed));
    let own: Vec<String> = described.iter().filter_map(|cpu| cpu.model.clone()).collect();
    let names: BTreeSet<&str> = candidates.iter().copied().chain(own.iter().map(String::as_str)).collect();
    let mut models = asked.models(driver, &names).await?;
    let empty = Features::new();
    let mut sets = described.iter().map(|cpu| {
        let model = cpu.model.as_deref().unwrap_or_default();
        cpu.features(models.get(model).unwrap_or(&empty))
    });
    let first = sets.next().unwrap_or_default();
    let mut common = sets.fold(first, |common, next| common.intersection(&next).cloned().collect());
    if !of_host {
        let given = asked.given();
        common.retain(|name| given.contains(name));
    }
    if flags & MIGRATABLE != 0 {
        common.remove(NOT_MOVABLE);
    }
    let makers = |name: &str| vendor_of_model(name).is_none_or(|maker| Some(maker) == vendor && !mixed);
    models.retain(|name, _| makers(name) || (own.len() == 1 && own.first() == Some(name)));
    let found = nearest(&common, &models, &own)
        .ok_or_else(|| failed(Code::OPERATION_FAILED, "No CPU model has what these CPUs have in common"))?;
    let kept = own.len() == 1 && own.first().is_some_and(|model| model == found.0) && common == *found.1;
    let fallback = if kept || !of_host { "forbid" } else { "allow" };
    let vendor = named.first().copied();
    Ok(write(found, &common, vendor, fallback, flags & EXPAND != 0))
}

pub(super) async fn connect_baseline_cpu(
    driver: &Qemu,
    call: CallContext,
    arguments: connect_baseline_cpu::Arguments,
) -> Result<String, Error> {
    unsupported_flags(&call, arguments.flags, EXPAND | MIGRATABLE)?;
    let asked = Asked::new(driver, None, None, None, Some("qemu")).await?;
    baseline(driver, &asked, &arguments.cpus, arguments.flags, true).await
}

pub(super) async fn connect_baseline_hypervisor_cpu(
    driver: &Qemu,
    call: CallContext,
    arguments: connect_baseline_hypervisor_cpu::Arguments,
) -> Result<String, Error> {
    unsupported_flags(&call, arguments.flags, EXPAND | MIGRATABLE)?;
    let connect_baseline_hypervisor_cpu::Arguments { emulator, arch, machine, accelerator, cpus, flags } =
        arguments;
    let asked = Asked::new(driver, emulator, arch, machine.as_deref(), accelerator.as_deref()).await?;
    baseline(driver, &asked, &cpus, flags, false).await
}
