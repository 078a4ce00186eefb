//! `<domainCapabilities>`: what a domain of one emulator, machine and accelerator may ask for. Each value stands here beside
//! the thing that QEMU must have for it.

use super::{parent, text, yes};
use crate::capabilities::{Capabilities, Machine, usual_name};
use crate::domain::host::Firmware;
use bulkhead_xml::Element;

/// What the document is about.
pub(crate) struct Subject<'a> {
    pub(crate) arch: &'a str,
    pub(crate) emulator: &'a str,
    pub(crate) machine: &'a Machine,
    pub(crate) kvm: bool,
    pub(crate) capabilities: &'a Capabilities,
    pub(crate) firmware: &'a [Firmware],
    /// How wide the host's physical addresses are.
    pub(crate) physical_bits: Option<u32>,
    /// Has the host swtpm?
    pub(crate) tpm_emulator: bool,
}

/// Beginnings of the models' names of each vendor's processors.
const VENDORS: &[(&str, &[&str])] = &[
    ("AMD", &["EPYC", "Opteron", "athlon", "phenom"]),
    ("Hygon", &["Dhyana"]),
    (
        "Intel",
        &[
            "Broadwell",
            "Cascadelake",
            "ClearwaterForest",
            "Conroe",
            "Cooperlake",
            "Denverton",
            "GraniteRapids",
            "Haswell",
            "Icelake",
            "IvyBridge",
            "KnightsMill",
            "Nehalem",
            "Penryn",
            "SandyBridge",
            "SapphireRapids",
            "SierraForest",
            "Skylake",
            "Snowridge",
            "Westmere",
            "core2duo",
            "coreduo",
            "n270",
        ],
    ),
];

fn vendor(model: &str) -> &'static str {
    let mut vendors = VENDORS.iter();
    let of = vendors.find(|(_, models)| models.iter().any(|start| model.starts_with(start)));
    of.map_or("unknown", |(vendor, _)| *vendor)
}

/// An `<enum>` of these values.
fn choice<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Element {
    parent("enum", values.into_iter().map(|value| text("value", value))).with("name", name)
}

/// A device that is to be had, with the choices that there are.
fn supported(name: &str, choices: impl IntoIterator<Item = Element>) -> Element {
    parent(name, choices).with("supported", "yes")
}

impl Subject<'_> {
    fn has(&self, type_name: &str) -> bool {
        self.capabilities.has_type(type_name)
    }

    fn is_x86(&self) -> bool {
        matches!(self.arch, "x86_64" | "i686")
    }

    /// The values whose device QEMU has.
    fn those<'v>(&self, all: &[(&'v str, &str)]) -> Vec<&'v str> {
        all.iter()
            .filter(|(_, device)| device.is_empty() || self.has(device))
            .map(|(value, _)| *value)
            .collect()
    }

    /// The document.
    pub(crate) fn describe(&self) -> Element {
        let memory = ["file", "anonymous", "memfd"];
        parent(
            "domainCapabilities",
            [
                text("path", self.emulator),
                text("domain", if self.kvm { "kvm" } else { "qemu" }),
                text("machine", self.machine.name.as_str()),
                text("arch", self.arch),
                Element::new("vcpu").with("max", self.machine.cpu_max.to_string()),
                Element::new("iothreads").with("supported", yes(self.has("iothread"))),
                self.boot(),
                self.processor(),
                supported("memoryBacking", [choice("sourceType", memory)]),
                self.devices(),
                self.features(),
            ],
        )
    }

    fn boot(&self) -> Element {
        let base = self.machine.name.as_str();
        let fits = |firmware: &&Firmware| {
            firmware.arch == self.arch
                && firmware.machines.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => base.starts_with(start),
                    None => pattern == base,
                })
        };
        let fitting: Vec<&Firmware> = self.firmware.iter().filter(fits).collect();
        let mut loaders: Vec<&str> = Vec::new();
        for firmware in &fitting {
            if !loaders.contains(&firmware.loader.as_str()) {
                loaders.push(&firmware.loader);
            }
        }
        let secure =
            fitting.iter().any(|firmware| firmware.features.iter().any(|feature| feature == "requires-smm"));
        let mut loader = supported("loader", loaders.into_iter().map(|path| text("value", path)));
        loader.push(choice("type", ["rom", "pflash"]));
        loader.push(choice("readonly", ["yes", "no"]));
        loader.push(choice("secure", if secure { &["yes", "no"][..] } else { &["no"] }.iter().copied()));
        let kinds = if fitting.is_empty() { &[][..] } else { &["efi"] };
        supported("os", [choice("firmware", kinds.iter().copied()), loader])
    }

    fn processor(&self) -> Element {
        let mut cpu = Element::new("cpu");
        let mode =
            |name: &str, has: bool| Element::new("mode").with("name", name).with("supported", yes(has));
        let switchable = |name: &str, choice_name: &str, has: bool| {
            let entry = mode(name, has);
            if has { entry.with_child(choice(choice_name, ["on", "off"])) } else { entry }
        };
        cpu.push(switchable("host-passthrough", "hostPassthroughMigratable", self.kvm));
        let maximum = self.capabilities.cpus.iter().any(|cpu| cpu.name == "max");
        cpu.push(switchable("maximum", "maximumMigratable", maximum));
        match &self.capabilities.host_model {
            Some(host) => {
                let mut entry = mode("host-model", true)
                    .with_child(text("model", host.name.as_str()).with("fallback", "forbid"));
                if !host.vendor.is_empty() {
                    entry.push(text("vendor", host.vendor.as_str()));
                }
                // An emulated processor has no width of the host's.
                if let Some(bits) = self.physical_bits.filter(|_| self.kvm) {
                    entry.push(
                        Element::new("maxphysaddr")
                            .with("mode", "passthrough")
                            .with("limit", bits.to_string()),
                    );
                }
                for (name, on) in &host.features {
                    let policy = if *on { "require" } else { "disable" };
                    entry.push(Element::new("feature").with("policy", policy).with("name", usual_name(name)));
                }
                cpu.push(entry);
            }
            None => cpu.push(mode("host-model", false)),
        }
        let mut custom = mode("custom", true);
        let mut models: Vec<_> = self.capabilities.cpus.iter().collect();
        models.sort_by(|one, other| one.name.cmp(&other.name));
        for model in models.into_iter().filter(|model| {
            // Those are modes of their own where they are to be had.
            !matches!(model.name.as_str(), "host" | "base") && (model.name != "max" || !self.is_x86())
        }) {
            let usable = match &model.unavailable {
                None => "unknown",
                Some(missing) => yes(missing.is_empty()),
            };
            let mut entry = text("model", model.name.as_str()).with("usable", usable);
            if model.deprecated {
                entry.set("deprecated", "yes");
            }
            entry.set("vendor", vendor(&model.name));
            if let Some(canonical) = &model.alias_of {
                entry.set("canonical", canonical.as_str());
            }
            custom.push(entry);
            if let Some(missing) = model.unavailable.as_ref().filter(|missing| !missing.is_empty()) {
                let mut missing: Vec<&str> = missing.iter().map(|name| usual_name(name)).collect();
                missing.sort_unstable();
                missing.dedup();
                let features = missing.into_iter().map(|name| Element::new("feature").with("name", name));
                custom.push(parent("blockers", features).with("model", model.name.as_str()));
            }
        }
        cpu.with_child(custom)
    }

    fn devices(&self) -> Element {
        let virtio = ["virtio", "virtio-transitional", "virtio-non-transitional"];
        let q35 = self.machine.name.starts_with("pc-q35");
        let i440fx = self.machine.name.starts_with("pc-i440fx");
        let buses = [
            (i440fx, "ide"),
            (true, "fdc"),
            (true, "scsi"),
            (true, "virtio"),
            (true, "usb"),
            (!self.is_x86() || q35 || i440fx, "sata"),
        ];
        let buses = buses.iter().filter(|(has, _)| *has).map(|(_, bus)| *bus);
        let graphics =
            [("sdl", ""), ("vnc", ""), ("spice", "chardev-spicevmc"), ("egl-headless", ""), ("dbus", "")];
        let mut video =
            vec![("vga", "VGA"), ("cirrus", "cirrus-vga"), ("vmvga", "vmware-svga"), ("qxl", "qxl")];
        video.extend([
            ("virtio", "virtio-gpu-pci"),
            ("none", ""),
            ("bochs", "bochs-display"),
            ("ramfb", "ramfb"),
        ]);
        let mut devices = vec![
            supported(
                "disk",
                [
                    choice("diskDevice", ["disk", "cdrom", "floppy", "lun"]),
                    choice("bus", buses),
                    choice("model", virtio),
                ],
            ),
            supported("graphics", [choice("type", self.those(&graphics))]),
            supported("video", [choice("modelType", self.those(&video))]),
            supported(
                "hostdev",
                [
                    choice("mode", ["subsystem"]),
                    choice("startupPolicy", ["default", "mandatory", "requisite", "optional"]),
                    choice("subsysType", ["usb", "pci", "scsi"]),
                    choice("capsType", []),
                    choice("pciBackend", []),
                ],
            ),
            supported(
                "rng",
                [
                    choice("model", virtio),
                    choice(
                        "backendModel",
                        self.those(&[
                            ("random", "rng-random"),
                            ("egd", "rng-egd"),
                            ("builtin", "rng-builtin"),
                        ]),
                    ),
                ],
            ),
            supported(
                "filesystem",
                [choice(
                    "driverType",
                    self.those(&[("path", ""), ("handle", ""), ("virtiofs", "vhost-user-fs-device")]),
                )],
            ),
        ];
        let tpms = self.those(&[
            ("tpm-tis", "tpm-tis"),
            ("tpm-tis", "tpm-tis-device"),
            ("tpm-crb", "tpm-crb"),
            ("tpm-spapr", "tpm-spapr"),
        ]);
        let mut backends = vec!["passthrough"];
        if self.tpm_emulator {
            backends.push("emulator");
        }
        backends.push("external");
        devices.push(match tpms.is_empty() {
            true => Element::new("tpm").with("supported", "no"),
            false => supported(
                "tpm",
                [
                    choice("model", tpms),
                    choice("backendModel", backends),
                    choice("backendVersion", ["1.2", "2.0"]),
                ],
            ),
        });
        devices.push(match self.has("usb-redir") {
            true => supported("redirdev", [choice("bus", ["usb"])]),
            false => Element::new("redirdev").with("supported", "no"),
        });
        devices.push(supported(
            "channel",
            [choice("type", self.those(&[("pty", ""), ("unix", ""), ("spicevmc", "chardev-spicevmc")]))],
        ));
        devices.push(supported(
            "crypto",
            [choice("model", ["virtio"]), choice("type", ["qemu"]), choice("backendModel", ["builtin"])],
        ));
        devices.push(supported("interface", [choice("backendType", ["default", "passt"])]));
        let mut panics = self.those(&[("isa", "pvpanic"), ("pvpanic", "pvpanic-pci")]);
        if self.is_x86() {
            panics.insert(panics.len().min(1), "hyperv");
        }
        devices.push(supported("panic", [choice("model", panics)]));
        parent("devices", devices)
    }

    fn features(&self) -> Element {
        let switch = |name: &str, has: bool| Element::new(name).with("supported", yes(has));
        let gic = if self.arch == "aarch64" || self.arch == "armv7l" {
            supported("gic", [choice("version", ["2", "3"])])
        } else {
            switch("gic", false)
        };
        let mut features = vec![
            gic,
            switch("vmcoreinfo", self.has("vmcoreinfo")),
            switch("genid", self.has("vmgenid")),
            switch("backingStoreInput", true),
            // Until block jobs stand: what is told here is what a client may ask for.
            switch("backup", false),
            switch("async-teardown", self.capabilities.has_option("run-with", "async-teardown")),
            switch("ps2", self.is_x86()),
            switch("sev", false),
            switch("sgx", false),
        ];
        if self.is_x86() {
            let hyperv = ["spinlocks", "vendor_id"];
            features.push(supported("hyperv", [choice("features", hyperv)]));
        }
        features.push(switch("launchSecurity", false));
        parent("features", features)
    }
}
