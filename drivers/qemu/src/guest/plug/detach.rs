//! A device goes: QEMU is told, the guest takes its time, and what was behind the device goes when QEMU says that it is gone.

use super::super::{COMMAND_WITHIN, Guest};
use super::find::{Side, by_alias, find, unsupported};
use super::{change_memory, devices, is_twin, take_device, with_alias};
use crate::device::value::any_base;
use crate::domain::{Definition, plug};
use crate::monitor::MonitorError;
use bulkhead_actors::fault;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::DomainEvent;
use bulkhead_xml::Element;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The kinds of devices that are taken from definitions one by one.
const FROM_DEFINITIONS: &[&str] = &[
    "disk",
    "interface",
    "sound",
    "hostdev",
    "lease",
    "controller",
    "serial",
    "parallel",
    "console",
    "channel",
    "filesystem",
    "rng",
    "memory",
    "redirdev",
    "shmem",
    "watchdog",
    "input",
    "vsock",
    "iommu",
];

/// Which device is meant.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    /// One like this.
    Xml(String),
    /// The one of this alias.
    Alias(String),
}

/// A device that is going.
pub(crate) struct Begun {
    /// Told whether it is gone, if it is one of a guest that runs.
    pub(crate) gone: Option<oneshot::Receiver<bool>>,
    /// It is to go from the definition too.
    pub(crate) config: bool,
}

impl Guest {
    /// Begins to take a device away. From a definition it goes at once.
    pub(crate) async fn begin_detach(&mut self, which: &Which, flags: u32) -> Result<Begun, Error> {
        let sides = self.sides(flags)?;
        if sides.config {
            // What can't be done to the one is not begun on the other.
            self.defined_without(which).await?;
        }
        if !sides.live {
            self.detach_from_config(which).await?;
            return Ok(Begun { gone: None, config: false });
        }
        let gone = self.detach_live(which).await?;
        Ok(Begun { gone, config: sides.config })
    }

    /// Takes a device from the definition.
    pub(crate) async fn detach_from_config(&mut self, which: &Which) -> Result<(), Error> {
        let definition = self.defined_without(which).await?;
        self.take_config(definition).await
    }

    async fn meant(&self, root: &Element, which: &Which, side: Side) -> Result<Element, Error> {
        let nothing = Element::new("devices");
        let all = root.child("devices").unwrap_or(&nothing);
        let number = match which {
            Which::Alias(alias) => by_alias(all, alias),
            Which::Xml(xml) => {
                let given = crate::domain::document(xml.as_bytes())?;
                let wanted = self.wanted(root, &given).await?;
                self.refuse_to_detach(&wanted, side)?;
                find(all, &wanted, side)
            }
        };
        let number = number.map_err(|error| self.named(&error))?;
        all.elements().nth(number).cloned().ok_or_else(|| self.invalid("the device is gone"))
    }

    /// What is meant, in the form in which devices are kept: of most kinds too little is given to be a whole device.
    async fn wanted(&self, root: &Element, given: &Element) -> Result<Element, Error> {
        if matches!(given.name.as_str(), "disk" | "interface" | "controller" | "lease" | "filesystem") {
            return Ok(given.clone());
        }
        let host = self.host_of(root).await;
        let mut wanted = plug::read(root, given, &host)?;
        // Any alias names a device here, not only a client's own.
        if let Some(alias) = given.child("alias") {
            wanted.take("alias");
            wanted.push(alias.clone());
        }
        Ok(wanted)
    }

    fn refuse_to_detach(&self, device: &Element, side: Side) -> Result<(), Error> {
        let refuse = |message: String| Err(self.device_error(Code::OPERATION_UNSUPPORTED, &message));
        let kind = device.attr("type").unwrap_or_default();
        match (device.name.as_str(), side) {
            ("console", Side::Config) if device.path_attr("target", "type") == Some("serial") => Err(self
                .device_error(
                    Code::OPERATION_INVALID,
                    "detaching serial console is not supported; detach the <serial>",
                )),
            ("controller", Side::Live) if kind != "scsi" => {
                refuse(format!("'{kind}' controller cannot be hot unplugged."))
            }
            ("sound" | "iommu", Side::Live) => Err(unsupported(side, "detach", device)),
            (name, _) if !FROM_DEFINITIONS.contains(&name) => Err(unsupported(side, "detach", device)),
            _ => Ok(()),
        }
    }

    /// The definition without one device.
    async fn defined_without(&self, which: &Which) -> Result<Definition, Error> {
        let Some(definition) = self.persistent.clone() else {
            return Err(self.invalid("it has no definition"));
        };
        let device = self.meant(&definition.root, which, Side::Config).await?;
        self.refuse_to_detach(&device, Side::Config)?;
        let mut root = definition.root.clone();
        take_device(&mut root, |other| *other == device);
        change_memory(&mut root, &device, false);
        Ok(self.environment.read(root.to_xml().as_bytes()).await?.0)
    }

    /// Refuses what can't leave a guest that runs.
    fn refuse_unplug(&self, live: &Element, device: &Element) -> Result<(), Error> {
        self.refuse_to_detach(device, Side::Live)?;
        let refuse = |message: String| Err(self.device_error(Code::OPERATION_UNSUPPORTED, &message));
        let failed = |message: &str| Err(self.device_error(Code::OPERATION_FAILED, message));
        match device.name.as_str() {
            "disk" => {
                let bus = device.path_attr("target", "bus").unwrap_or_default();
                let kind = device.attr("device").unwrap_or("disk");
                if kind == "floppy" || kind == "cdrom" && !matches!(bus, "usb" | "scsi") {
                    return refuse(format!(
                        "disk device type '{kind}' cannot be detached; its medium can be taken out"
                    ));
                }
                if !matches!(bus, "virtio" | "usb" | "scsi") {
                    return refuse(format!("This type of disk cannot be hot unplugged (bus '{bus}')"));
                }
            }
            "controller" => {
                let index = device.attr("index");
                let sits = |other: &Element| {
                    let scsi = other.path_attr("target", "bus") == Some("scsi")
                        || other.name == "hostdev" && other.attr("type") == Some("scsi");
                    scsi && other.path_attr("address", "controller") == index
                };
                if devices(live).any(sits) {
                    return failed("device cannot be detached: device is busy; detach its disks first");
                }
            }
            "input" if device.attr("bus") == Some("ps2") => {
                return refuse("input device on bus 'ps2' cannot be detached".to_owned());
            }
            "watchdog" if device.attr("model") != Some("i6300esb") => {
                let model = device.attr("model").unwrap_or_default();
                return refuse(format!("hot unplug of watchdog of model {model} is not supported"));
            }
            _ => {}
        }
        let function = |device: &Element| {
            let address = device.child("address").filter(|address| address.attr("type") == Some("pci"))?;
            let part = |name: &str| address.attr(name).and_then(any_base).unwrap_or(0);
            Some((part("bus"), part("slot"), part("function")))
        };
        if let Some((bus, slot, own)) = function(device)
            && devices(live).filter_map(function).any(|(b, s, f)| (b, s) == (bus, slot) && f != own)
        {
            return failed("cannot hot unplug a device that shares its PCI slot with another");
        }
        Ok(())
    }

    async fn detach_live(&mut self, which: &Which) -> Result<Option<oneshot::Receiver<bool>>, Error> {
        let monitor = self.attached().await?;
        self.settle_devices(false).await?;
        let live = Arc::clone(&self.active()?.live);
        let device = self.meant(&live, which, Side::Live).await?;
        self.refuse_unplug(&live, &device)?;
        let Some(alias) = device.path_attr("alias", "name").map(str::to_owned) else {
            // Nothing to QEMU.
            self.forget_device(&device).await?;
            return Ok(None);
        };
        if self.active()?.devices.leaving.contains(&alias) {
            let message = format!(
                "device {alias} is already in the process of unplug: the guest has been asked and has not given it up yet"
            );
            return Err(self.device_error(Code::OPERATION_FAILED, &message));
        }
        self.running_mut()?.devices.leaving.push(alias.clone());
        self.record(super::Phase::Running).await?;
        fault::point("unplug", "before_device");
        let told = monitor.execute("device_del", json!({ "id": alias }), COMMAND_WITHIN).await;
        fault::point("unplug", "after_device");
        match told {
            Ok(_) => {
                let (gone, waits) = oneshot::channel();
                let waiting = &mut self.running_mut()?.waiting;
                waiting.retain(|(_, waits)| !waits.is_closed());
                waiting.push((alias, gone));
                Ok(Some(waits))
            }
            Err(MonitorError::Refused { class, .. }) if class == "DeviceNotFound" => {
                self.device_gone(&alias).await;
                Ok(None)
            }
            Err(error @ MonitorError::Refused { .. }) => {
                self.running_mut()?.devices.leaving.retain(|leaving| *leaving != alias);
                self.record(super::Phase::Running).await?;
                Err(self.monitor_error(&error))
            }
            // Whether it was told is not known: what QEMU says next shows it.
            Err(error) => Err(self.monitor_error(&error)),
        }
    }

    /// Takes a device out of what is known of the guest that runs.
    async fn forget_device(&mut self, device: &Element) -> Result<(), Error> {
        let running = self.running_mut()?;
        let mut live = Element::clone(&running.live);
        take_device(&mut live, |other| other == device);
        change_memory(&mut live, device, false);
        let definition = &mut running.definition.root;
        if take_device(definition, |other| is_twin(other, device)).is_some() {
            change_memory(definition, device, false);
        }
        // The first serial port has a twin among the consoles.
        if device.name == "serial"
            && let Some(alias) = device.path_attr("alias", "name")
            && take_device(&mut live, |other| {
                other.name == "console" && other.path_attr("alias", "name") == Some(alias)
            })
            .is_some()
        {
            take_device(definition, |other| {
                other.name == "console" && other.path_attr("target", "type") == Some("serial")
            });
        }
        running.memory_kib = running.memory_kib.saturating_sub(super::memory_of(device).1);
        running.live = Arc::new(live);
        self.show().await
    }

    /// QEMU tells that a device was deleted. That may be old, and a later device have its alias.
    pub(crate) async fn device_deleted(&mut self, alias: &str) {
        if let Ok(monitor) = self.monitor()
            && let Ok(present) = self.present(&monitor).await
            && present.iter().any(|there| there == alias)
        {
            return;
        }
        self.device_gone(alias).await;
    }

    /// A device is gone.
    pub(crate) async fn device_gone(&mut self, alias: &str) {
        let Some(running) = &self.running else { return };
        let live = Arc::clone(&running.live);
        let Some(device) = with_alias(&live, alias) else { return };
        if let Ok(monitor) = self.monitor() {
            self.clear_behind(&monitor, &live, device).await;
        }
        let tap = device.path_attr("target", "dev").filter(|_| device.name == "interface");
        if let (Some(tap), Some(running)) = (tap.map(str::to_owned), &mut self.running)
            && running.taps.contains(&tap)
        {
            running.taps.retain(|known| *known != tap);
            self.close_taps(&[tap]).await;
        }
        if let Some(running) = &mut self.running {
            running.devices.leaving.retain(|leaving| leaving != alias);
        }
        if let Err(error) = self.forget_device(device).await {
            tracing::error!(domain = self.name, alias, %error, "live state");
        }
        fault::point("unplug", "after_record");
        let domain = self.view.get().reference();
        self.environment.emit(&DomainEvent::DeviceRemoved { domain, alias: alias.to_owned() });
        self.tell_waiting(alias, true);
    }

    fn tell_waiting(&mut self, alias: &str, gone: bool) {
        let Some(running) = &mut self.running else { return };
        let (told, waiting) =
            std::mem::take(&mut running.waiting).into_iter().partition(|(waits, _)| waits == alias);
        running.waiting = waiting;
        let told: super::Waiting = told;
        for (_, waits) in told {
            let _ = waits.send(gone);
        }
    }

    /// QEMU tells something that may mean that the guest keeps a device.
    pub(crate) async fn unplug_may_be_refused(&mut self, name: &str, data: &Map<String, Value>) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let alias = match name {
            "DEVICE_UNPLUG_GUEST_ERROR" | "MEM_UNPLUG_ERROR" => text(data.get("device")),
            "ACPI_DEVICE_OST" => {
                let info = data.get("info");
                let number = |name: &str| info.and_then(|info| info.get(name)?.as_u64()).unwrap_or(0);
                // The guest's word about an ejection, and that it did not come to that.
                let refused =
                    matches!(number("source"), 3 | 0x103) && matches!(number("status"), 1 | 2 | 0x80..=0x83);
                text(info.and_then(|info| info.get("device"))).filter(|_| refused)
            }
            _ => None,
        };
        let Some(alias) = alias else { return };
        let Some(running) = &mut self.running else { return };
        if !running.devices.leaving.contains(&alias) {
            return;
        }
        running.devices.leaving.retain(|leaving| *leaving != alias);
        if let Err(error) = self.record(super::Phase::Running).await {
            tracing::error!(domain = self.name, alias, %error, "live state");
        }
        let domain = self.view.get().reference();
        self.environment.emit(&DomainEvent::DeviceRemovalFailed { domain, alias: alias.clone() });
        self.tell_waiting(&alias, false);
    }
}

/// That the guest keeps a device.
pub(crate) fn kept(name: &str) -> Error {
    let message =
        format!("Domain '{name}': unplug of device was rejected by the guest, which goes on using it");
    Error::new(Code::OPERATION_FAILED, Origin::QEMU, message)
}
