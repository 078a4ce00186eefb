//! `-machine` and `-accel`.

use super::builder::{Builder, bytes, number_attr, switch, unsupported};
use super::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

impl Builder<'_> {
    /// The machine type and what is switched on it.
    pub(crate) fn machine_option(&mut self) -> Result<(), Error> {
        let mut list = KeyValues::new(self.machine_name);
        // USB controllers are devices of their own.
        list.switch("usb", false);
        self.machine_features(&mut list)?;
        let iommu = self.devices("iommu").find(|iommu| iommu.attr("model") == Some("smmuv3"));
        if iommu.is_some() {
            list.set("iommu", "smmuv3");
        }
        self.key_wrap(&mut list);
        self.pseries_features(&mut list)?;
        let core = self.root.path_attr("memory", "dumpCore").is_some_and(|value| value == "on");
        list.switch("dump-guest-core", core);
        if self.root.at("memoryBacking/nosharepages").is_some() {
            list.switch("mem-merge", false);
        }
        if self.devices("memory").any(|memory| memory.attr("model") == Some("nvdimm")) {
            list.switch("nvdimm", true);
        }
        if self.root.at("cpu/numa").is_some_and(|numa| {
            numa.child("interconnects").is_some()
                || numa.all("cell").any(|cell| cell.child("cache").is_some())
        }) {
            list.switch("hmat", true);
        }
        if let Some(id) = self.default_memory() {
            list.set("memory-backend", id);
        }
        self.pflash_machine(&mut list);
        if self.root.path_attr("os/bios", "useserial") == Some("yes") {
            list.switch("graphics", false);
        }
        self.speaker(&mut list);
        if self.is_x86() {
            for timer in self.root.at("clock").into_iter().flat_map(|clock| clock.all("timer")) {
                if let (Some("hpet"), Some(present)) = (timer.attr("name"), switch(timer, "present")) {
                    list.switch("hpet", present);
                }
            }
        }
        let acpi = self.is_x86()
            || ((self.arch == "aarch64"
                || self.arch == "armv7l"
                || self.arch.starts_with("riscv")
                || self.arch.starts_with("loongarch"))
                && self.is_machine("virt"));
        if acpi {
            list.switch("acpi", self.root.at("features/acpi").is_some());
        }
        self.option("-machine", list)
    }

    fn machine_features(&self, list: &mut KeyValues) -> Result<(), Error> {
        let Some(features) = self.root.child("features") else {
            return Ok(());
        };
        let state = |name: &str| features.child(name).and_then(|feature| switch(feature, "state"));
        if let Some(on) = state("vmport") {
            list.switch("vmport", on);
        }
        if let Some(on) = state("ps2") {
            list.switch("i8042", on);
        }
        if let Some(on) = state("smm") {
            list.switch("smm", on);
        }
        match features.child("ioapic").and_then(|ioapic| ioapic.attr("driver")) {
            Some("qemu") => {
                list.set("kernel_irqchip", "split");
            }
            Some("kvm") => {
                list.set("kernel_irqchip", "on");
            }
            _ => {}
        }
        if let Some(gic) = features.child("gic")
            && self.arch == "aarch64"
            && self.is_machine("virt")
        {
            list.set_some("gic-version", gic.attr("version"));
        }
        if let Some(on) = state("ras") {
            list.switch("ras", on);
        }
        if let Some(aia) = features.child("aia") {
            list.set_some("aia", aia.attr("value"));
        }
        Ok(())
    }

    fn key_wrap(&self, list: &mut KeyValues) {
        let ciphers = self.root.child("keywrap").into_iter().flat_map(|wrap| wrap.all("cipher"));
        for cipher in ciphers {
            let property = match cipher.attr("name") {
                Some("aes") => "aes-key-wrap",
                Some("dea") => "dea-key-wrap",
                _ => continue,
            };
            if let Some(on) = switch(cipher, "state") {
                list.switch(property, on);
            }
        }
    }

    fn pseries_features(&self, list: &mut KeyValues) -> Result<(), Error> {
        let Some(features) = self.root.child("features").filter(|_| self.is_pseries()) else {
            return Ok(());
        };
        if let Some(table) = features.child("hpt") {
            list.set_some("resize-hpt", table.attr("resizing"));
            if let Some(size) = table.child("maxpagesize") {
                let value = bytes(size, super::builder::number_text(size)?)?;
                list.set("cap-hpt-max-page-size", format!("{}k", value / 1024));
            }
        }
        for (element, property) in
            [("htm", "cap-htm"), ("nested-hv", "cap-nested-hv"), ("ccf-assist", "cap-ccf-assist")]
        {
            if let Some(on) = features.child(element).and_then(|feature| switch(feature, "state")) {
                list.switch(property, on);
            }
        }
        for name in ["cfpc", "sbbc", "ibs"] {
            if let Some(value) = features.child(name).and_then(|feature| feature.attr("value")) {
                list.set(&format!("cap-{name}"), value);
            }
        }
        Ok(())
    }

    /// The PC speaker, which is a part of the machine.
    fn speaker(&self, list: &mut KeyValues) {
        let speaker = self.devices("sound").find(|sound| sound.attr("model") == Some("pcspk"));
        if let Some(speaker) = speaker {
            let id = speaker.path_attr("audio", "id").unwrap_or("1");
            list.set("pcspk-audiodev", format!("audio{id}"));
        }
    }

    /// The accelerator.
    pub(crate) fn accelerator(&mut self) -> Result<(), Error> {
        let value = match self.root.attr("type") {
            Some("kvm") => {
                let mut list = KeyValues::new("kvm");
                if let Some(ring) = self.root.at("features/kvm/dirty-ring").filter(|ring| is_enabled(ring)) {
                    list.set_some("dirty-ring-size", number_attr(ring, "size")?);
                }
                list
            }
            Some("qemu") => {
                let mut list = KeyValues::new("tcg");
                if let Some(cache) = self.root.at("features/tcg/tb-cache") {
                    list.set("tb-size", super::builder::size_text(cache)? >> 20);
                }
                list
            }
            Some("hvf") => KeyValues::new("hvf"),
            other => {
                return Err(unsupported(format!(
                    "Domain type '{}' is not one that QEMU runs; use kvm or qemu",
                    other.unwrap_or_default()
                )));
            }
        };
        self.option("-accel", value)
    }

    /// `-global` of the machine's parts that come with it.
    pub(crate) fn tseg(&mut self) -> Result<(), Error> {
        let Some(tseg) = self.root.at("features/smm/tseg") else {
            return Ok(());
        };
        let size = super::builder::size_text(tseg)? >> 20;
        self.option("-global", KeyValues::empty().with("mch.extended-tseg-mbytes", size))
    }
}

fn is_enabled(element: &Element) -> bool {
    switch(element, "state") == Some(true)
}
