//! Devices that come and go while a guest runs, and in its definition.
//!
//! Adding: the intent on disk, then what is behind the device, then the device, then the record. A step that fails takes back
//! those before it. Taking away: the intent on disk, then QEMU is told; when it says that the device is gone, soon or much
//! later, what was behind it goes, then the record. After a crash QEMU is asked which devices it has: what was begun is done
//! or undone by that.

mod attach;
mod detach;
pub(crate) mod find;
mod medium;
mod settle;
mod update;

pub(crate) use detach::{Which, kept};
pub(crate) use update::FORCE;

use super::amend::{Amended, tree};
use super::live::Phase;
use super::{COMMAND_WITHIN, Guest, Running};
use crate::args::Purpose;
use crate::args::plug::{Named, Step};
use crate::args::{self, DescriptorUse, Rendering};
use crate::domain::{Definition, Host};
use crate::monitor::{Monitor, MonitorError};
use bulkhead_actors::fault;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Who waits for devices to be gone, by alias. They are told whether it is.
pub(crate) type Waiting = Vec<(String, oneshot::Sender<bool>)>;

/// Taps that were opened for a device, by alias and queue.
type Taps = BTreeMap<(String, u32), OwnedFd>;

fn taps_of(opened: impl IntoIterator<Item = (String, Vec<Descriptor>)>) -> Taps {
    let mut taps = Taps::new();
    for (alias, queues) in opened {
        for (queue, file) in (0..).zip(queues) {
            if let Some(file) = file.into_owned() {
                taps.insert((alias.clone(), queue), file);
            }
        }
    }
    taps
}

/// The devices of a tree.
fn devices(root: &Element) -> impl Iterator<Item = &Element> {
    root.child("devices").into_iter().flat_map(Element::elements)
}

fn with_alias<'a>(root: &'a Element, alias: &str) -> Option<&'a Element> {
    devices(root).find(|device| device.path_attr("alias", "name") == Some(alias))
}

/// Takes one of the elements of `<devices>` out of a tree.
fn take_device(root: &mut Element, is_meant: impl Fn(&Element) -> bool) -> Option<Element> {
    let devices = root.child_mut("devices")?;
    let place = devices
        .children
        .iter()
        .position(|node| matches!(node, bulkhead_xml::Node::Element(device) if is_meant(device)))?;
    match devices.children.remove(place) {
        bulkhead_xml::Node::Element(device) => Some(device),
        _ => None,
    }
}

/// What tells one device of a definition from the others, of which those of a running guest know the alias.
fn is_twin(definition: &Element, live: &Element) -> bool {
    if definition.name != live.name {
        return false;
    }
    match live.name.as_str() {
        "disk" => definition.path_attr("target", "dev") == live.path_attr("target", "dev"),
        "controller" => {
            definition.attr("type") == live.attr("type") && definition.attr("index") == live.attr("index")
        }
        _ => Definition::inactive_device(live) == Definition::inactive_device(definition),
    }
}

/// How much memory a device brings, in KiB: what the guest may have, and what it has.
fn memory_of(device: &Element) -> (u64, u64) {
    if device.name != "memory" {
        return (0, 0);
    }
    let size =
        device.at("target/size").map(Element::text).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    (size, if device.attr("model") == Some("virtio-mem") { 0 } else { size })
}

/// Adds to a tree's memory, or takes away from it.
fn change_memory(root: &mut Element, device: &Element, adds: bool) {
    let (most, now) = memory_of(device);
    for (name, change) in [("memory", most), ("currentMemory", now)] {
        if let Some(element) = root.child_mut(name)
            && change > 0
        {
            let old: u64 = element.text().trim().parse().unwrap_or(0);
            let new = if adds { old.saturating_add(change) } else { old.saturating_sub(change) };
            element.set_text(new.to_string());
        }
    }
}

/// An alias of QEMU's objects as the root of a path.
fn peripheral(alias: &str) -> String {
    format!("/machine/peripheral/{alias}")
}

impl Guest {
    fn running_mut(&mut self) -> Result<&mut Running, Error> {
        let missing = super::not_running(&self.name);
        self.running.as_mut().ok_or(missing)
    }

    pub(super) fn device_error(&self, code: Code, message: &str) -> Error {
        Error::new(code, Origin::QEMU, format!("Domain '{}': {message}", self.name))
    }

    /// The host that a tree is read against.
    async fn host_of(&self, root: &Element) -> Arc<Host> {
        self.environment.installed.for_definition(root).await
    }

    /// The options of one device of a tree.
    async fn options_of(
        &self,
        root: &Element,
        device: &Element,
    ) -> Result<(Vec<String>, Vec<DescriptorUse>), Error> {
        let capabilities = self.environment.capabilities(root).await?;
        args::of_device(root, device, &capabilities, &self.paths(false, Rendering::Plug))
    }

    /// The commands for one device of a tree.
    async fn steps_of(&self, root: &Element, device: &Element) -> Result<Vec<Step>, Error> {
        let (arguments, descriptors) = self.options_of(root, device).await?;
        args::plug::steps(device, &arguments, &descriptors)
    }

    /// Opens the file of a step, as QEMU will use it.
    async fn open_file(&self, file: &args::plug::File) -> Result<OwnedFd, Error> {
        let opened = self.environment.stack.open_for_helper(&self.key(), &file.path, file.opening).await;
        let opened = opened.map_err(|error| {
            let error = self.named(&error);
            // What the file system says is told as libvirt's storage tells it.
            if error.code == Code::SYSTEM_ERROR { Error { origin: Origin::STORAGE, ..error } } else { error }
        })?;
        if file.direct {
            let flags = fcntl(&opened, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
            let set = flags.and_then(|flags| fcntl(&opened, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)));
            set.map_err(|errno| {
                let what = format!("Domain '{}': {} past the host's cache", self.name, file.path.display());
                Error::system(Origin::STORAGE, what, &errno.into())
            })?;
        }
        Ok(opened)
    }

    /// Opens the files of all steps, before anything is done to QEMU.
    async fn open_files(&self, steps: &[Step]) -> Result<Vec<OwnedFd>, Error> {
        let mut opened = Vec::new();
        for file in steps.iter().flat_map(|step| &step.files) {
            opened.push(self.open_file(file).await?);
        }
        Ok(opened)
    }

    /// What QEMU is handed under a name.
    async fn handed(&self, named: &Named, taps: &mut Taps) -> Result<OwnedFd, Error> {
        match &named.purpose {
            Purpose::Character { alias } => {
                let socket = format!("{alias}.sock");
                let listens = self.environment.stack.listen_for_helper(&self.key(), &socket).await;
                listens.map_err(|error| self.named(&error))
            }
            Purpose::Tap { alias, queue } => taps.remove(&(alias.clone(), *queue)).ok_or_else(|| {
                self.device_error(Code::INTERNAL, &format!("interface {alias} has no tap for queue {queue}"))
            }),
            other => {
                Err(self
                    .device_error(Code::CONFIG_UNSUPPORTED, &format!("{other:?} can't be given to QEMU yet")))
            }
        }
    }

    /// Carries out the steps; one that fails takes back those before it. The files are those of the steps, in their order.
    async fn run_steps(
        &self,
        monitor: &Monitor,
        steps: &[Step],
        files: Vec<OwnedFd>,
        taps: &mut Taps,
    ) -> Result<(), Error> {
        let mut files = files.into_iter();
        for (number, step) in steps.iter().enumerate() {
            fault::point("plug", "before_step");
            let done = self.run_step(monitor, step, &mut files, taps).await;
            if let Err(error) = done {
                let behind: Vec<&Step> = steps.iter().take(number).rev().collect();
                for done in behind {
                    let (command, arguments) = &done.undo;
                    self.try_to(monitor, command, arguments.clone()).await;
                }
                for named in &step.named {
                    self.try_to(monitor, "closefd", json!({ "fdname": named.name })).await;
                }
                let owners: Vec<String> =
                    steps.iter().flat_map(|step| &step.files).map(|file| file.owner.clone()).collect();
                self.drop_sets(monitor, &owners).await;
                return Err(error);
            }
            fault::point("plug", "after_step");
        }
        Ok(())
    }

    async fn run_step(
        &self,
        monitor: &Monitor,
        step: &Step,
        files: &mut impl Iterator<Item = OwnedFd>,
        taps: &mut Taps,
    ) -> Result<(), Error> {
        let failed = |error: MonitorError| self.monitor_error(&error);
        let mut arguments = step.arguments.clone();
        for file in &step.files {
            let Some(opened) = files.next() else {
                return Err(
                    self.device_error(Code::INTERNAL, &format!("{} is not open", file.path.display()))
                );
            };
            let set = monitor.within(COMMAND_WITHIN).add_fd(None, Some(&file.owner), opened).await;
            let path = format!("/dev/fdset/{}", set.map_err(failed)?.fdset_id);
            match file.pointer.rsplit_once('/') {
                Some((place, name)) => {
                    let object = arguments.pointer_mut(place).and_then(Value::as_object_mut);
                    object.map(|object| object.insert(name.to_owned(), json!(path)));
                }
                None => continue,
            }
        }
        for named in &step.named {
            let descriptor = self.handed(named, taps).await?;
            monitor.within(COMMAND_WITHIN).getfd(&named.name, descriptor).await.map_err(failed)?;
        }
        monitor.execute(step.command, arguments, COMMAND_WITHIN).await.map(drop).map_err(failed)
    }

    /// A command of which it does not matter whether there was anything to do.
    async fn try_to(&self, monitor: &Monitor, command: &str, arguments: Value) {
        if let Err(error) = monitor.execute(command, arguments, COMMAND_WITHIN).await {
            tracing::debug!(domain = self.name, command, %error, "nothing to take back");
        }
    }

    /// Has QEMU close what it was handed for these.
    async fn drop_sets(&self, monitor: &Monitor, owners: &[String]) {
        let Ok(sets) = monitor.execute("query-fdsets", Value::Null, COMMAND_WITHIN).await else {
            return;
        };
        for set in sets.as_array().into_iter().flatten() {
            let files = set.get("fds").and_then(Value::as_array).into_iter().flatten();
            let mut named = files.filter_map(|file| file.get("opaque")?.as_str());
            if named.any(|name| owners.iter().any(|owner| owner == name)) {
                let id = set.get("fdset-id").cloned().unwrap_or_default();
                self.try_to(monitor, "remove-fd", json!({ "fdset-id": id })).await;
            }
        }
    }

    /// Has QEMU give up everything that is behind a device.
    async fn clear_behind(&self, monitor: &Monitor, root: &Element, device: &Element) {
        let alias = device.path_attr("alias", "name").unwrap_or_default();
        let (undos, owners) = match self.options_of(root, device).await {
            Ok((arguments, _)) => args::plug::behind(alias, &arguments),
            Err(error) => {
                tracing::warn!(domain = self.name, alias, %error, "what is behind the device is not known");
                return;
            }
        };
        for (command, arguments) in undos {
            fault::point("unplug", "before_step");
            self.try_to(monitor, command, arguments).await;
        }
        if device.name == "interface" {
            for queue in 0..8 {
                // Handed over and not used, after a death in between; else there are none of that name.
                let name = format!("tapfd-{alias}{queue}");
                if monitor.execute("closefd", json!({ "fdname": name }), COMMAND_WITHIN).await.is_err() {
                    break;
                }
            }
        }
        if matches!(device.name.as_str(), "channel" | "console" | "serial" | "parallel") {
            self.try_to(monitor, "closefd", json!({ "fdname": format!("{alias}-source") })).await;
        }
        self.drop_sets(monitor, &owners).await;
        fault::point("unplug", "after_steps");
    }

    /// The devices that QEMU has, by alias.
    async fn present(&self, monitor: &Monitor) -> Result<Vec<String>, Error> {
        let path = json!({ "path": "/machine/peripheral" });
        let list = monitor.execute("qom-list", path, COMMAND_WITHIN).await;
        let list = list.map_err(|error| self.monitor_error(&error))?;
        let entries = list.as_array().into_iter().flatten();
        Ok(entries.filter_map(|entry| Some(entry.get("name")?.as_str()?.to_owned())).collect())
    }

    /// Takes a changed definition.
    async fn take_config(&mut self, definition: Definition) -> Result<(), Error> {
        self.apply(Amended::of_config(definition)).await
    }

    /// Writes down and shows what holds now.
    async fn show(&mut self) -> Result<(), Error> {
        let recorded = self.record(Phase::Running).await;
        self.publish();
        recorded
    }

    /// A definition that a change carries with it.
    async fn carried(&mut self, config: Option<String>) -> Result<(), Error> {
        match config {
            Some(config) => {
                let root = tree(&config)?;
                self.take_config(Definition { root }).await
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_comes_and_goes_is_counted() {
        let dimm = tree("<memory model='dimm'><target><size unit='KiB'>64</size></target></memory>").unwrap();
        let mut root = tree(
            "<domain><memory unit='KiB'>100</memory><currentMemory unit='KiB'>90</currentMemory></domain>",
        )
        .unwrap();
        change_memory(&mut root, &dimm, true);
        assert_eq!(
            (root.child_text("memory").unwrap(), root.child_text("currentMemory").unwrap()),
            ("164".into(), "154".into())
        );
        change_memory(&mut root, &dimm, false);
        assert_eq!(root.child_text("memory").unwrap(), "100");
    }

    #[test]
    fn a_device_that_runs_is_found_in_the_definition_by_what_it_is() {
        let live =
            tree("<rng model='virtio'><alias name='rng1'/><address type='pci' bus='0x02'/></rng>").unwrap();
        let twin = tree("<rng model='virtio'><address type='pci' bus='0x02'/></rng>").unwrap();
        let other = tree("<rng model='virtio'><address type='pci' bus='0x03'/></rng>").unwrap();
        assert!(is_twin(&twin, &live) && !is_twin(&other, &live));
    }
}
