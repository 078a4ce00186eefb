//! Drives whose medium can be exchanged.

use super::super::live::Change;
use super::super::{COMMAND_WITHIN, Guest, blocks};
use super::{Taps, is_twin, with_alias};
use crate::args::nodes;
use crate::args::plug::Step;
use crate::monitor::{Monitor, MonitorError, TrayMoved};
use bulkhead_actors::fault;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::DomainEvent;
use bulkhead_xml::{Element, Node};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Time that a guest gets to open the tray of a drive that it holds.
const TRAY_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// `virDomainEventTrayChangeReason`
const TRAY_OPENED: i32 = 0;
const TRAY_CLOSED: i32 = 1;

/// The parts of a disk that say what is in it.
const MEDIUM: [&str; 3] = ["source", "backingStore", "driver"];

/// A drive with the medium of another description.
fn with_medium(drive: &Element, new: &Element) -> Element {
    let mut disk = drive.clone();
    for part in MEDIUM.iter().filter(|part| **part != "driver") {
        disk.take(part);
    }
    disk.set("type", new.attr("type").unwrap_or("file"));
    if let (Some(driver), Some(format)) = (disk.child_mut("driver"), new.path_attr("driver", "type")) {
        driver.set("type", format);
    }
    if let Some(target) = disk.child_mut("target") {
        target.unset("tray");
    }
    let after = disk.children.iter().position(|node| matches!(node, Node::Element(e) if e.name == "driver"));
    let mut place = after.map_or(0, |after| after + 1);
    for part in ["source", "backingStore"] {
        if let Some(child) = new.child(part) {
            disk.children.insert(place, Node::Element(child.clone()));
            place += 1;
        }
    }
    disk
}

/// Does it hold what another holds? Numbers of nodes do not count.
pub(super) fn same_medium(one: &Element, other: &Element) -> bool {
    let bare = |disk: &Element| {
        let mut source = disk.child("source").cloned().unwrap_or_else(|| Element::new("source"));
        source.unset("index");
        (
            nodes::has_source(disk).then_some(source),
            disk.attr("type").map(str::to_owned).filter(|_| nodes::has_source(disk)),
        )
    };
    bare(one) == bare(other)
}

/// Replaces a disk of a tree.
fn replace(root: &mut Element, disk: &Element) {
    for device in root.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
        if device.name == "disk" && is_twin(device, disk) {
            *device = disk.clone();
            return;
        }
    }
}

/// The node that a drive stands on, by the command that adds it.
fn top(steps: &[Step]) -> Option<Value> {
    steps.iter().find(|step| step.is_device())?.arguments.get("drive").cloned()
}

impl Guest {
    /// Exchanges the medium of a drive of the guest that runs. `new` says what is in it afterwards.
    pub(super) async fn change_medium(
        &mut self,
        new: &Element,
        force: bool,
        config: Option<String>,
    ) -> Result<(), Error> {
        let monitor = self.attached().await?;
        let live = Arc::clone(&self.active()?.live);
        let old = super::devices(&live).find(|device| device.name == "disk" && is_twin(device, new)).cloned();
        let Some(old) = old else {
            return Err(self.device_error(Code::INTERNAL, "the drive is gone"));
        };
        if same_medium(&old, new) && !force {
            return self.carried(config).await;
        }
        let mut disk = with_medium(&old, new);
        let mut next_node = self.active()?.devices.next_node;
        if next_node == 0 {
            next_node = nodes::number_all(&mut Element::clone(&live));
        }
        self.find_layers(&mut disk).await?;
        let number = next_node;
        nodes::number(&mut disk, &mut next_node);
        if !nodes::has_source(&disk) {
            // Nothing is in it, which has a number too.
            let place =
                disk.children.iter().position(|node| matches!(node, Node::Element(e) if e.name == "driver"));
            let empty = Element::new("source").with("index", number.to_string());
            disk.children.insert(place.map_or(0, |place| place + 1), Node::Element(empty));
        }
        self.running_mut()?.devices.next_node = next_node;
        let mut root = Element::clone(&live);
        replace(&mut root, &disk);
        let steps = self.steps_of(&root, &disk).await?;
        // What is not there, or is not for guests, is found out before the old medium is touched.
        let files = self.open_files(&steps).await?;
        self.open_tray(&monitor, &old, force).await?;
        self.running_mut()?.devices.change = Some(Change::Medium { disk: disk.to_xml(), config });
        self.record(super::Phase::Running).await?;
        if let Err(error) = self.exchange(&monitor, &live, &old, &disk, &steps, files, force).await {
            self.put_back(&monitor, &live, &old).await?;
            return Err(error);
        }
        self.finish_medium(&disk).await
    }

    async fn drives(&self, monitor: &Monitor) -> Result<Value, Error> {
        let drives = monitor.execute("query-block", Value::Null, COMMAND_WITHIN).await;
        drives.map_err(|error| self.monitor_error(&error))
    }

    /// Opens the tray; a guest that holds it shut is asked, and gets some time.
    async fn open_tray(&self, monitor: &Monitor, drive: &Element, force: bool) -> Result<(), Error> {
        let alias = drive.path_attr("alias", "name").unwrap_or_default();
        if drive.attr("device") != Some("cdrom") {
            return Ok(());
        }
        let arguments = json!({ "id": alias, "force": force });
        match monitor.execute("blockdev-open-tray", arguments, COMMAND_WITHIN).await {
            Ok(_) => return Ok(()),
            Err(MonitorError::Refused { description, .. }) if description.contains("locked") => {}
            Err(error) => return Err(self.monitor_error(&error)),
        }
        let opened = async {
            loop {
                let drives = self.drives(monitor).await?;
                let open = blocks::entry(&drives, alias).and_then(|drive| drive.get("tray_open"));
                if open == Some(&Value::Bool(true)) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(TRAY_WITHIN, opened).await.unwrap_or_else(|_| Err(self.tray_is_shut(alias)))
    }

    fn tray_is_shut(&self, alias: &str) -> Error {
        let message = format!(
            "the guest holds the tray of {alias} shut and did not leave it open within {} s; unmount it there, or force it",
            TRAY_WITHIN.as_secs()
        );
        self.device_error(Code::OPERATION_FAILED, &message)
    }

    /// A command that needs the tray to be open. A guest that boots, or looks into its drives, may shut it at any time: then it
    /// is opened again.
    async fn with_open_tray(
        &self,
        monitor: &Monitor,
        drive: &Element,
        force: bool,
        command: &str,
        arguments: Value,
    ) -> Result<(), Error> {
        let alias = drive.path_attr("alias", "name").unwrap_or_default();
        let done = async {
            loop {
                match monitor.execute(command, arguments.clone(), COMMAND_WITHIN).await {
                    Ok(_) => return Ok(()),
                    Err(MonitorError::Refused { description, .. }) if description.contains("is not open") => {
                        tokio::time::sleep(LOOK_EVERY).await;
                        self.open_tray(monitor, drive, force).await?;
                    }
                    Err(error) => return Err(self.monitor_error(&error)),
                }
            }
        };
        tokio::time::timeout(TRAY_WITHIN, done).await.unwrap_or_else(|_| Err(self.tray_is_shut(alias)))
    }

    /// Takes out the old medium, and puts in the new one if there is one.
    #[expect(clippy::too_many_arguments, reason = "what is taken out, what goes in, and how")]
    async fn exchange(
        &self,
        monitor: &Monitor,
        live: &Element,
        old: &Element,
        disk: &Element,
        steps: &[Step],
        files: Vec<OwnedFd>,
        force: bool,
    ) -> Result<(), Error> {
        let alias = disk.path_attr("alias", "name").unwrap_or_default();
        fault::point("medium", "before_removal");
        self.with_open_tray(monitor, old, force, "blockdev-remove-medium", json!({ "id": alias })).await?;
        if nodes::has_source(old) {
            self.clear_behind(monitor, live, old).await;
        }
        fault::point("medium", "after_removal");
        self.insert(monitor, disk, steps, files, force).await
    }

    async fn insert(
        &self,
        monitor: &Monitor,
        disk: &Element,
        steps: &[Step],
        files: Vec<OwnedFd>,
        force: bool,
    ) -> Result<(), Error> {
        let alias = disk.path_attr("alias", "name").unwrap_or_default();
        let failed = |error: MonitorError| self.monitor_error(&error);
        if nodes::has_source(disk) {
            let behind: Vec<Step> = steps.iter().filter(|step| !step.is_device()).cloned().collect();
            self.run_steps(monitor, &behind, files, &mut Taps::new()).await?;
            let arguments = json!({ "id": alias, "node-name": top(steps) });
            self.with_open_tray(monitor, disk, force, "blockdev-insert-medium", arguments).await?;
        }
        fault::point("medium", "after_insertion");
        monitor
            .execute("blockdev-close-tray", json!({ "id": alias }), COMMAND_WITHIN)
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// The new medium did not go in: the old one comes back, or the drive is seen to be empty.
    async fn put_back(&mut self, monitor: &Monitor, live: &Element, old: &Element) -> Result<(), Error> {
        let back = async {
            let steps = self.steps_of(live, old).await?;
            let files = self.open_files(&steps).await?;
            self.insert(monitor, old, &steps, files, true).await
        };
        let back: Result<(), Error> = back.await;
        if let Err(error) = back {
            tracing::error!(domain = self.name, %error, "a drive stays empty");
            let empty = with_medium(old, &Element::new("disk"));
            return self.finish_empty(&empty).await;
        }
        self.running_mut()?.devices.change = None;
        self.record(super::Phase::Running).await
    }

    async fn finish_empty(&mut self, empty: &Element) -> Result<(), Error> {
        self.running_mut()?.devices.change = Some(Change::Medium { disk: empty.to_xml(), config: None });
        self.finish_medium(empty).await
    }

    /// Makes a medium hold that is in.
    async fn finish_medium(&mut self, disk: &Element) -> Result<(), Error> {
        let running = self.running_mut()?;
        let config = match running.devices.change.take() {
            Some(Change::Medium { config, .. }) => config,
            _ => None,
        };
        let mut live = Element::clone(&running.live);
        replace(&mut live, disk);
        running.live = Arc::new(live);
        let mut inactive = crate::domain::Definition::inactive_device(disk);
        if disk.child("backingStore").is_some_and(|store| store.attr("type").is_none()) {
            // Found when it was put in; the next start looks again.
            inactive.take("backingStore");
        }
        replace(&mut running.definition.root, &inactive);
        self.show().await?;
        fault::point("medium", "after_record");
        self.carried(config).await
    }

    /// After a death in between: the medium is in, or goes in now.
    pub(super) async fn settle_medium(
        &mut self,
        monitor: &Monitor,
        disk: &Element,
        config: Option<String>,
    ) -> Result<(), Error> {
        let alias = disk.path_attr("alias", "name").unwrap_or_default().to_owned();
        let live = Arc::clone(&self.active()?.live);
        let Some(old) = with_alias(&live, &alias).cloned() else {
            self.running_mut()?.devices.change = None;
            return self.record(super::Phase::Running).await;
        };
        let mut root = Element::clone(&live);
        replace(&mut root, disk);
        let steps = self.steps_of(&root, disk).await?;
        let drives = self.drives(monitor).await?;
        let drive = blocks::entry(&drives, &alias);
        let inside = drive.and_then(|drive| drive.pointer("/inserted/node-name")).cloned();
        if inside.is_some() && inside == top(&steps) {
            self.try_to(monitor, "blockdev-close-tray", json!({ "id": alias })).await;
            return self.finish_medium(disk).await;
        }
        // Whatever is left of the new one is made anew.
        self.clear_behind(monitor, &root, disk).await;
        let done = async {
            let files = self.open_files(&steps).await?;
            self.exchange(monitor, &live, &old, disk, &steps, files, true).await
        };
        let done: Result<(), Error> = done.await;
        match done {
            Ok(()) => {
                self.running_mut()?.devices.change = Some(Change::Medium { disk: disk.to_xml(), config });
                self.finish_medium(disk).await
            }
            Err(error) => {
                tracing::error!(domain = self.name, %error, "a medium could not be put in after all");
                self.put_back(monitor, &live, &old).await
            }
        }
    }

    /// QEMU says that a tray has moved.
    pub(crate) async fn tray_moved(&mut self, moved: &TrayMoved) {
        let Some(running) = &mut self.running else { return };
        let mut live = Element::clone(&running.live);
        let disks = live.child_mut("devices").into_iter().flat_map(Element::elements_mut);
        let is_meant = |disk: &&mut Element| {
            disk.name == "disk"
                && disk.path_attr("alias", "name").is_some_and(|alias| blocks::is_device(&moved.id, alias))
        };
        let Some(disk) = disks.filter(|disk| disk.name == "disk").find(is_meant) else { return };
        let alias = disk.path_attr("alias", "name").unwrap_or_default().to_owned();
        if let Some(target) = disk.child_mut("target") {
            if moved.tray_open {
                target.set("tray", "open");
            } else {
                target.unset("tray");
            }
        }
        running.live = Arc::new(live);
        if let Err(error) = self.show().await {
            tracing::error!(domain = self.name, %error, "live state");
        }
        let domain = self.view.get().reference();
        let reason = if moved.tray_open { TRAY_OPENED } else { TRAY_CLOSED };
        self.environment.emit(&DomainEvent::TrayChange { domain, alias, reason });
    }
}
