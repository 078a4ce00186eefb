//! May a guest that was stored go on with another definition? Only with one that gives it the same hardware.

use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// Texts of the domain that must be the same, and what they are called.
const TEXTS: [(&str, &str); 6] = [
    ("uuid", "uuid"),
    ("name", "name"),
    ("memory", "max memory"),
    ("vcpu", "vCPU max"),
    ("os/type", "OS type"),
    ("iothreads", "number of I/O threads"),
];
/// Attributes that must be the same.
const ATTRIBUTES: [(&str, &str, &str); 4] = [
    ("", "type", "virt type"),
    ("os/type", "arch", "architecture"),
    ("os/type", "machine", "machine type"),
    ("cpu", "mode", "CPU mode"),
];
/// Devices that the guest does not see, or that may differ.
const UNSEEN: [&str; 3] = ["emulator", "graphics", "audio"];
/// What of a device is the guest's business.
const SEEN: [(&str, &str); 9] = [
    ("target", "dev"),
    ("target", "bus"),
    ("target", "type"),
    ("mac", "address"),
    ("model", "type"),
    ("address", "type"),
    ("address", "bus"),
    ("address", "slot"),
    ("address", "function"),
];

fn differs(what: &str, wanted: &str, stored: &str) -> Error {
    let message = format!("Target domain {what} {wanted} does not match source {stored}");
    Error::new(Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, message)
}

fn devices(root: &Element) -> impl Iterator<Item = &Element> {
    let all = root.child("devices").into_iter().flat_map(Element::elements);
    all.filter(|device| !UNSEEN.contains(&device.name.as_str()))
}

/// Compares a definition that a client wants with the one that the state belongs to.
///
/// # Errors
/// What would be other hardware, by name.
pub(super) fn check(stored: &Element, wanted: &Element) -> Result<(), Error> {
    for (path, what) in TEXTS {
        let text = |root: &Element| root.at(path).map(Element::text).unwrap_or_default().trim().to_owned();
        if text(stored) != text(wanted) {
            let quoted = |root| if matches!(path, "name") { format!("'{}'", text(root)) } else { text(root) };
            return Err(differs(what, &quoted(wanted), &quoted(stored)));
        }
    }
    for (path, attribute, what) in ATTRIBUTES {
        let value = |root: &Element| {
            let element = if path.is_empty() { Some(root) } else { root.at(path) };
            element.and_then(|element| element.attr(attribute)).unwrap_or_default().to_owned()
        };
        if value(stored) != value(wanted) {
            return Err(differs(what, &value(wanted), &value(stored)));
        }
    }
    let (before, after) = (devices(stored).count(), devices(wanted).count());
    if before != after {
        return Err(differs("number of devices", &after.to_string(), &before.to_string()));
    }
    for (old, new) in devices(stored).zip(devices(wanted)) {
        if old.name != new.name {
            return Err(differs("device", &new.name, &old.name));
        }
        for attribute in ["model", "device", "index"] {
            let value = |device: &Element| device.attr(attribute).unwrap_or_default().to_owned();
            if value(old) != value(new) {
                return Err(differs(&format!("{} {attribute}", old.name), &value(new), &value(old)));
            }
        }
        for (path, attribute) in SEEN {
            let value = |device: &Element| device.path_attr(path, attribute).unwrap_or_default().to_owned();
            if value(old) != value(new) {
                return Err(differs(&format!("{} {path} {attribute}", old.name), &value(new), &value(old)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_stays_and_what_is_behind_it_may_change() {
        let tree = |text: &str| crate::guest::amend::tree(text).unwrap();
        let text = "<domain type='qemu'><name>a</name><memory>1</memory><devices><disk><source file='/a'/>\
            <target dev='vda' bus='virtio'/></disk><graphics type='vnc'/></devices></domain>";
        let old = tree(text);
        assert!(check(&old, &old).is_ok());
        assert!(check(&old, &tree(&text.replace("/a", "/b"))).is_ok(), "another image of it");
        assert!(check(&old, &tree(&text.replace("<graphics type='vnc'/>", ""))).is_ok());
        for (was, is) in [(">a<", ">b<"), (">1<", ">2<"), ("'vda'", "'vdb'"), ("type='qemu'", "type='kvm'")] {
            let error = check(&old, &tree(&text.replacen(was, is, 1))).unwrap_err();
            assert_eq!(error.code, Code::CONFIG_UNSUPPORTED, "{was}: {}", error.message);
        }
        assert!(check(&old, &tree(&text.replace("</devices>", "<rng/></devices>"))).is_err());
    }
}
