//! What a guest needs of the host beyond its emulator: huge pages, NUMA nodes, devices to hand over, helper programs.
//! Definitions may name what a host lacks; a command line for it is refused here, with what is missing.

use super::context::Context;
use super::{place, refuse, sets};
use crate::device::refusal;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// A named network is not there.
const NO_NETWORK: Code = Code(43);
/// The network driver.
const NETWORK: Origin = Origin(19);

/// What a host has for guests to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facilities {
    /// PCI devices can be handed to guests (an IOMMU, and VFIO for it).
    pub passthrough: bool,
    /// A file system of huge pages is mounted.
    pub huge_pages: bool,
    /// The highest number of a NUMA node.
    pub last_numa_node: u32,
    /// A daemon gives advice on where guests should be placed.
    pub placement_advice: bool,
    /// Virtual networks, by name.
    pub networks: Vec<String>,
    /// Device files and folders of the host that guests may ask for and that are there.
    pub paths: Vec<String>,
    /// Programs that serve vhost-user devices: `virtiofsd`, `vhost-user-gpu`.
    pub servers: Vec<String>,
    /// SMBIOS tables of the host can be read.
    pub smbios: bool,
}

impl Facilities {
    fn has(&self, path: &str) -> bool {
        self.paths.iter().any(|known| known == path)
    }
}

/// A named storage pool is not there.
const NO_POOL: Code = Code(49);
/// The storage driver.
const STORAGE: Origin = Origin(18);

type Rule = fn(&Element, &Context<'_>, &Facilities) -> Result<(), Error>;

/// In the order in which stock libvirt finds faults.
const RULES: &[Rule] = &[
    cpu_mode,
    graphics_ports,
    volumes,
    networks,
    placement,
    numa_nodes,
    host_devices,
    tpm_devices,
    render_nodes,
    huge_pages,
    smbios,
    servers,
    vhost_scsi,
];

/// Whether the host has what a complete definition needs.
pub(super) fn check(root: &Element, context: &Context<'_>) -> Result<(), Error> {
    RULES
        .iter()
        .try_for_each(|rule| rule(root, context, &context.host.facilities))
        .map_err(|error| place::located(error, root))
}

fn devices<'a>(root: &'a Element, name: &'a str) -> impl Iterator<Item = &'a Element> {
    root.child("devices").into_iter().flat_map(move |devices| devices.all(name))
}

fn missing_path(device: &Element, origin: Origin, path: &str) -> Error {
    let message = format!("the host has no '{path}'; remove the device or provide it");
    place::of_device(device, &Error::new(Code::SYSTEM_ERROR, origin, message))
}

/// An emulated guest gets no CPU that only the host's own can be.
fn cpu_mode(root: &Element, context: &Context<'_>, _: &Facilities) -> Result<(), Error> {
    let mode = root.path_attr("cpu", "mode").unwrap_or_default();
    let native = context.arch == context.host.arch;
    let impossible = match mode {
        "host-passthrough" => context.virt_type != "kvm",
        // A model can be emulated where the host's model is one of the guest's architecture.
        "host-model" => !(native || context.is_x86() && context.host.arch == "x86_64"),
        _ => false,
    };
    if impossible {
        return Err(refuse::unsupported_by_qemu(format!(
            "<cpu>: mode '{mode}' can't be had for a '{}' guest of {} on {}; use mode 'custom' or 'maximum'",
            context.virt_type, context.arch, context.host.arch
        )));
    }
    Ok(())
}

/// VNC's displays begin at port 5900, and QEMU listens in one place for each.
fn graphics_ports(root: &Element, _: &Context<'_>, _: &Facilities) -> Result<(), Error> {
    for graphics in devices(root, "graphics") {
        if graphics.all("listen").nth(1).is_some() {
            return Err(refusal::unsupported_by_qemu(
                graphics,
                "QEMU listens in one place; keep one <listen>",
            ));
        }
        let port = graphics.attr("port").and_then(|port| port.parse::<i64>().ok());
        let chosen = graphics.attr("autoport") == Some("yes");
        if graphics.attr("type") == Some("vnc")
            && !chosen
            && port.is_some_and(|port| port != 0 && !(5900..=65535).contains(&port))
        {
            return Err(refusal::unsupported_by_qemu(graphics, "VNC ports are from 5900 to 65535"));
        }
    }
    Ok(())
}

/// Storage pools are not served yet, so no volume can be looked up.
fn volumes(root: &Element, _: &Context<'_>, _: &Facilities) -> Result<(), Error> {
    let needed = |disk: &&Element| {
        disk.attr("type") == Some("volume") && disk.path_attr("source", "startupPolicy") != Some("optional")
    };
    match devices(root, "disk").find(needed) {
        Some(disk) => {
            let pool = disk.path_attr("source", "pool").unwrap_or_default();
            let message = format!("there is no storage pool '{pool}'; name the volume's file instead");
            Err(place::of_device(disk, &Error::new(NO_POOL, STORAGE, message)))
        }
        None => Ok(()),
    }
}

fn networks(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    for graphics in devices(root, "graphics") {
        for listen in graphics.all("listen").filter(|listen| listen.attr("type") == Some("network")) {
            let network = listen.attr("network").unwrap_or_default();
            if !host.networks.iter().any(|known| known == network) {
                let message = format!("there is no network '{network}' to listen on; define it first");
                return Err(place::of_device(graphics, &Error::new(NO_NETWORK, NETWORK, message)));
            }
        }
    }
    Ok(())
}

fn placement(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    let automatic = root.path_attr("vcpu", "placement") == Some("auto")
        || root.path_attr("numatune/memory", "placement") == Some("auto");
    if automatic && !host.placement_advice {
        return Err(refuse::internal(
            "<vcpu>: placement 'auto' needs advice that this host can't give; use 'static'",
        ));
    }
    Ok(())
}

fn numa_nodes(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    let tuned =
        root.child("numatune").into_iter().flat_map(Element::elements).filter_map(|e| e.attr("nodeset"));
    for set in tuned {
        let last = sets::parse(set).and_then(|nodes| nodes.into_iter().max());
        if last.is_some_and(|last| last > host.last_numa_node) {
            return Err(Error::new(
                Code::CONFIG_UNSUPPORTED,
                Origin::NONE,
                format!(
                    "<numatune>: the host has no NUMA node of '{set}' above {}; change the set",
                    host.last_numa_node
                ),
            ));
        }
    }
    Ok(())
}

fn host_devices(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    let interfaces = devices(root, "interface").filter(|device| device.attr("type") == Some("hostdev"));
    for device in devices(root, "hostdev").chain(interfaces) {
        let source = device.child("source");
        let pci = device.name == "interface" || device.attr("type") == Some("pci");
        if pci && device.path_attr("driver", "name") == Some("kvm") {
            return Err(refusal::internal_of(
                Origin::QEMU,
                device,
                "QEMU hands over by 'vfio' only; change <driver>",
            ));
        }
        if pci && !host.passthrough && device.path_attr("driver", "name").is_none() {
            return Err(refusal::unsupported_by_qemu(
                device,
                "this host can't hand PCI devices to guests; switch on its IOMMU and load vfio-pci",
            ));
        }
        let address = source.and_then(|source| source.child("address"));
        if device.attr("type") == Some("usb") && address.and_then(|address| address.attr("device")).is_none()
        {
            return Err(refusal::internal_of(
                Origin::QEMU,
                device,
                "which USB device of the host it is, is not resolved; give bus and device in its <address>",
            ));
        }
        let adapter = source.and_then(|source| source.path_attr("adapter", "name"));
        if device.attr("type") == Some("scsi")
            && let (Some(adapter), Some(address)) = (adapter, address)
        {
            let part = |name| address.attr(name).unwrap_or("0");
            let number = adapter.trim_start_matches("scsi_host");
            let unit = format!("{number}:{}:{}:{}", part("bus"), part("target"), part("unit"));
            let folder = format!("/sys/bus/scsi/devices/{unit}/scsi_generic");
            if !host.has(&folder) {
                return Err(missing_path(device, Origin::NONE, &folder));
            }
        }
    }
    Ok(())
}

fn tpm_devices(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    for tpm in devices(root, "tpm") {
        if let Some(path) = tpm.path_attr("backend/device", "path")
            && !host.has(path)
        {
            return Err(missing_path(tpm, Origin::QEMU, path));
        }
    }
    Ok(())
}

fn render_nodes(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    for graphics in devices(root, "graphics").filter(|device| device.attr("type") == Some("egl-headless")) {
        if graphics.path_attr("gl", "rendernode").is_none() && !host.has("/dev/dri") {
            return Err(missing_path(graphics, Origin::NONE, "/dev/dri"));
        }
    }
    Ok(())
}

fn huge_pages(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    if root.at("memoryBacking/hugepages").is_some() && !host.huge_pages {
        return Err(Error::new(
            Code::INTERNAL,
            Origin::QEMU,
            "<hugepages>: the host has no file system of huge pages; mount one (type hugetlbfs)",
        ));
    }
    Ok(())
}

fn smbios(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    match root.path_attr("os/smbios", "mode") {
        Some("host") if !host.smbios => Err(refuse::unsupported_by_qemu(
            "<smbios>: the host's SMBIOS tables can't be read; use mode 'sysinfo' or 'emulate'",
        )),
        Some("sysinfo") if !root.all("sysinfo").any(|info| info.attr("type") == Some("smbios")) => {
            Err(Error::new(
                Code::XML_ERROR,
                Origin::QEMU,
                "<smbios>: mode 'sysinfo' shows what <sysinfo type='smbios'> says; add it",
            ))
        }
        _ => Ok(()),
    }
}

fn servers(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    let filesystems = devices(root, "filesystem").filter(|device| {
        device.path_attr("driver", "type") == Some("virtiofs")
            && device.at("binary").and_then(|binary| binary.attr("path")).is_none()
            && device.path_attr("source", "socket").is_none()
    });
    let videos =
        devices(root, "video").filter(|video| video.path_attr("driver", "name") == Some("vhostuser"));
    let wanted =
        filesystems.map(|device| (device, "virtiofsd")).chain(videos.map(|video| (video, "vhost-user-gpu")));
    for (device, server) in wanted {
        if !host.servers.iter().any(|known| known == server) {
            let message = format!("the host has no program '{server}' that serves it; install one");
            return Err(place::of_device(device, &Error::new(Code::OPERATION_FAILED, Origin::QEMU, message)));
        }
    }
    Ok(())
}

fn vhost_scsi(root: &Element, _: &Context<'_>, host: &Facilities) -> Result<(), Error> {
    const DEVICE: &str = "/dev/vhost-scsi";
    match devices(root, "hostdev").find(|device| device.attr("type") == Some("scsi_host")) {
        Some(device) if !host.has(DEVICE) => Err(Error::new(
            Code::CONFIG_UNSUPPORTED,
            Origin::NONE,
            format!("<hostdev> ({}): the host has no '{DEVICE}'; load vhost_scsi", device.position),
        )),
        _ => Ok(()),
    }
}
