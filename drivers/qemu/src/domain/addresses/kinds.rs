//! Which devices sit on PCI, and what they plug into.

use super::super::context::Context;
use super::slots::Plug;
use bulkhead_xml::Element;

/// The order in which kinds get their addresses; controllers come twice, those of PCI itself first.
pub(super) const ORDER: &[&str] = &[
    "filesystem",
    "interface",
    "sound",
    "controller",
    "disk",
    HOST_INTERFACE,
    "hostdev",
    "memballoon",
    "rng",
    "watchdog",
    "video",
    "shmem",
    "input",
    "parallel",
    "serial",
    "vsock",
    "crypto",
    "memory",
    "iommu",
    "panic",
];

/// Stands for interfaces of type 'hostdev' in [`ORDER`].
pub(super) const HOST_INTERFACE: &str = "interface type='hostdev'";

/// A virtio device: one that also speaks the old protocol needs conventional PCI.
fn virtio(model: Option<&str>) -> Plug {
    match model {
        Some("virtio-transitional") => Plug::Pci,
        _ => Plug::Pcie,
    }
}

/// What a device plugs into; `None` if it is no PCI device.
pub(super) fn plug(device: &Element, context: &Context) -> Option<Plug> {
    if let Some(kind) = device.path_attr("address", "type")
        && kind != "pci"
    {
        return None;
    }
    let model = device.attr("model");
    let inner = device.path_attr("model", "type");
    Some(match device.name.as_str() {
        "disk" => match device.path_attr("target", "bus") {
            Some("virtio") => virtio(model),
            _ => return None,
        },
        "interface" => match inner {
            Some("usb-net" | "spapr-vlan") => return None,
            Some(
                "rtl8139"
                | "e1000"
                | "virtio-transitional"
                | "vmxnet"
                | "vmxnet2"
                | "vmxnet3"
                | "netfront"
                | "lan9118"
                | "scm91c111"
                | "vlance"
                | "Am79C970A"
                | "82540EM"
                | "82545EM"
                | "82543GC",
            ) => Plug::Pci,
            None if device.attr("type") != Some("hostdev") && device.attr("type") != Some("vdpa") => {
                return None;
            }
            // What libvirt has no name for may be anything; it is taken for recent.
            None | Some(_) => Plug::Pcie,
        },
        "filesystem" => virtio(model),
        "sound" => match model {
            Some("virtio") => Plug::Pcie,
            Some("ich6" | "ich9" | "ac97" | "es1370" | "ich7") => Plug::Pci,
            _ => return None,
        },
        "controller" => return controller(device),
        "hostdev" => match device.attr("type") {
            Some("pci") => Plug::Pcie,
            Some("mdev") if model == Some("vfio-pci") => Plug::Pcie,
            Some("scsi_host") => virtio(model),
            _ => return None,
        },
        "memballoon" => match model {
            Some("none") => return None,
            model => virtio(model),
        },
        "rng" => virtio(model),
        "watchdog" if model == Some("i6300esb") => Plug::Pci,
        "video" => match inner {
            Some("virtio" | "bochs") => Plug::Pcie,
            Some("vga" | "cirrus" | "qxl" | "vmvga") => Plug::Pci,
            _ => return None,
        },
        "shmem" => match inner {
            Some("ivshmem-plain" | "ivshmem-doorbell" | "ivshmem") | None => Plug::Pci,
            _ => return None,
        },
        "input" if device.attr("bus") == Some("virtio") => virtio(model),
        "serial" if device.path_attr("target", "type") == Some("pci-serial") => Plug::Pci,
        "vsock" => virtio(model),
        "crypto" => Plug::Pci,
        "memory" if matches!(model, Some("virtio-pmem" | "virtio-mem")) => Plug::Pcie,
        "iommu" if model == Some("virtio") => Plug::Integrated,
        "panic" if model == Some("pvpanic") => Plug::Integrated,
        _ => return None,
    })
    .filter(|_| !context.is_s390() || device.name == "hostdev" && device.attr("type") == Some("pci"))
}

fn controller(device: &Element) -> Option<Plug> {
    let model = device.attr("model");
    Some(match device.attr("type")? {
        "scsi" => match model {
            Some("ibmvscsi" | "ncr53c90" | "dc390" | "am53c974") => return None,
            Some("virtio-scsi" | "virtio-non-transitional") => Plug::Pcie,
            _ => Plug::Pci,
        },
        "usb" => match model {
            Some("none") | None => return None,
            Some("nec-xhci" | "qemu-xhci") => Plug::Pcie,
            _ => Plug::Pci,
        },
        "virtio-serial" => virtio(model),
        "sata" | "ide" => Plug::Pci,
        "pci" => return Plug::of_controller(model?),
        _ => return None,
    })
}
