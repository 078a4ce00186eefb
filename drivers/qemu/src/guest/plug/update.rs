//! A device stays and changes: a drive's medium, an interface's link, a display's password, memory that is asked for.

use super::super::{COMMAND_WITHIN, Guest};
use super::find::{Side, find, unsupported};
use super::medium::same_medium;
use super::{devices, peripheral};
use crate::domain::{Definition, plug};
use crate::monitor::commands::Protocol;
use bulkhead_wire::error::{Code, Error};
use bulkhead_xml::{Element, Node};
use serde_json::json;
use std::sync::Arc;

/// Also against the guest's will (`VIR_DOMAIN_DEVICE_MODIFY_FORCE`).
pub(crate) const FORCE: u32 = 4;

/// A device as it is to be. Of memory it is asked first whether it is there at all.
fn completed(root: &Element, given: &Element, host: &crate::domain::Host) -> Result<Element, Error> {
    if given.name == "memory" { plug::read(root, given, host) } else { plug::complete(root, given, host) }
}

/// Puts a part of the old device into the new one, unless that has one of its own.
fn keep(new: &mut Element, old: &Element, part: &str) {
    if new.child(part).is_none()
        && let Some(child) = old.child(part)
    {
        new.push(child.clone());
    }
}

impl Guest {
    /// Changes a device of the guest that runs, of its definition, or of both.
    pub(crate) async fn update_device(&mut self, xml: &str, flags: u32) -> Result<(), Error> {
        let sides = self.sides(flags & !FORCE)?;
        let given = crate::domain::document(xml.as_bytes())?;
        let config = if sides.config { Some(self.defined_with_changed(&given).await?) } else { None };
        if sides.live {
            let config = config.map(|config| config.root.to_xml());
            return self.update_live(&given, flags & FORCE != 0, config).await;
        }
        match config {
            Some(config) => self.take_config(config).await,
            None => Ok(()),
        }
    }

    /// The definition with one device changed.
    async fn defined_with_changed(&self, given: &Element) -> Result<Definition, Error> {
        let Some(definition) = self.persistent.clone() else {
            return Err(self.invalid("it has no definition"));
        };
        let root = &definition.root;
        let host = self.host_of(root).await;
        let mut new = completed(root, given, &host)?;
        let invalid = |message: &str| Err(self.device_error(Code::INVALID_ARG, message));
        let all: Vec<&Element> = devices(root).collect();
        let number = match new.name.as_str() {
            "disk" => {
                let target = new.path_attr("target", "dev");
                let is_meant =
                    |other: &&Element| other.name == "disk" && other.path_attr("target", "dev") == target;
                match all.iter().position(is_meant) {
                    Some(number) => number,
                    None => return invalid(&format!("target {} doesn't exist.", target.unwrap_or_default())),
                }
            }
            "interface" => {
                let nothing = Element::new("devices");
                let found = find(root.child("devices").unwrap_or(&nothing), given, Side::Config);
                found.map_err(|error| self.named(&error))?
            }
            "graphics" => {
                let kind = new.attr("type");
                match all.iter().position(|other| other.name == "graphics" && other.attr("type") == kind) {
                    Some(number) => number,
                    None => {
                        return invalid(&format!(
                            "cannot find existing graphics type '{}' device to modify",
                            kind.unwrap_or_default()
                        ));
                    }
                }
            }
            "memory" => match all.iter().position(|other| is_same_memory(other, &new)) {
                Some(number) => number,
                None => return invalid("memory not found"),
            },
            _ => return Err(unsupported(Side::Config, "update", &new)),
        };
        if let Some(old) = all.get(number) {
            match new.name.as_str() {
                "disk" => {
                    if old.path_attr("target", "bus") == new.path_attr("target", "bus") {
                        keep(&mut new, old, "address");
                    }
                    keep(&mut new, old, "alias");
                }
                "interface" => {
                    for part in ["mac", "alias", "address"] {
                        if part == "mac" && given.child("mac").is_none() {
                            new.take("mac");
                        }
                        keep(&mut new, old, part);
                    }
                }
                "memory" => keep(&mut new, old, "address"),
                _ => {}
            }
        }
        let mut changed = root.clone();
        let place = changed.child_mut("devices").and_then(|all| all.elements_mut().nth(number));
        if let Some(place) = place {
            *place = new;
        }
        Ok(self.environment.read(changed.to_xml().as_bytes()).await?.0)
    }

    async fn update_live(
        &mut self,
        given: &Element,
        force: bool,
        config: Option<String>,
    ) -> Result<(), Error> {
        let live = Arc::clone(&self.active()?.live);
        let host = self.host_of(&live).await;
        let new = completed(&live, given, &host)?;
        match new.name.as_str() {
            "disk" => self.update_disk(&live, &new, force, config).await,
            "interface" => {
                self.update_interface(&live, given, &new).await?;
                self.carried(config).await
            }
            "graphics" => {
                self.update_graphics(&live, &new).await?;
                self.carried(config).await
            }
            "memory" => {
                self.update_memory(&live, &new).await?;
                self.carried(config).await
            }
            _ => {
                let message = format!(
                    "unsupported configuration: live update of device '{}' is not supported",
                    super::find::kind_name(&new)
                );
                Err(self.device_error(Code::CONFIG_UNSUPPORTED, &message))
            }
        }
    }

    async fn update_disk(
        &mut self,
        live: &Element,
        new: &Element,
        force: bool,
        config: Option<String>,
    ) -> Result<(), Error> {
        let target = new.path_attr("target", "dev");
        let old =
            devices(live).find(|other| other.name == "disk" && other.path_attr("target", "dev") == target);
        let Some(old) = old.cloned() else {
            let message = format!("disk '{}' not found", target.unwrap_or_default());
            return Err(self.device_error(Code::INTERNAL, &message));
        };
        let drive = matches!(old.attr("device"), Some("cdrom" | "floppy"));
        let changed = !same_medium(&old, new);
        if changed && !drive {
            return Err(self.device_error(
                Code::CONFIG_UNSUPPORTED,
                "disk source can be changed only in removable drives",
            ));
        }
        if let Some(field) = changed_field(&old, new, drive) {
            return Err(self.device_error(
                Code::OPERATION_UNSUPPORTED,
                &format!("cannot modify field '{field}' of the disk"),
            ));
        }
        if !changed {
            return self.carried(config).await;
        }
        self.settle_devices(false).await?;
        self.change_medium(new, force, config).await
    }

    async fn update_interface(
        &mut self,
        live: &Element,
        given: &Element,
        new: &Element,
    ) -> Result<(), Error> {
        let nothing = Element::new("devices");
        let all = live.child("devices").unwrap_or(&nothing);
        let number = find(all, given, Side::Live).map_err(|error| self.named(&error))?;
        let Some(old) = all.elements().nth(number) else {
            return Err(self.invalid("the interface is gone"));
        };
        let refuse = |message: String| Err(self.device_error(Code::OPERATION_UNSUPPORTED, &message));
        let text = |device: &Element, path: &str, name: &str| {
            device.path_attr(path, name).unwrap_or_default().to_owned()
        };
        if given.child("mac").is_some() && text(new, "mac", "address") != text(old, "mac", "address") {
            return refuse(format!(
                "cannot change network interface mac address from {} to {}",
                text(old, "mac", "address"),
                text(new, "mac", "address")
            ));
        }
        if text(new, "model", "type") != text(old, "model", "type") {
            return refuse(format!(
                "cannot modify network device model from {} to {}",
                text(old, "model", "type"),
                text(new, "model", "type")
            ));
        }
        let kind = new.attr("type").unwrap_or_default();
        if new.attr("type") != old.attr("type") {
            return refuse(format!("unable to change config on '{kind}' network type"));
        }
        if new.child("driver") != old.child("driver") {
            return refuse("cannot modify virtio network device driver attributes".to_owned());
        }
        for part in [
            "source",
            "tune",
            "bandwidth",
            "vlan",
            "filterref",
            "mtu",
            "rom",
            "boot",
            "coalesce",
            "virtualport",
            "teaming",
            "port",
            "ip",
            "backend",
        ] {
            let wanted = new.child(part);
            let same = wanted == old.child(part) || part == "source" && wanted.is_none();
            if !same {
                return refuse(format!("cannot modify {part} of a network device while it runs"));
            }
        }
        let target = new.path_attr("target", "dev");
        if target.is_some() && target != old.path_attr("target", "dev") {
            return refuse("cannot modify network device target while it runs".to_owned());
        }
        let alias = text(old, "alias", "name");
        let link = new.path_attr("link", "state").map(str::to_owned);
        if link.as_deref() == old.path_attr("link", "state") {
            return Ok(());
        }
        let monitor = self.attached().await?;
        let told = json!({ "name": alias, "up": link.as_deref() != Some("down") });
        let told = monitor.execute("set_link", told, COMMAND_WITHIN).await;
        told.map_err(|error| self.monitor_error(&error))?;
        let old = old.clone();
        self.amend_device(&old, |device| {
            device.take("link");
            if let Some(link) = &link {
                // Before what any device may have.
                let late = ["boot", "alias", "rom", "acpi", "address", "coalesce", "mtu"];
                let place = device.children.iter().position(
                    |node| matches!(node, Node::Element(child) if late.contains(&child.name.as_str())),
                );
                let place = place.unwrap_or(device.children.len());
                device
                    .children
                    .insert(place, Node::Element(Element::new("link").with("state", link.as_str())));
            }
        })
        .await
    }

    /// Changes a device in all that is known of the guest that runs.
    async fn amend_device(&mut self, old: &Element, change: impl Fn(&mut Element)) -> Result<(), Error> {
        let running = self.running_mut()?;
        let mut live = Element::clone(&running.live);
        for device in live.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
            if device == old {
                change(device);
                break;
            }
        }
        let definition = &mut running.definition.root;
        for device in definition.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
            if super::is_twin(device, old)
                || device.name == "graphics" && device.attr("type") == old.attr("type")
            {
                change(device);
                break;
            }
        }
        running.live = Arc::new(live);
        self.show().await
    }

    async fn update_graphics(&mut self, live: &Element, new: &Element) -> Result<(), Error> {
        let kind = new.attr("type").unwrap_or_default();
        let old = devices(live).find(|other| other.name == "graphics" && other.attr("type") == Some(kind));
        let Some(old) = old.cloned() else {
            let message = format!("cannot find existing graphics device to modify of type '{kind}'");
            return Err(self.device_error(Code::DEVICE_MISSING, &message));
        };
        let refuse = |what: &str| {
            let message = format!("cannot change {what} setting on '{kind}' graphics");
            Err(self.device_error(Code::OPERATION_UNSUPPORTED, &message))
        };
        let protocol = match kind {
            "vnc" => Protocol::Vnc,
            "spice" => Protocol::Spice,
            _ => return refuse("any"),
        };
        let automatic = old.attr("autoport") == Some("yes") && new.attr("autoport") == Some("yes");
        if !automatic
            && (old.attr("port") != new.attr("port") || old.attr("autoport") != new.attr("autoport"))
        {
            return refuse("port");
        }
        for name in ["keymap", "websocket", "tlsPort", "sharePolicy", "powerControl", "defaultMode"] {
            if old.attr(name) != new.attr(name) && !(automatic && new.attr(name).is_none()) {
                return refuse(name);
            }
        }
        for name in ["type", "address", "network", "socket"] {
            let wanted = new.path_attr("listen", name);
            if wanted.is_some() && wanted != old.path_attr("listen", name) {
                return refuse("listen address");
            }
        }
        let attributes = ["passwd", "passwdValidTo", "connected"];
        if attributes.iter().all(|name| old.attr(name) == new.attr(name)) {
            return Ok(());
        }
        let expires = match new.attr("passwdValidTo") {
            None => "never".to_owned(),
            Some(time) => match seconds_of(time) {
                Some(seconds) => seconds.to_string(),
                None => {
                    return Err(
                        self.device_error(Code::XML_ERROR, &format!("passwdValidTo '{time}' is no time"))
                    );
                }
            },
        };
        if let Some(password) = new.attr("passwd") {
            let monitor = self.attached().await?;
            let failed = |error| self.monitor_error(&error);
            let connected = new.attr("connected").or(Some("keep"));
            monitor
                .within(COMMAND_WITHIN)
                .set_password(protocol, password, connected)
                .await
                .map_err(failed)?;
            monitor.within(COMMAND_WITHIN).expire_password(protocol, &expires).await.map_err(failed)?;
        }
        self.amend_device(&old, |device| {
            for name in attributes {
                match new.attr(name) {
                    Some(value) if device.attr(name).is_some() => device.set(name, value),
                    Some(value) => {
                        let after = ["keymap", "websocket", "autoport", "port", "type"];
                        let place = after
                            .iter()
                            .find_map(|after| device.attributes.iter().position(|(known, _)| known == after));
                        let place = place.map_or(0, |place| place + 1);
                        device.attributes.insert(place, (name.to_owned(), value.to_owned()));
                    }
                    None => drop(device.unset(name)),
                }
            }
        })
        .await
    }

    async fn update_memory(&mut self, live: &Element, new: &Element) -> Result<(), Error> {
        let old = devices(live).find(|other| is_same_memory(other, new)).cloned();
        let (Some(old), Some("virtio-mem")) = (old, new.attr("model")) else {
            return Err(self.device_error(
                Code::CONFIG_UNSUPPORTED,
                "memory not found, or not of a model whose size can change",
            ));
        };
        let alias = old.path_attr("alias", "name").unwrap_or_default();
        let requested = new.at("target/requested").map(Element::text).unwrap_or_default();
        let bytes = requested.trim().parse::<u64>().unwrap_or(0).saturating_mul(1024);
        let arguments = json!({ "path": peripheral(alias), "property": "requested-size", "value": bytes });
        let set = self.attached().await?.execute("qom-set", arguments, COMMAND_WITHIN).await;
        set.map_err(|error| self.monitor_error(&error))?;
        self.amend_device(&old, |device| {
            if let Some(element) = device.child_mut("target").and_then(|target| target.child_mut("requested"))
            {
                element.set_text(requested.clone());
            }
        })
        .await
    }
}

/// The same memory, but for how much of it is asked for.
fn is_same_memory(other: &Element, new: &Element) -> bool {
    let text = |device: &Element, path: &str| device.at(path).map(Element::text);
    other.name == "memory"
        && other.attr("model") == new.attr("model")
        && ["target/size", "target/node", "target/block"]
            .iter()
            .all(|path| text(other, path) == text(new, path))
        && new.child("address").is_none_or(|given| {
            let own = other.child("address");
            given
                .attributes
                .iter()
                .all(|(name, value)| own.and_then(|own| own.attr(name)) == Some(value.as_str()))
        })
}

/// The first part of a disk that is asked to be another one and can't change while it runs.
fn changed_field(old: &Element, new: &Element, drive: bool) -> Option<String> {
    for name in ["device", "model", "rawio", "sgio"] {
        if new.attr(name).is_some() && new.attr(name) != old.attr(name) {
            return Some(name.to_owned());
        }
    }
    for child in new.elements() {
        match child.name.as_str() {
            "source" | "backingStore" | "boot" | "address" | "alias" => {}
            "iotune" => {
                let limit =
                    |limits: Option<&Element>, name: &str| limits.and_then(|limits| limits.child_text(name));
                let changed = child.elements().find(|limit_element| {
                    limit(old.child("iotune"), &limit_element.name) != Some(limit_element.text())
                });
                if let Some(changed) = changed {
                    return Some(format!("blkdeviotune {}", changed.name));
                }
            }
            name => {
                let known = old.child(name);
                for (attribute, value) in &child.attributes {
                    let medium = drive && name == "driver" && attribute == "type" || attribute == "tray";
                    if !medium && known.and_then(|known| known.attr(attribute)) != Some(value) {
                        return Some(if name == "driver" || name == "target" {
                            attribute.clone()
                        } else {
                            name.to_owned()
                        });
                    }
                }
                if known.is_none() || known.is_some_and(|known| known.text() != child.text()) {
                    return Some(name.to_owned());
                }
            }
        }
    }
    // What is said by being there alone.
    ["readonly", "shareable"]
        .into_iter()
        .find(|name| old.child(name).is_some() != new.child(name).is_some())
        .map(str::to_owned)
}

/// Seconds since 1970 of a time like `2030-01-01T00:00:00`, in UTC.
fn seconds_of(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T')?;
    let numbers =
        |text: &str, by: char| -> Option<Vec<i64>> { text.split(by).map(|part| part.parse().ok()).collect() };
    let (date, time) = (numbers(date, '-')?, numbers(time.trim_end_matches('Z'), ':')?);
    let ([year, month, day], [hours, minutes, seconds]) = (date.as_slice(), time.as_slice()) else {
        return None;
    };
    let sound = (1..=12).contains(month) && (1..=31).contains(day) && (1970..=9999).contains(year);
    let sound = sound && (0..24).contains(hours) && (0..60).contains(minutes) && (0..=60).contains(seconds);
    if !sound {
        return None;
    }
    // Days of the civil calendar, with years that begin in March.
    let (year, month) = if *month > 2 { (*year, *month - 3) } else { (*year - 1, *month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::amend::tree;

    #[test]
    fn times_are_read() {
        assert_eq!(seconds_of("1970-01-01T00:00:00"), Some(0));
        assert_eq!(seconds_of("2030-01-01T00:00:00"), Some(1_893_456_000));
        assert_eq!(seconds_of("2024-02-29T12:00:01Z"), Some(1_709_208_001));
        assert_eq!(seconds_of("2024-13-01T00:00:00"), None);
        assert_eq!(seconds_of("soon"), None);
    }

    #[test]
    fn what_can_not_change_is_named() {
        let disk = |inner: &str| tree(&format!("<disk type='file' device='disk'>{inner}</disk>")).unwrap();
        let old = disk(
            "<driver name='qemu' type='raw' cache='none'/><source file='/a' index='1'/><target dev='vda' bus='virtio'/>",
        );
        let field = |inner: &str, drive| changed_field(&old, &disk(inner), drive);
        let same = "<driver name='qemu' type='raw'/><source file='/a'/><target dev='vda' bus='virtio'/>";
        assert_eq!(field(same, false), None);
        assert_eq!(
            field("<driver name='qemu' type='raw' cache='unsafe'/><target dev='vda'/>", false).as_deref(),
            Some("cache")
        );
        assert_eq!(field(&format!("{same}<readonly/>"), false).as_deref(), Some("readonly"));
        assert_eq!(field(&format!("{same}<serial>Z</serial>"), false).as_deref(), Some("serial"));
        let limits = format!("{same}<iotune><total_bytes_sec>1</total_bytes_sec></iotune>");
        assert_eq!(field(&limits, false).as_deref(), Some("blkdeviotune total_bytes_sec"));
        assert_eq!(field("<driver name='qemu' type='qcow2'/><target dev='vda'/>", true), None);
    }
}
