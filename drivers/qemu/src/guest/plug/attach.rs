//! A device comes.

use super::super::amend::tree;
use super::super::live::Change;
use super::super::{COMMAND_WITHIN, Guest};
use super::find::{Side, find, unsupported};
use super::{change_memory, devices, taps_of, with_alias};
use crate::args::{nodes, plug as commands};
use crate::device::watchdog;
use crate::domain::{Definition, plug};
use bulkhead_actors::fault;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::DomainEvent;
use bulkhead_xml::{Element, Node};
use serde_json::{Value, json};
use std::sync::Arc;

/// The kinds of devices that a definition takes one by one.
const TO_DEFINITIONS: &[&str] = &[
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

impl Guest {
    /// Adds a device, to the guest that runs, to its definition, or to both.
    pub(crate) async fn attach_device(&mut self, xml: &str, flags: u32) -> Result<(), Error> {
        let sides = self.sides(flags)?;
        let mut given = crate::domain::document(xml.as_bytes())?;
        if given.name == "interface" && given.child("mac").is_none() {
            // The same on both sides.
            let mac = Element::new("mac").with("address", self.environment.host.new_mac());
            given.children.insert(0, Node::Element(mac));
        }
        let config = if sides.config { Some(self.defined_with(&given).await?) } else { None };
        if sides.live {
            let config = config.map(|config| config.root.to_xml());
            return self.attach_live(&given, config, true).await;
        }
        match config {
            Some(config) => self.take_config(config).await,
            None => Ok(()),
        }
    }

    /// The definition with one device more.
    async fn defined_with(&self, given: &Element) -> Result<Definition, Error> {
        let Some(definition) = self.persistent.clone() else {
            return Err(self.invalid("it has no definition"));
        };
        let host = self.host_of(&definition.root).await;
        let device = plug::complete(&definition.root, given, &host)?;
        if device.name == "console" && device.path_attr("target", "type") == Some("serial") {
            return Err(self.device_error(
                Code::OPERATION_UNSUPPORTED,
                "attaching serial console is not supported; attach a <serial>",
            ));
        }
        if !TO_DEFINITIONS.contains(&device.name.as_str()) {
            return Err(unsupported(Side::Config, "attach", &device));
        }
        self.refuse_known(&definition.root, &device, Side::Config)?;
        self.refuse_memory(&definition.root, &device)?;
        let mut root = definition.root.clone();
        if let Some(all) = root.child_mut("devices") {
            all.push(device.clone());
        }
        change_memory(&mut root, &device, true);
        Ok(self.environment.read(root.to_xml().as_bytes()).await?.0)
    }

    /// Refuses a device that is there already.
    fn refuse_known(&self, root: &Element, device: &Element, side: Side) -> Result<(), Error> {
        let refuse = |message: String| Err(self.device_error(Code::OPERATION_INVALID, &message));
        let is_there = |wanted: &Element| {
            find(root.child("devices").unwrap_or(&Element::new("devices")), wanted, side).is_ok()
        };
        let text = |path: &str, name: &str| device.path_attr(path, name).unwrap_or_default().to_owned();
        if device.name == "disk"
            && let Some(address) =
                device.child("address").filter(|address| address.attr("type") == Some("drive"))
        {
            let bus = device.path_attr("target", "bus");
            let place = |other: &Element| {
                ["controller", "bus", "target", "unit"].map(|name| other.attr(name).unwrap_or("0").to_owned())
            };
            let mut others = devices(root).filter(|other| other.name == "disk");
            if others.any(|other| {
                other.path_attr("target", "bus") == bus
                    && other.child("address").is_some_and(|own| place(own) == place(address))
            }) {
                return refuse("Domain already contains a disk with that address".to_owned());
            }
        }
        match (device.name.as_str(), side) {
            ("disk", Side::Config) if is_there(device) => {
                refuse(format!("target {} already exists; choose another", text("target", "dev")))
            }
            ("controller", Side::Config) if device.attr("index").is_some() && is_there(device) => refuse(
                format!("controller index='{}' already exists", device.attr("index").unwrap_or_default()),
            ),
            ("controller", Side::Live) if device.attr("index").is_some() && is_there(device) => {
                let (kind, index) =
                    (device.attr("type").unwrap_or_default(), device.attr("index").unwrap_or_default());
                Err(self
                    .device_error(Code::OPERATION_FAILED, &format!("target {kind}:{index} already exists")))
            }
            ("serial" | "parallel" | "console" | "channel", Side::Config) if is_there(device) => {
                refuse("chardev already exists".to_owned())
            }
            ("filesystem", Side::Config) if is_there(device) => refuse("Target already exists".to_owned()),
            ("lease", _) if is_there(device) => refuse(format!(
                "Lease {} in lockspace {} already exists",
                device.child_text("key").unwrap_or_default(),
                device.child_text("lockspace").unwrap_or_default()
            )),
            ("hostdev" | "shmem" | "watchdog", Side::Config) if is_there(device) => {
                refuse("device is already in the domain configuration".to_owned())
            }
            ("vsock" | "iommu", _) if devices(root).any(|other| other.name == device.name) => {
                refuse(format!("domain already has a {} device", device.name))
            }
            _ => Ok(()),
        }
    }

    /// Memory needs a slot, and room below the most that the guest may have.
    fn refuse_memory(&self, root: &Element, device: &Element) -> Result<(), Error> {
        if device.name != "memory" {
            return Ok(());
        }
        let refuse = |origin: Origin, message: String| {
            Err(Error::new(Code::CONFIG_UNSUPPORTED, origin, format!("Domain '{}': {message}", self.name)))
        };
        let number =
            |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        let most = number(root.child_text("maxMemory"));
        let (size, _) = super::memory_of(device);
        if number(root.child_text("memory")).saturating_add(size) > most {
            return refuse(
                Origin::DOMAIN,
                format!(
                    "Attaching memory device with size '{size}' would exceed domain's maxMemory config size '{most}'"
                ),
            );
        }
        let modules = |device: &&Element| matches!(device.attr("model"), Some("dimm" | "nvdimm"));
        let taken = devices(root).filter(|other| other.name == "memory").filter(modules).count();
        let slots = root.path_attr("maxMemory", "slots").and_then(|slots| slots.parse().ok()).unwrap_or(0);
        if modules(&device) && taken >= slots {
            return refuse(
                Origin::QEMU,
                "no free memory device slot available; add slots to <maxMemory>".to_owned(),
            );
        }
        Ok(())
    }

    /// Refuses what no guest that runs can be given.
    fn refuse_hotplug(&self, live: &Element, device: &Element) -> Result<(), Error> {
        let refuse = |message: &str| Err(self.device_error(Code::OPERATION_UNSUPPORTED, message));
        let not_here = |message: &str| Err(self.device_error(Code::CONFIG_UNSUPPORTED, message));
        match device.name.as_str() {
            "disk" => {
                let bus = device.path_attr("target", "bus").unwrap_or_default();
                if device.attr("device") == Some("floppy") {
                    return refuse("floppy device hotplug isn't supported");
                }
                if !matches!(bus, "virtio" | "usb" | "scsi") {
                    return refuse(&format!(
                        "disk bus '{bus}' cannot be hotplugged; use 'virtio', 'scsi' or 'usb'"
                    ));
                }
                if device.child("transient").is_some() {
                    return not_here("a transient disk can't be added while it runs; remove <transient>");
                }
                Ok(())
            }
            "interface" => match device.attr("type").unwrap_or_default() {
                "ethernet" | "bridge" => Ok(()),
                "user" if self.active()?.devices.network => Ok(()),
                "user" => not_here(
                    "it was started without access to the network, which a QEMU that runs can't be given: a guest whose definition has an interface of type 'user' has it; or use type 'bridge'",
                ),
                kind @ ("mcast" | "server" | "client" | "udp" | "internal" | "null") => {
                    refuse(&format!("hotplug of interface type of {kind} is not implemented yet"))
                }
                kind => not_here(&format!("interfaces of type '{kind}' can't be added while it runs yet")),
            },
            "controller" => match device.attr("type").unwrap_or_default() {
                "scsi" | "virtio-serial" => Ok(()),
                kind => refuse(&format!("'{kind}' controller cannot be hot plugged.")),
            },
            "console" if device.path_attr("target", "type") != Some("virtio") => {
                let kind = device.path_attr("target", "type").unwrap_or("serial");
                not_here(&format!("unsupported console target type {kind}"))
            }
            "channel" | "console" | "serial" | "parallel" | "redirdev" => {
                if device.attr("type") == Some("unix") && device.path_attr("source", "path").is_some() {
                    let folder = self.environment.layout.guest(&self.key());
                    return not_here(&format!(
                        "no socket is made at {}; its place is the guest's own folder, {}: leave its path out",
                        device.path_attr("source", "path").unwrap_or_default(),
                        folder.display()
                    ));
                }
                Ok(())
            }
            "input" => match (device.attr("bus"), device.attr("type")) {
                (Some("usb" | "virtio"), Some("mouse" | "tablet" | "keyboard")) => Ok(()),
                (Some("usb" | "virtio"), _) => not_here("no guest is given an input device of the host here"),
                (bus, _) => refuse(&format!(
                    "input device on bus '{}' cannot be hot plugged.",
                    bus.unwrap_or_default()
                )),
            },
            "watchdog" if device.attr("model") != Some("i6300esb") => refuse(&format!(
                "hotplug of watchdog of model {} is not supported",
                device.attr("model").unwrap_or_default()
            )),
            "filesystem" if device.path_attr("driver", "type") != Some("virtiofs") => {
                refuse("only virtiofs filesystems can be hotplugged")
            }
            "hostdev" | "filesystem" | "shmem" | "vsock" => {
                not_here(&format!("a <{}> can't be given to a guest here yet", device.name))
            }
            "memory" => self.refuse_memory(live, device),
            "rng" | "watchdog" | "lease" => Ok(()),
            _ => Err(unsupported(Side::Live, "attach", device)),
        }
    }

    /// Adds a device to the guest that runs. `config` is the definition that holds when that is done.
    pub(super) async fn attach_live(
        &mut self,
        given: &Element,
        config: Option<String>,
        told: bool,
    ) -> Result<(), Error> {
        let monitor = self.attached().await?;
        self.settle_devices(false).await?;
        let live = Arc::clone(&self.active()?.live);
        let host = self.host_of(&live).await;
        let device = plug::complete(&live, given, &host)?;
        let is_drive = matches!(device.attr("device"), Some("cdrom" | "floppy"));
        if device.name == "disk" && is_drive && devices(&live).any(|other| super::is_twin(other, &device)) {
            return self.change_medium(&device, false, config).await;
        }
        self.refuse_hotplug(&live, &device)?;
        self.refuse_known(&live, &device, Side::Live)?;
        for controller in plug::missing_controllers(&live, &device, &host)? {
            // A controller is a device of its own; it stays, should the disk fail.
            Box::pin(self.attach_live(&controller, None, false)).await?;
        }
        let plugged = plug::plug(&self.active()?.live, device, &host)?;
        let (mut root, alias) = (plugged.root, plugged.alias);
        if alias.is_empty() {
            // A lease is nothing to QEMU.
            return self.add_lease(given, &host, config).await;
        }
        self.place_channels(&mut root);
        let mut next_node = self.active()?.devices.next_node;
        if next_node == 0 {
            next_node = nodes::number_all(&mut Element::clone(&live));
        }
        let mut taps = Vec::new();
        let place = |root: &mut Element| -> Option<usize> {
            let all = root.child("devices")?;
            all.children.iter().position(|node| {
                matches!(node, Node::Element(device) if device.path_attr("alias", "name") == Some(&alias))
            })
        };
        let number = place(&mut root);
        let mut opened = None;
        if let Some(Node::Element(device)) =
            number.and_then(|number| root.child_mut("devices")?.children.get_mut(number))
        {
            self.find_layers(device).await?;
            if device.name == "disk" {
                nodes::number(device, &mut next_node);
                self.running_mut()?.devices.next_node = next_node;
            }
            if device.name == "interface" {
                opened = self.open_tap(device, &mut taps).await?;
            }
        }
        let added = self.plug_in(&monitor, root, &alias, taps_of(opened), &taps, config).await;
        if added.is_err() {
            self.close_taps(&taps).await;
        }
        added?;
        if told {
            let domain = self.view.get().reference();
            self.environment.emit(&DomainEvent::DeviceAdded { domain, alias });
        }
        Ok(())
    }

    async fn add_lease(
        &mut self,
        given: &Element,
        host: &crate::domain::Host,
        config: Option<String>,
    ) -> Result<(), Error> {
        let running = self.running_mut()?;
        let device = plug::complete(&running.live, given, host)?;
        let mut live = Element::clone(&running.live);
        plug::add(&mut live, device.clone());
        plug::add(&mut running.definition.root, device);
        running.live = Arc::new(live);
        self.show().await?;
        self.carried(config).await
    }

    /// Has QEMU take a device of this tree, and makes it hold.
    async fn plug_in(
        &mut self,
        monitor: &crate::monitor::Monitor,
        root: Element,
        alias: &str,
        mut handed: super::Taps,
        taps: &[String],
        config: Option<String>,
    ) -> Result<(), Error> {
        let Some(device) = with_alias(&root, alias).cloned() else {
            return Err(self.device_error(Code::INTERNAL, &format!("device {alias} has no place")));
        };
        let steps = self.steps_of(&root, &device).await?;
        if steps.is_empty() {
            return Err(self.device_error(
                Code::CONFIG_UNSUPPORTED,
                &format!("a <{}> like this is a part of the machine; change the definition", device.name),
            ));
        }
        let files = self.open_files(&steps).await?;
        let change = Change::Added { device: device.to_xml(), config, taps: taps.to_vec() };
        self.running_mut()?.devices.change = Some(change);
        self.record(super::Phase::Running).await?;
        let done = async {
            if device.name == "watchdog"
                && !devices(&self.active()?.live).any(|other| other.name == "watchdog")
            {
                let action = json!({ "watchdog": watchdog::args::action(&device) });
                let set = monitor.execute("set-action", action, COMMAND_WITHIN).await;
                set.map_err(|error| self.monitor_error(&error))?;
            }
            self.run_steps(monitor, &steps, files, &mut handed).await?;
            self.after_plug(monitor, &steps, &device).await
        };
        let done: Result<(), Error> = done.await;
        if let Err(error) = done {
            self.running_mut()?.devices.change = None;
            if let Err(error) = self.record(super::Phase::Running).await {
                tracing::error!(domain = self.name, %error, "live state");
            }
            return Err(error);
        }
        fault::point("plug", "before_record");
        self.finish_plug(monitor).await
    }

    /// What a device is told once it is there.
    async fn after_plug(
        &self,
        monitor: &crate::monitor::Monitor,
        steps: &[commands::Step],
        device: &Element,
    ) -> Result<(), Error> {
        let alias = device.path_attr("alias", "name").unwrap_or_default();
        let told = async {
            if device.name == "interface" && device.path_attr("link", "state") == Some("down") {
                let down = json!({ "name": alias, "up": false });
                let set = monitor.execute("set_link", down, COMMAND_WITHIN).await;
                set.map_err(|error| self.monitor_error(&error))?;
            }
            if device.name == "disk" && device.child("iotune").is_some() {
                self.throttle(device).await?;
            }
            Ok(())
        };
        let told: Result<(), Error> = told.await;
        if told.is_err() {
            for step in steps.iter().rev() {
                let (command, arguments) = &step.undo;
                self.try_to(monitor, command, arguments.clone()).await;
            }
        }
        told
    }

    /// Makes a device hold that QEMU has taken: in the XML as it runs, in what goes into a stored state, in the definition.
    pub(super) async fn finish_plug(&mut self, monitor: &crate::monitor::Monitor) -> Result<(), Error> {
        let Some(Change::Added { device, config, taps }) = self.active()?.devices.change.clone() else {
            return Ok(());
        };
        let device = tree(&device)?;
        let (mut live, pid) = (Element::clone(&self.active()?.live), self.active()?.pid);
        plug::add(&mut live, device.clone());
        change_memory(&mut live, &device, true);
        self.complete_live(monitor, pid, &mut live).await?;
        let alias = device.path_attr("alias", "name").unwrap_or_default();
        let whole = with_alias(&live, alias).unwrap_or(&device).clone();
        let running = self.running_mut()?;
        plug::add(&mut running.definition.root, Definition::inactive_device(&whole));
        change_memory(&mut running.definition.root, &device, true);
        running.memory_kib = running.memory_kib.saturating_add(super::memory_of(&device).1);
        running.live = Arc::new(live);
        running.taps.extend(taps);
        running.devices.change = None;
        self.show().await?;
        fault::point("plug", "after_record");
        self.carried(config).await
    }

    /// Fills in what only QEMU knows: names of terminals, and where memory begins.
    pub(super) async fn complete_live(
        &self,
        monitor: &crate::monitor::Monitor,
        pid: u32,
        live: &mut Element,
    ) -> Result<(), Error> {
        self.name_terminals(monitor, pid, live).await?;
        if !devices(live).any(|device| device.name == "memory") {
            return Ok(());
        }
        let modules = monitor.execute("query-memory-devices", Value::Null, COMMAND_WITHIN).await;
        let modules = modules.map_err(|error| self.monitor_error(&error))?;
        for device in live.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
            let dimm = matches!(device.attr("model"), Some("dimm" | "nvdimm"));
            if device.name != "memory" || !dimm {
                continue;
            }
            let alias = device.path_attr("alias", "name").map(str::to_owned);
            let data = modules.as_array().into_iter().flatten().filter_map(|module| module.get("data"));
            let mut own = data.filter(|data| data.get("id").and_then(Value::as_str) == alias.as_deref());
            let base = own.next().and_then(|data| data.get("addr")?.as_u64());
            if let (Some(base), Some(address)) = (base, device.child_mut("address")) {
                address.set("base", format!("{base:#x}"));
            }
        }
        Ok(())
    }
}
