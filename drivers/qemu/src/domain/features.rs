//! `<features>`: what the machine has switched on or off.

use super::context::Context;
use super::refuse;
use crate::device::schema::{Attribute, Shape, attribute, flag, number, on_off, one_of, shape, text, yes_no};
use crate::device::value::Kind;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const STATE: Attribute = on_off("state");

/// A feature that has a state and nothing else.
const fn switch(name: &'static str) -> Shape {
    shape(name, &[STATE], &[])
}

const HYPERV: Shape = shape(
    "hyperv",
    &[one_of("mode", &["custom", "passthrough", "host-model"])],
    &[
        switch("relaxed"),
        switch("vapic"),
        shape("spinlocks", &[STATE, number("retries")], &[]),
        switch("vpindex"),
        switch("runtime"),
        switch("synic"),
        shape("stimer", &[STATE], &[switch("direct")]),
        switch("reset"),
        shape("vendor_id", &[STATE, text("value")], &[]),
        switch("frequencies"),
        switch("reenlightenment"),
        shape("tlbflush", &[STATE], &[switch("direct"), switch("extended")]),
        switch("ipi"),
        switch("evmcs"),
        switch("avic"),
        switch("emsr_bitmap"),
        switch("xmm_input"),
    ],
);

const KVM: Shape = shape(
    "kvm",
    &[],
    &[
        switch("hidden"),
        switch("hint-dedicated"),
        switch("poll-control"),
        switch("pv-ipi"),
        shape("dirty-ring", &[STATE, attribute("size", Kind::Number(1024, 65536))], &[]),
    ],
);

const XEN: Shape = shape(
    "xen",
    &[],
    &[
        switch("e820_host"),
        shape("passthrough", &[STATE, one_of("mode", &["default", "sync_pt", "share_pt"])], &[]),
    ],
);

const FEATURES: Shape = shape(
    "features",
    &[],
    &[
        flag("acpi"),
        flag("apic").with(&[on_off("eoi")]),
        flag("pae"),
        flag("viridian"),
        flag("privnet"),
        shape("hap", &[STATE], &[]).kept(),
        HYPERV.kept(),
        KVM,
        XEN,
        shape("pvspinlock", &[STATE], &[]).kept(),
        shape("pmu", &[STATE], &[]).kept(),
        shape("vmport", &[STATE], &[]).kept(),
        flag("gic").with(&[one_of("version", &["host", "2", "3"])]),
        shape("smm", &[STATE], &[shape("tseg", &[text("unit")], &[]).kept()]).kept(),
        shape("ioapic", &[one_of("driver", &["kvm", "qemu"]).required()], &[]),
        shape(
            "hpt",
            &[one_of("resizing", &["enabled", "disabled", "required"])],
            &[shape("maxpagesize", &[text("unit")], &[]).kept()],
        ),
        shape("vmcoreinfo", &[STATE], &[]).kept(),
        switch("htm"),
        switch("nested-hv"),
        switch("msrs").with(&[one_of("unknown", &["ignore", "fault"]).required()]),
        switch("ccf-assist"),
        shape("cfpc", &[one_of("value", &["broken", "workaround", "fixed"]).required()], &[]),
        shape("sbbc", &[one_of("value", &["broken", "workaround", "fixed"]).required()], &[]),
        shape(
            "ibs",
            &[one_of("value", &["broken", "workaround", "fixed-ibs", "fixed-ccd", "fixed-na"]).required()],
            &[],
        ),
        shape("tcg", &[], &[shape("tb-cache", &[text("unit")], &[]).kept()]),
        shape("async-teardown", &[yes_no("enabled")], &[]).kept(),
        shape("ras", &[STATE], &[]).kept(),
        shape("ps2", &[STATE], &[]).kept(),
        shape("aia", &[one_of("value", &["none", "aplic", "aplic-imsic"]).required()], &[]),
        shape("capabilities", &[one_of("policy", &["default", "allow", "deny"]).required()], &[]).kept(),
    ],
);

/// Capabilities of a container, which a QEMU guest does not use but keeps.
fn capabilities(given: &Element, features: &mut Element) {
    if let Some(from) = given.child("capabilities")
        && let Some(to) = features.child_mut("capabilities")
    {
        for capability in from.elements() {
            if let Some(state @ ("on" | "off")) = capability.attr("state") {
                to.push(Element::new(&capability.name).with("state", state));
            }
        }
    }
}

/// The features in canonical form, if there is any.
pub(super) fn complete(input: &Element, context: &Context) -> Result<Option<Element>, Error> {
    let Some(given) = input.child("features") else {
        return Ok(default_features(context));
    };
    let mut features = FEATURES.read(given)?;
    capabilities(given, &mut features);
    if features
        .child("capabilities")
        .is_some_and(|c| c.attr("policy") == Some("default") && c.children.is_empty())
    {
        features.take("capabilities");
    }
    for name in ["pvspinlock", "pmu", "vmport", "smm", "vmcoreinfo", "hap", "ras", "ps2"] {
        if let Some(feature) = features.child_mut(name)
            && feature.attr("state").is_none()
        {
            feature.attributes.insert(0, ("state".to_owned(), "on".to_owned()));
        }
    }
    if let Some(teardown) = features.child_mut("async-teardown")
        && teardown.attr("enabled").is_none()
    {
        teardown.set("enabled", "yes");
    }
    complete_sizes(given, &mut features);
    complete_hyperv(given, &mut features)?;
    complete_kvm(&features)?;
    complete_gic(&mut features, context);
    check(&features, context)?;
    FEATURES.arrange(&mut features);
    Ok((!features.children.is_empty()).then_some(features))
}

/// A guest without `<features>` still gets what its machine can't do without.
fn default_features(context: &Context) -> Option<Element> {
    let mut features = Element::new("features");
    complete_gic(&mut features, context);
    (!features.children.is_empty()).then_some(features)
}

fn complete_sizes(given: &Element, features: &mut Element) {
    for (path, parent, name, default) in [
        ("smm/tseg", "smm", "tseg", "MiB"),
        ("hpt/maxpagesize", "hpt", "maxpagesize", "KiB"),
        ("tcg/tb-cache", "tcg", "tb-cache", "MiB"),
    ] {
        let Some(from) = given.at(path) else { continue };
        let bytes = crate::device::value::bytes(&from.text(), from.attr("unit"), 1, path).ok();
        let (unit, size) = match (bytes, default) {
            (Some(bytes), _) if from.attr("unit").is_some() || default == "B" => match name {
                "maxpagesize" => ("KiB", bytes >> 10),
                _ if bytes % (1 << 30) == 0 && name != "tseg" && name != "tb-cache" => ("GiB", bytes >> 30),
                _ if bytes % (1 << 20) == 0 => ("MiB", bytes >> 20),
                _ if bytes % (1 << 10) == 0 => ("KiB", bytes >> 10),
                _ => ("B", bytes),
            },
            (Some(count), _) => (default, count),
            (None, _) => continue,
        };
        if let Some(to) = features.child_mut(parent).and_then(|parent| parent.child_mut(name)) {
            to.set("unit", unit);
            to.set_text(size.to_string());
        }
    }
}

fn complete_hyperv(given: &Element, features: &mut Element) -> Result<(), Error> {
    let Some(hyperv) = features.child_mut("hyperv") else {
        return Ok(());
    };
    let mode = hyperv.attr("mode").unwrap_or("custom").to_owned();
    if mode != "custom" {
        // What the host offers is switched on as a whole.
        hyperv.children.clear();
    }
    hyperv.set("mode", mode);
    for child in hyperv.elements_mut() {
        if child.attr("state").is_none() {
            return Err(refuse::value(format!("<hyperv>: feature '{}' needs its 'state'", child.name)));
        }
        let on = child.attr("state") == Some("on");
        if child.name == "spinlocks" {
            let retries = child.attr("retries").and_then(|r| r.parse::<u32>().ok());
            if !on {
                child.unset("retries");
            } else if retries.is_none_or(|retries| retries < 4095) {
                return Err(refuse::xml("<hyperv>: spinlocks need at least 4095 retries"));
            }
        }
        if child.name == "vendor_id" {
            let value = child.attr("value").unwrap_or_default().to_owned();
            if !on {
                child.unset("value");
            } else if value.len() > 12 {
                return Err(refuse::xml("<hyperv>: vendor_id has more than 12 characters"));
            } else if value.contains(',') {
                return Err(refuse::xml("<hyperv>: vendor_id holds a comma"));
            }
        }
        if !on {
            child.children.clear();
        }
    }
    if features
        .child("hyperv")
        .is_some_and(|hyperv| hyperv.children.is_empty() && hyperv.attr("mode") == Some("custom"))
        && given.path_attr("hyperv", "mode").is_none()
    {
        features.take("hyperv");
    }
    Ok(())
}

fn complete_kvm(features: &Element) -> Result<(), Error> {
    if let Some(ring) = features.at("kvm/dirty-ring")
        && ring.attr("state") == Some("on")
    {
        let size = ring.attr("size").and_then(|size| size.parse::<u32>().ok());
        if !size.is_some_and(u32::is_power_of_two) {
            return Err(refuse::xml("<kvm>: the dirty ring's size is not a power of two from 1024 to 65536"));
        }
    }
    Ok(())
}

/// The interrupt controller of an Arm `virt` machine: version 2 unless said otherwise.
fn complete_gic(features: &mut Element, context: &Context) {
    if !(context.is_arm() && context.is_virt()) {
        return;
    }
    let gic = features.child_or_insert("gic");
    if gic.attr("version").is_none() {
        gic.set("version", "2");
    }
}

fn is_on(features: &Element, name: &str) -> bool {
    features.child(name).is_some_and(|f| f.attr("state") != Some("off"))
}

fn check(features: &Element, context: &Context) -> Result<(), Error> {
    let misplaced = |name: &str| {
        Err(refuse::unsupported_by_qemu(format!(
            "Feature '{name}' is not for architecture '{}' and machine type '{}'",
            context.arch, context.machine
        )))
    };
    for feature in features.elements() {
        match feature.name.as_str() {
            "acpi" => {
                let has = context.is_x86() || context.is_virt() && context.arch != "riscv32";
                if !has {
                    return Err(refuse::unsupported_by_qemu(format!(
                        "Machine type '{}' has no ACPI; remove <acpi/>",
                        context.machine
                    )));
                }
                let uefi = context.document.path_attr("os", "firmware") == Some("efi")
                    || context.document.path_attr("os/loader", "type") == Some("pflash");
                if matches!(context.arch.as_str(), "aarch64" | "armv7l") && !uefi {
                    return Err(refuse::unsupported_by_qemu(
                        "ACPI needs UEFI on this architecture; set firmware='efi' in <os>",
                    ));
                }
            }
            name @ ("hpt" | "htm" | "nested-hv" | "ccf-assist" | "cfpc" | "sbbc" | "ibs")
                if !context.is_pseries() =>
            {
                return misplaced(name);
            }
            "gic" if !(context.is_arm() && context.is_virt()) => return misplaced("gic"),
            "smm" if !context.is_x86() || context.is_i440fx() && is_on(features, "smm") => {
                return misplaced("smm");
            }
            "vmport" if !context.is_x86() => return misplaced("vmport"),
            "aia" if !(context.is_riscv() && context.is_virt()) => return misplaced("aia"),
            "ps2" if !context.is_x86() => return misplaced("ps2"),
            _ => {}
        }
    }
    if is_on(features, "vmport")
        && features.child("ps2").and_then(|ps2| ps2.attr("state")) == Some("off")
        && features.child("vmport").is_some()
    {
        return Err(refuse::unsupported_by_qemu("Feature 'vmport' needs 'ps2'; switch it on or remove it"));
    }
    Ok(())
}

/// The features with system management mode switched on, for firmware that needs it.
pub(super) fn with_smm(features: Option<Element>) -> Element {
    let mut features = features.unwrap_or_else(|| Element::new("features"));
    features.child_or_insert("smm").set("state", "on");
    FEATURES.arrange(&mut features);
    features
}
