//! Which device of a guest, or of a definition, a client means by the XML that it sends to have one taken away or changed.
//!
//! What is sent need not be complete: each kind is known by what tells its devices apart.

use crate::device::value::any_base;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// Where it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Live,
    Config,
}

impl Side {
    /// libvirt's words for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Config => "persistent",
        }
    }
}

/// libvirt's name of a kind of device.
pub(super) fn kind_name(device: &Element) -> &str {
    match device.name.as_str() {
        "serial" | "parallel" | "console" | "channel" => "chr",
        other => other,
    }
}

/// That something can't be done with a kind of device.
pub(super) fn unsupported(side: Side, what: &str, device: &Element) -> Error {
    let message = format!(
        "Operation not supported: {} {what} of device '{}' is not supported",
        side.word(),
        kind_name(device)
    );
    Error::new(Code::OPERATION_UNSUPPORTED, Origin::QEMU, message)
}

fn missing(message: impl Into<String>) -> Error {
    Error::new(Code::DEVICE_MISSING, Origin::QEMU, format!("device not found: {}", message.into()))
}

/// The place of a device among the elements of `<devices>`.
pub(crate) fn find(devices: &Element, wanted: &Element, side: Side) -> Result<usize, Error> {
    if wanted.name == "interface" {
        return interface(devices, wanted, side);
    }
    let found = devices.elements().position(|device| is_meant(device, wanted, side));
    found.ok_or_else(|| absent(wanted, side))
}

/// The device with an alias.
pub(crate) fn by_alias(devices: &Element, alias: &str) -> Result<usize, Error> {
    let found = devices.elements().position(|device| device.path_attr("alias", "name") == Some(alias));
    found.ok_or_else(|| {
        let message = format!("no device found with alias {alias}; the guest's XML has the aliases");
        Error::new(Code::INTERNAL, Origin::DOMAIN, message)
    })
}

/// Does an address that was given, if one was, name this device's place?
fn same_place(device: &Element, wanted: &Element) -> bool {
    let Some(given) = wanted.child("address") else {
        return true;
    };
    let Some(own) = device.child("address") else {
        return false;
    };
    let value = |element: &Element, name: &str| {
        let text = element.attr(name).unwrap_or("0");
        any_base(text).map_or_else(|| text.to_owned(), |number| number.to_string())
    };
    let names = [
        "domain",
        "bus",
        "slot",
        "function",
        "controller",
        "target",
        "unit",
        "port",
        "devno",
        "base",
        "iobase",
    ];
    given.attr("type").is_none_or(|kind| own.attr("type") == Some(kind))
        && names
            .iter()
            .filter(|name| given.attr(name).is_some())
            .all(|name| value(given, name) == value(own, name))
}

/// In a guest that runs an alias settles it.
fn same_alias(device: &Element, wanted: &Element, side: Side) -> bool {
    let given = wanted.path_attr("alias", "name").filter(|name| !name.is_empty());
    side == Side::Config || given.is_none_or(|name| device.path_attr("alias", "name") == Some(name))
}

/// Do both say the same at these places?
fn agree(device: &Element, wanted: &Element, attributes: &[&str], paths: &[(&str, &str)]) -> bool {
    attributes.iter().all(|name| device.attr(name) == wanted.attr(name))
        && paths.iter().all(|(path, name)| device.path_attr(path, name) == wanted.path_attr(path, name))
}

fn child_texts_agree(device: &Element, wanted: &Element, paths: &[&str]) -> bool {
    let text = |element: &Element, path: &str| element.at(path).map(Element::text);
    paths.iter().all(|path| text(device, path) == text(wanted, path))
}

fn is_meant(device: &Element, wanted: &Element, side: Side) -> bool {
    if device.name != wanted.name {
        return false;
    }
    let places = || same_place(device, wanted) && same_alias(device, wanted, side);
    match device.name.as_str() {
        "disk" => device.path_attr("target", "dev") == wanted.path_attr("target", "dev"),
        "controller" => wanted.attr("index").is_some() && agree(device, wanted, &["type", "index"], &[]),
        "lease" => child_texts_agree(device, wanted, &["key", "lockspace"]),
        "filesystem" => agree(device, wanted, &[], &[("target", "dir")]),
        "hostdev" => agree(device, wanted, &["mode", "type"], &[]) && same_host_device(device, wanted),
        "rng" => {
            agree(device, wanted, &["model"], &[("backend", "model"), ("backend", "type")])
                && agree(device, wanted, &[], &[("rate", "bytes"), ("rate", "period")])
                && child_texts_agree(device, wanted, &["backend"])
                && places()
        }
        "input" => agree(device, wanted, &["type", "bus", "model"], &[("source", "evdev")]) && places(),
        "watchdog" => agree(device, wanted, &["model", "action"], &[]) && places(),
        "sound" => agree(device, wanted, &["model"], &[]) && places(),
        "memory" => {
            agree(device, wanted, &["model"], &[])
                && child_texts_agree(
                    device,
                    wanted,
                    &["target/size", "target/node", "source/path", "source/nodemask", "source/pagesize"],
                )
                && places()
        }
        "shmem" => {
            agree(device, wanted, &["name"], &[("model", "type"), ("server", "path")])
                && child_texts_agree(device, wanted, &["size"])
                && places()
        }
        "redirdev" => {
            agree(device, wanted, &["bus", "type"], &[]) && same_connection(device, wanted) && places()
        }
        "vsock" | "iommu" => agree(device, wanted, &["model"], &[]) && places(),
        "serial" | "parallel" | "console" | "channel" => {
            agree(device, wanted, &["type"], &[])
                && same_connection(device, wanted)
                && same_end(device, wanted)
        }
        _ => places(),
    }
}

fn same_connection(device: &Element, wanted: &Element) -> bool {
    match device.attr("type").unwrap_or_default() {
        "null" | "vc" | "stdio" | "spicevmc" | "qemu-vdagent" | "dbus" => true,
        "spiceport" => agree(device, wanted, &[], &[("source", "channel")]),
        "tcp" | "udp" => {
            let sources = |element: &Element| -> Vec<String> {
                let text = |source: &Element, name: &str| source.attr(name).unwrap_or_default().to_owned();
                element
                    .all("source")
                    .map(|source| format!("{} {}", text(source, "host"), text(source, "service")))
                    .collect()
            };
            sources(device) == sources(wanted)
        }
        "unix" => agree(device, wanted, &[], &[("source", "path"), ("source", "mode")]),
        _ => agree(device, wanted, &[], &[("source", "path")]),
    }
}

/// The guest's end of a character device.
fn same_end(device: &Element, wanted: &Element) -> bool {
    let names: &[&str] = match device.name.as_str() {
        "channel" => &["type", "name", "address"],
        _ => &["type", "port"],
    };
    names.iter().all(|name| device.path_attr("target", name) == wanted.path_attr("target", name))
}

fn same_host_device(device: &Element, wanted: &Element) -> bool {
    let (Some(own), Some(given)) = (device.child("source"), wanted.child("source")) else {
        return false;
    };
    let parts = ["address", "vendor", "product", "adapter"];
    parts.iter().all(|part| given.child(part).is_none_or(|given| own.child(part) == Some(given)))
}

fn absent(wanted: &Element, side: Side) -> Error {
    let text = |path: &str, name: &str| wanted.path_attr(path, name).unwrap_or_default().to_owned();
    let own = |name: &str| wanted.attr(name).unwrap_or_default().to_owned();
    let invalid = |code: Code, message: &str| Error::new(code, Origin::QEMU, message.to_owned());
    match (wanted.name.as_str(), side) {
        ("disk", Side::Live) => missing(format!("disk {} not found", text("target", "dev"))),
        ("disk", Side::Config) => missing(format!("no target device {}", text("target", "dev"))),
        ("controller", Side::Live) => {
            missing(format!("controller {}:{} not found", own("type"), wanted.attr("index").unwrap_or("-1")))
        }
        ("serial" | "parallel" | "console" | "channel", Side::Live) => {
            missing(format!("chr type '{}' device not present in domain configuration", wanted.name))
        }
        ("serial" | "parallel" | "console" | "channel", Side::Config) => {
            invalid(Code::INVALID_ARG, "invalid argument: device not present in domain configuration")
        }
        ("watchdog", Side::Live) => invalid(Code::OPERATION_INVALID, "no matching watchdog was found"),
        ("redirdev", Side::Live) => invalid(Code::OPERATION_INVALID, "no matching redirdev was found"),
        ("vsock", Side::Config) => invalid(Code::OPERATION_FAILED, "matching vsock device not found"),
        ("lease", Side::Live) => {
            let key = wanted.child_text("key").unwrap_or_default();
            let space = wanted.child_text("lockspace").unwrap_or_default();
            invalid(Code::INVALID_ARG, &format!("Lease {key} in lockspace {space} does not exist"))
        }
        ("rng", Side::Live) => missing(format!(
            "model '{}' RNG device not present in domain configuration",
            text("backend", "model")
        )),
        ("memory", Side::Live) => {
            missing(format!("model '{}' memory device not present in the domain configuration", own("model")))
        }
        ("hostdev", Side::Live) => missing(format!("host {} device not found", own("type"))),
        (kind, Side::Live) => missing(format!("matching {kind} device not found")),
        (kind, Side::Config) => missing(format!("no matching {kind} device was found in the definition")),
    }
}

/// An interface: by MAC address, by its place, by its alias. Whoever means one of several says which.
fn interface(devices: &Element, wanted: &Element, side: Side) -> Result<usize, Error> {
    let lower = |element: &Element| element.path_attr("mac", "address").map(str::to_ascii_lowercase);
    let mac = lower(wanted);
    let place = wanted.child("address").filter(|address| matches!(address.attr("type"), Some("pci" | "ccw")));
    let place = place.map(|address| Element::new("interface").with_child(address.clone()));
    let mut found = None;
    for (number, device) in devices.elements().enumerate().filter(|(_, device)| device.name == "interface") {
        let fits = mac.is_none() || lower(device) == mac;
        let fits = fits && place.as_ref().is_none_or(|place| same_place(device, place));
        if !fits || !same_alias(device, wanted, side) {
            continue;
        }
        if found.is_some() {
            let message = match &mac {
                Some(mac) => format!(
                    "operation failed: multiple devices matching MAC address {mac} found; add the <address> of the one that is meant"
                ),
                None => "operation failed: multiple matching devices found; add a MAC address".to_owned(),
            };
            return Err(Error::new(Code::OPERATION_FAILED, Origin::DOMAIN, message));
        }
        found = Some(number);
    }
    found.ok_or_else(|| {
        let alias = wanted.path_attr("alias", "name");
        let message = format!(
            "device not found: no device found{}{}",
            mac.map(|mac| format!(" matching MAC address '{mac}'")).unwrap_or_default(),
            alias.map(|alias| format!(" with alias '{alias}'")).unwrap_or_default()
        );
        Error::new(Code::DEVICE_MISSING, Origin::DOMAIN, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Element {
        bulkhead_xml::parse(text.as_bytes(), bulkhead_xml::Limits::default(), "").unwrap()
    }

    #[test]
    fn each_kind_is_known_by_what_tells_its_devices_apart() {
        let devices = tree(
            "<devices><disk><source file='/a'/><target dev='vda' bus='virtio'/></disk>\
             <controller type='scsi' index='1'/>\
             <interface type='user'><mac address='52:54:00:00:00:01'/><alias name='net0'/>\
             <address type='pci' bus='0x01' slot='0x00'/></interface>\
             <interface type='user'><mac address='52:54:00:00:00:01'/><alias name='net1'/>\
             <address type='pci' bus='0x02' slot='0x00'/></interface>\
             <channel type='pty'><source path='/dev/pts/1'/><target type='virtio' name='a'/></channel>\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='rng0'/></rng>\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='rng1'/></rng></devices>",
        );
        let code = |wanted: &str, side| {
            find(&devices, &tree(wanted), side).map_err(|error| (error.code.0, error.origin.0))
        };
        assert_eq!(code("<disk><source file='/b'/><target dev='vda'/></disk>", Side::Live), Ok(0));
        assert_eq!(code("<disk><target dev='vdb'/></disk>", Side::Config), Err((99, 10)));
        assert_eq!(code("<controller type='scsi' index='1'/>", Side::Live), Ok(1));
        assert_eq!(code("<controller type='scsi'/>", Side::Live), Err((99, 10)));
        let both = "<interface type='bridge'><mac address='52:54:00:00:00:01'/></interface>";
        assert_eq!(code(both, Side::Live), Err((9, 20)));
        let second = "<interface type='user'><mac address='52:54:00:00:00:01'/><address type='pci' bus='2'/></interface>";
        assert_eq!(code(second, Side::Config), Ok(3));
        let named = "<interface type='user'><alias name='net1'/></interface>";
        assert_eq!((code(named, Side::Live), code(named, Side::Config)), (Ok(3), Err((9, 20))));
        let none = "<interface type='user'><mac address='52:54:00:00:00:02'/></interface>";
        assert_eq!(code(none, Side::Live), Err((99, 20)));
        let channel = "<channel type='pty'><target type='virtio' name='a'/></channel>";
        assert_eq!((code(channel, Side::Live), code(channel, Side::Config)), (Err((99, 10)), Err((8, 10))));
        let rng =
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='rng1'/></rng>";
        assert_eq!((code(rng, Side::Live), code(rng, Side::Config)), (Ok(6), Ok(5)));
        assert_eq!(by_alias(&devices, "net1").ok(), Some(3));
        assert_eq!(by_alias(&devices, "x").map_err(|error| (error.code.0, error.origin.0)), Err((1, 20)));
    }
}
