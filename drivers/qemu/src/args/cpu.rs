//! `-cpu` and `-smp`.

use super::builder::{Builder, attr, invalid, is_on, number_attr, number_text, switch, unsupported};
use super::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Features that the guest's operating system sets, not the CPU.
const SET_BY_GUEST: [&str; 2] = ["osxsave", "ospke"];

impl Builder<'_> {
    pub(crate) fn cpu(&mut self) -> Result<(), Error> {
        let mut list = match self
            .root
            .child("cpu")
            .filter(|cpu| cpu.attr("mode").is_some() || cpu.child("model").is_some())
        {
            Some(cpu) => self.cpu_model(cpu)?,
            None => KeyValues::empty(),
        };
        let mut rest = KeyValues::empty();
        self.clock_features(&mut rest);
        self.feature_flags(&mut rest)?;
        self.hyperv(&mut rest)?;
        if self.devices("panic").any(|panic| panic.attr("model") == Some("hyperv")) {
            rest.word("hv-crash");
        }
        self.kvm_features(&mut rest);
        if let Some(cpu) = self.root.child("cpu") {
            cache(cpu, &mut rest);
            physical_bits(cpu, &mut rest)?;
        }
        if list.is_empty() {
            if rest.is_empty() {
                return Ok(());
            }
            list = KeyValues::new(self.default_cpu()?);
        }
        list.append(&rest);
        self.option("-cpu", list)
    }

    /// The model that the machine has by itself.
    fn default_cpu(&self) -> Result<&str, Error> {
        let wanted = self.machine().and_then(|machine| machine.default_cpu.as_deref());
        wanted
            .and_then(|wanted| {
                self.capabilities.cpus.iter().find(|cpu| cpu.type_name == wanted || cpu.name == wanted)
            })
            .map(|cpu| cpu.name.as_str())
            .ok_or_else(|| {
                unsupported(format!(
                    "Machine type {} has no CPU model to add features to; name one in <cpu>",
                    self.machine_name
                ))
            })
    }

    fn cpu_model(&self, cpu: &Element) -> Result<KeyValues, Error> {
        let mode = cpu.attr("mode").unwrap_or("custom");
        let minimum = cpu.attr("match") == Some("minimum");
        let vendor = cpu.path_attr("model", "vendor_id");
        let mut list = match mode {
            "host-passthrough" => {
                let mut list = KeyValues::new("host");
                if self.arch == "x86_64"
                    && let Some(on) = switch(cpu, "migratable")
                {
                    list.switch("migratable", on);
                }
                list
            }
            "maximum" => {
                let mut list = KeyValues::new("max");
                if self.arch == "x86_64"
                    && let Some(on) = switch(cpu, "migratable")
                {
                    list.switch("migratable", on);
                }
                list
            }
            "host-model" => self.host_model(vendor),
            "custom" if minimum && self.is_x86() => self.host_model(vendor),
            "custom" => {
                let model = cpu
                    .child_text("model")
                    .filter(|model| !model.is_empty())
                    .ok_or_else(|| invalid("<cpu mode='custom'> has no <model>"))?;
                let mut list = KeyValues::new(&model);
                list.set_some("vendor", vendor);
                list
            }
            other => return Err(unsupported(format!("CPU mode '{other}' is not known"))),
        };
        for feature in cpu.all("feature") {
            let name = attr(feature, "name")?;
            if SET_BY_GUEST.contains(&name) {
                continue;
            }
            // The name becomes a key, which nothing could escape.
            if name.is_empty()
                || !name.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"_-.".contains(&letter))
            {
                return Err(invalid(format!("'{name}' can't be the name of a CPU feature")));
            }
            let on = match feature.attr("policy") {
                Some("disable" | "forbid") => false,
                Some("optional") => !self.is_unavailable(name),
                _ => true,
            };
            list.replace_switch(&self.feature_name(name), on);
        }
        Ok(list)
    }

    /// The host's model where it is known, else all that the host has.
    fn host_model(&self, vendor: Option<&str>) -> KeyValues {
        let kind = self.root.attr("type").unwrap_or_default();
        let Some(host) = &self.capabilities.host_model else {
            return if kind == "kvm" {
                let mut list = KeyValues::new("host");
                if self.is_x86() {
                    list.switch("migratable", true);
                }
                list
            } else {
                KeyValues::new("max")
            };
        };
        let mut list = KeyValues::new(&host.name);
        list.set_some("vendor", vendor);
        for (name, on) in host.given() {
            list.switch(name, on);
        }
        list
    }

    /// Whether the best CPU that there is here lacks a feature.
    fn is_unavailable(&self, feature: &str) -> bool {
        let features = &self.capabilities.cpu_features;
        !features.is_empty() && !features.contains(&self.feature_name(feature))
    }

    /// QEMU's name of a CPU feature that libvirt spells differently.
    fn feature_name(&self, name: &str) -> String {
        if !self.is_x86() {
            return name.to_owned();
        }
        match name {
            "cmp_legacy" => "cmp-legacy".to_owned(),
            "ds_cpl" => "ds-cpl".to_owned(),
            "fxsr_opt" => "fxsr-opt".to_owned(),
            "kvm_pv_eoi" => "kvm-pv-eoi".to_owned(),
            "kvm_pv_unhalt" => "kvm-pv-unhalt".to_owned(),
            "lahf_lm" => "lahf-lm".to_owned(),
            "nodeid_msr" => "nodeid-msr".to_owned(),
            "pclmuldq" => "pclmulqdq".to_owned(),
            "perfctr_core" => "perfctr-core".to_owned(),
            "perfctr_nb" => "perfctr-nb".to_owned(),
            "tsc_adjust" => "tsc-adjust".to_owned(),
            "cr8legacy" | "cr8_legacy" => "cr8legacy".to_owned(),
            other => other.to_owned(),
        }
    }

    /// Clocks that are CPU features.
    fn clock_features(&self, list: &mut KeyValues) {
        for timer in self.root.child("clock").into_iter().flat_map(|clock| clock.all("timer")) {
            let present = switch(timer, "present");
            match timer.attr("name") {
                Some("kvmclock") => {
                    if let Some(on) = present {
                        list.switch("kvmclock", on);
                    }
                }
                Some("hypervclock") if present == Some(true) => {
                    list.switch("hv-time", true);
                }
                Some("tsc") => {
                    list.set_some("tsc-frequency", timer.attr("frequency"));
                }
                Some("armvtimer") => {
                    if timer.attr("tickpolicy") == Some("discard") {
                        list.switch("kvm-no-adjvtime", true);
                    } else if timer.attr("tickpolicy") == Some("delay") {
                        list.switch("kvm-no-adjvtime", false);
                    }
                }
                _ => {}
            }
        }
    }

    fn feature_flags(&self, list: &mut KeyValues) -> Result<(), Error> {
        let Some(features) = self.root.child("features") else {
            return Ok(());
        };
        if let Some(on) = features.child("apic").and_then(|apic| switch(apic, "eoi")) {
            list.switch("kvm-pv-eoi", on);
        }
        if let Some(on) = features.child("pvspinlock").and_then(|lock| switch(lock, "state")) {
            list.switch("kvm-pv-unhalt", on);
        }
        if let Some(on) = features.child("pmu").and_then(|pmu| switch(pmu, "state")) {
            list.switch("pmu", on);
        }
        Ok(())
    }

    fn hyperv(&self, list: &mut KeyValues) -> Result<(), Error> {
        let Some(hyperv) = self.root.at("features/hyperv") else {
            return Ok(());
        };
        if hyperv.attr("mode") == Some("passthrough") {
            list.switch("hv-passthrough", true);
        }
        for feature in hyperv.elements().filter(|feature| feature.attr("state").is_some_and(is_on)) {
            let name = feature.name.replace('_', "-");
            match feature.name.as_str() {
                "spinlocks" => {
                    if let Some(retries) = number_attr(feature, "retries")? {
                        list.set("hv-spinlocks", format!("{retries:#x}"));
                    }
                }
                "vendor_id" => {
                    list.set_some("hv-vendor-id", feature.attr("value"));
                }
                _ => {
                    list.switch(&format!("hv-{name}"), true);
                }
            }
            for (part, flag) in [("direct", "direct"), ("extended", "ext")] {
                if feature.child(part).and_then(|part| switch(part, "state")) == Some(true) {
                    list.switch(&format!("hv-{name}-{flag}"), true);
                }
            }
        }
        Ok(())
    }

    fn kvm_features(&self, list: &mut KeyValues) {
        let Some(kvm) = self.root.at("features/kvm") else {
            return;
        };
        let state = |name: &str| kvm.child(name).and_then(|feature| switch(feature, "state"));
        if state("hidden") == Some(true) {
            list.switch("kvm", false);
        }
        if state("hint-dedicated") == Some(true) {
            list.switch("kvm-hint-dedicated", true);
        }
        if state("poll-control") == Some(true) {
            list.switch("kvm-poll-control", true);
        }
        if state("pv-ipi") == Some(false) {
            list.switch("kvm-pv-ipi", false);
        }
    }

    pub(crate) fn smp(&mut self) -> Result<(), Error> {
        let vcpu = self.root.child("vcpu");
        let most = vcpu.map(number_text).transpose()?.unwrap_or(1);
        let explicit = self
            .root
            .child("vcpus")
            .map(|vcpus| vcpus.all("vcpu").filter(|one| one.attr("enabled") == Some("yes")).count());
        let now = match vcpu.map(|vcpu| number_attr(vcpu, "current")).transpose()?.flatten() {
            Some(current) => current,
            None => explicit
                .and_then(|count| u64::try_from(count).ok())
                .filter(|count| *count > 0)
                .unwrap_or(most),
        };
        let mut list = KeyValues::new(&self.cold_plugged(now)?.to_string());
        if self.cold_plugged(now)? != most {
            list.set("maxcpus", most);
        }
        match self.root.at("cpu/topology") {
            Some(topology) => {
                let part = |name: &str| number_attr(topology, name).map(|value| value.unwrap_or(1));
                list.set("sockets", part("sockets")?)
                    .set("dies", part("dies")?)
                    .set("clusters", part("clusters")?)
                    .set("cores", part("cores")?)
                    .set("threads", part("threads")?);
            }
            None => {
                list.set("sockets", most).set("cores", 1).set("threads", 1);
            }
        }
        self.option("-smp", list)
    }

    /// vCPUs that are there from the start: those that are marked as pluggable come later, over the monitor.
    fn cold_plugged(&self, now: u64) -> Result<u64, Error> {
        let Some(vcpus) = self.root.child("vcpus") else {
            return Ok(now);
        };
        let pluggable = vcpus
            .all("vcpu")
            .filter(|one| one.attr("enabled") == Some("yes") && one.attr("hotpluggable") == Some("yes"))
            .count();
        Ok(now.saturating_sub(u64::try_from(pluggable).unwrap_or(u64::MAX)).max(1))
    }
}

fn cache(cpu: &Element, list: &mut KeyValues) {
    let Some(cache) = cpu.child("cache") else {
        return;
    };
    match cache.attr("mode") {
        Some("emulate") => {
            list.switch("l3-cache", true).switch("host-cache-info", false);
        }
        Some("passthrough") => {
            list.switch("host-cache-info", true).switch("l3-cache", false);
        }
        Some("disable") => {
            list.switch("host-cache-info", false).switch("l3-cache", false);
        }
        _ => {}
    }
}

fn physical_bits(cpu: &Element, list: &mut KeyValues) -> Result<(), Error> {
    let Some(bits) = cpu.child("maxphysaddr") else {
        return Ok(());
    };
    match bits.attr("mode") {
        Some("passthrough") => {
            list.switch("host-phys-bits", true);
            list.set_some("host-phys-bits-limit", number_attr(bits, "limit")?);
        }
        Some("emulate") => {
            list.set_some("phys-bits", number_attr(bits, "bits")?);
        }
        _ => {}
    }
    Ok(())
}
