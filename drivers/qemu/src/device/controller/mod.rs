//! `<controller>`.

pub(crate) mod args;

use super::common::{self, ATS, IOMMU, PACKED, PAGE_PER_VQ};
use super::refusal;
use super::schema::{Shape, attribute, content, number, on_off, one_of, shape, text};
use super::value::{self, Kind};
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

const DRIVER: Shape = shape(
    "driver",
    &[
        number("queues"),
        number("cmd_per_lun"),
        number("max_sectors"),
        on_off("ioeventfd"),
        attribute("iothread", Kind::Number(1, u32::MAX as u64)),
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
    &[common::IOTHREADS],
);

const TARGET: Shape = shape(
    "target",
    &[
        attribute("chassisNr", Kind::As(Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, &Kind::Number(1, 255))),
        attribute("chassis", Kind::As(Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, &Kind::Number(0, 255))),
        attribute("port", Kind::Hex(1, 255)),
        attribute("busNr", Kind::Number(1, 254)),
        attribute("index", Kind::Number(0, 30)),
        on_off("hotplug"),
    ],
    &[content("node", Kind::Number(0, i32::MAX as u64))],
);

const CONTROLLER: Shape = shape(
    "controller",
    &[
        one_of(
            "type",
            &["ide", "fdc", "scsi", "sata", "virtio-serial", "ccid", "usb", "pci", "xenbus", "isa"],
        ),
        number("index"),
        text("model"),
        number("ports"),
        number("vectors"),
        number("maxGrantFrames"),
        number("maxEventChannels"),
    ],
    &[shape("model", &[text("name")], &[]), TARGET, DRIVER],
);

/// The models of each type.
const MODELS: &[(&str, &[&str])] = &[
    (
        "scsi",
        &[
            "auto",
            "buslogic",
            "lsilogic",
            "lsisas1068",
            "vmpvscsi",
            "ibmvscsi",
            "virtio-scsi",
            "lsisas1078",
            "virtio-transitional",
            "virtio-non-transitional",
            "ncr53c90",
            "dc390",
            "am53c974",
        ],
    ),
    (
        "usb",
        &[
            "piix3-uhci",
            "piix4-uhci",
            "ehci",
            "ich9-ehci1",
            "ich9-uhci1",
            "ich9-uhci2",
            "ich9-uhci3",
            "vt82c686b-uhci",
            "pci-ohci",
            "nec-xhci",
            "qusb1",
            "qusb2",
            "qemu-xhci",
            "none",
        ],
    ),
    (
        "pci",
        &[
            "pci-root",
            "pcie-root",
            "pci-bridge",
            "dmi-to-pci-bridge",
            "pcie-to-pci-bridge",
            "pcie-root-port",
            "pcie-switch-upstream-port",
            "pcie-switch-downstream-port",
            "pci-expander-bus",
            "pcie-expander-bus",
        ],
    ),
    ("ide", &["piix3", "piix4", "ich6"]),
    ("virtio-serial", &["virtio", "virtio-transitional", "virtio-non-transitional"]),
    ("isa", &[]),
    ("sata", &[]),
    ("fdc", &[]),
    ("ccid", &[]),
    ("xenbus", &[]),
];

/// The devices behind the models of PCI controllers.
const PCI_DEVICES: &[&str] = &[
    "pci-bridge",
    "i82801b11-bridge",
    "ioh3420",
    "x3130-upstream",
    "xio3130-downstream",
    "pxb",
    "pxb-pcie",
    "pcie-root-port",
    "spapr-pci-host-bridge",
    "pcie-pci-bridge",
];

/// What the rest of the driver asks about a controller.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The type (`pci`, `usb`, ...).
    pub(crate) fn kind(self) -> &'a str {
        self.0.attr("type").unwrap_or_default()
    }

    /// The number among its type.
    pub(crate) fn index(self) -> Option<u32> {
        self.0.attr("index").and_then(|index| index.parse().ok())
    }

    /// The model, if one is named.
    pub(crate) fn model(self) -> Option<&'a str> {
        self.0.attr("model")
    }
}

/// The canonical form of a controller. Index, and a model that depends on the machine, are the domain's to add.
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut controller = CONTROLLER.read(input)?;
    if controller.attr("type").is_none() {
        controller.set("type", "ide");
    }
    let kind = View(&controller).kind().to_owned();
    complete_model(input, &mut controller, &kind)?;
    if controller.attr("model").is_none()
        && let Some(model) = default_model(&kind, context)
        && (model != "none" || input.child("address").is_none())
    {
        controller.set("model", model);
    }
    complete_ports(&mut controller, &kind);
    complete_device(&mut controller, context);
    if kind != "pci" {
        controller.take("model");
        controller.take("target");
    } else if let Some(name) = controller.path_attr("model", "name")
        && !PCI_DEVICES.contains(&name)
    {
        return Err(refusal::value(input, format!("a PCI controller can't be a '{name}'")));
    }
    check_companion(input, &kind)?;
    CONTROLLER.arrange(&mut controller);
    common::append(input, &mut controller, common::PLAIN)?;
    if kind != "usb" {
        controller.take("master");
    } else if controller.child("master").is_none()
        && let Some((_, port)) = COMPANIONS.iter().find(|(model, _)| controller.attr("model") == Some(model))
    {
        let address = controller.take("address");
        controller.push(Element::new("master").with("startport", *port));
        controller.children.extend(address.map(bulkhead_xml::Node::Element));
    }
    append_hole(input, &mut controller, &kind)?;
    Ok(controller)
}

fn complete_model(input: &Element, controller: &mut Element, kind: &str) -> Result<(), Error> {
    let Some(model) = View(controller).model() else {
        return Ok(());
    };
    let known =
        MODELS.iter().find(|(name, _)| *name == kind).is_none_or(|(_, models)| models.contains(&model));
    if !known {
        return Err(refusal::unsupported(
            input,
            format!("a controller of type '{kind}' can't have model '{model}'"),
        ));
    }
    if model == "auto" {
        controller.unset("model");
    }
    Ok(())
}

/// The model of a controller that a client asked for without naming one.
pub(crate) fn default_model(kind: &str, context: &Context<'_>) -> Option<&'static str> {
    let recent = matches!(context.arch.as_str(), "aarch64" | "ppc64" | "ppc64le" | "loongarch64");
    match kind {
        "usb" if context.is_s390() => Some("none"),
        "usb" if recent => Some("qemu-xhci"),
        "usb" => Some("piix3-uhci"),
        "scsi" if context.is_pseries() => Some("ibmvscsi"),
        "scsi" if context.is_s390() || context.arch == "loongarch64" => Some("virtio-scsi"),
        "scsi" => Some("lsilogic"),
        _ => None,
    }
}

/// QEMU's device behind a model of PCI controller.
const DEVICES_OF_MODELS: &[(&str, &str)] = &[
    ("pci-bridge", "pci-bridge"),
    ("dmi-to-pci-bridge", "i82801b11-bridge"),
    ("pcie-to-pci-bridge", "pcie-pci-bridge"),
    ("pcie-root-port", "pcie-root-port"),
    ("pcie-switch-upstream-port", "x3130-upstream"),
    ("pcie-switch-downstream-port", "xio3130-downstream"),
    ("pci-expander-bus", "pxb"),
    ("pcie-expander-bus", "pxb-pcie"),
];

fn complete_device(controller: &mut Element, context: &Context<'_>) {
    let view = View(controller);
    if view.kind() != "pci" || controller.path_attr("model", "name").is_some() {
        return;
    }
    let device = match view.model() {
        Some("pci-root") if context.is_pseries() => Some("spapr-pci-host-bridge"),
        Some(model) => DEVICES_OF_MODELS.iter().find(|(name, _)| *name == model).map(|(_, device)| *device),
        None => None,
    };
    if let Some(device) = device {
        controller.child_or_insert("model").set("name", device);
    }
}

fn complete_ports(controller: &mut Element, kind: &str) {
    let dropped: &[&str] = match kind {
        "virtio-serial" => &["maxGrantFrames", "maxEventChannels"],
        "usb" => &["vectors", "maxGrantFrames", "maxEventChannels"],
        "xenbus" => &["ports", "vectors"],
        _ => &["ports", "vectors", "maxGrantFrames", "maxEventChannels"],
    };
    for name in dropped {
        controller.unset(name);
    }
}

/// The companions of an EHCI controller, and the port of it that each serves first.
const COMPANIONS: &[(&str, &str)] = &[("ich9-uhci1", "0"), ("ich9-uhci2", "2"), ("ich9-uhci3", "4")];

/// The companions of an EHCI controller share its index and say at which of its ports they begin.
fn check_companion(input: &Element, kind: &str) -> Result<(), Error> {
    if let Some(start) = input.path_attr("master", "startport")
        && kind == "usb"
        && value::decimal(start).is_none()
    {
        return Err(refusal::internal(input, format!("startport '{start}' of its <master> is not a number")));
    }
    Ok(())
}

fn append_hole(input: &Element, controller: &mut Element, kind: &str) -> Result<(), Error> {
    let Some(hole) = input.child("pcihole64") else {
        return Ok(());
    };
    if kind != "pci" {
        return Ok(());
    }
    let bytes = value::bytes(&hole.text(), hole.attr("unit"), 1024, "<pcihole64>")?;
    controller
        .push(Element::new("pcihole64").with("unit", "KiB").with_text(bytes.div_ceil(1024).to_string()));
    Ok(())
}

/// Whether the controller's numbers are ones that QEMU's device takes.
pub(crate) fn check(controller: &Element, context: &Context<'_>) -> Result<(), Error> {
    if View(controller).kind() == "ide" {
        let built_in = context.is_i440fx()
            || matches!(context.machine.as_str(), "isapc" | "malta" | "sun4u" | "g3beige" | "mac99");
        if !built_in {
            return Err(refusal::unsupported_by_qemu(
                controller,
                format!("machine '{}' has no IDE; use 'sata', 'scsi' or 'virtio'", context.machine),
            ));
        }
        if View(controller).index().is_some_and(|index| index > 0) {
            return Err(refusal::unsupported_by_qemu(
                controller,
                format!("machine '{}' has one IDE controller, with index 0", context.machine),
            ));
        }
    }
    if View(controller).kind() == "scsi"
        && !matches!(
            View(controller).model(),
            Some("virtio-scsi" | "virtio-transitional" | "virtio-non-transitional")
        )
        && controller.child("driver").is_some_and(|driver| {
            ["queues", "cmd_per_lun", "max_sectors", "ioeventfd"]
                .iter()
                .any(|name| driver.attr(name).is_some())
        })
    {
        return Err(refusal::unsupported_by_qemu(
            controller,
            "its <driver> options need model 'virtio-scsi'",
        ));
    }
    check_pci(controller, context)?;
    let xhci = matches!(View(controller).model(), Some("nec-xhci" | "qemu-xhci"));
    match controller.attr("ports").and_then(value::decimal) {
        Some(ports) if xhci && ports > 15 => Err(refusal::unsupported_by_qemu(
            controller,
            format!("an xHCI controller has up to 15 ports, not {ports}"),
        )),
        _ => Ok(()),
    }
}

/// Host bridges of pseries are numbered like their controllers; NUMA nodes are those of the guest.
fn check_pci(controller: &Element, context: &Context<'_>) -> Result<(), Error> {
    let view = View(controller);
    if view.kind() != "pci" {
        return Ok(());
    }
    let node = controller.at("target/node").and_then(|node| value::decimal(&node.text()));
    if context.is_pseries() && view.model() == Some("pci-root") {
        let target = controller.path_attr("target", "index");
        if node.is_some() && view.index() == Some(0) {
            return Err(refusal::unsupported(
                controller,
                "the PCI controller with index 0 can't belong to a NUMA node; remove <node>",
            ));
        }
        if target.is_some_and(|target| (target == "0") != (view.index() == Some(0))) {
            return Err(refusal::unsupported(
                controller,
                "target index 0 belongs to the PCI controller with index 0 and to no other",
            ));
        }
    }
    let cells = context.document.at("cpu/numa").map_or(0, |numa| numa.all("cell").count() as u64);
    match node {
        Some(node) if node >= cells && !context.is_pseries() => Err(Error::new(
            Code::XML_ERROR,
            Origin::QEMU,
            format!(
                "<controller> ({}): the guest has no NUMA node {node}; add it to <cpu><numa>",
                controller.position
            ),
        )),
        _ => Ok(()),
    }
}
