//! A guest's state goes into a file beside its definition, and the next start goes on from it.
//!
//! While a guest runs there is no stored state: going on from it twice would run an old memory over a newer disk. The one
//! exception is a save whose file is complete and whose QEMU has not ended yet; whoever finds that ends the QEMU.

use super::image::{Image, Place};
use super::target::Target;
use super::view::reason;
use super::{COMMAND_WITHIN, Guest, lifecycle};
use crate::domain::Definition;
use crate::monitor::{Monitor, MonitorError};
use bulkhead_actors::fault;
use bulkhead_actors::job::Job;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::State;
use serde_json::json;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Do not go through the host's cache (`VIR_DOMAIN_SAVE_BYPASS_CACHE`). What QEMU writes is synced in any case.
const BYPASS_CACHE: u32 = 1;
/// The next start runs the CPUs, whatever they do now (`VIR_DOMAIN_SAVE_RUNNING`).
const THEN_RUNNING: u32 = 2;
/// The next start leaves the CPUs stopped (`VIR_DOMAIN_SAVE_PAUSED`).
const THEN_PAUSED: u32 = 4;
/// All flags of a save that are served here.
pub(crate) const SAVE_FLAGS: u32 = BYPASS_CACHE | THEN_RUNNING | THEN_PAUSED;

/// As fast as the disk takes it: QEMU's own bound is for networks. Bytes in a second.
const BANDWIDTH: u64 = 1 << 50;
/// Between two looks at how far QEMU has come.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time that QEMU gets to give up a transfer.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// Time that QEMU gets to end once its state is stored.
const QUIT_WITHIN: Duration = Duration::from_secs(5);

/// Which way a state goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    /// From QEMU into the file.
    Out,
    /// From the file into QEMU.
    In,
}

/// A stored state that a start goes on from.
pub(crate) struct Stored {
    /// Do the CPUs run then?
    pub(super) runs: bool,
    pub(super) file: File,
    pub(super) offset: u64,
}

/// Reads the head of a stored state; QEMU's part begins where the file stands then.
pub(super) fn read(mut file: File) -> std::io::Result<(Image, File, u64)> {
    let (image, offset) = Image::decode(&mut file)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok((image, file, offset))
}

impl Guest {
    pub(super) fn place(&self) -> Place {
        Place::new(std::path::Path::new(&self.environment.host.state_folder), &self.name)
    }

    /// Does something with the stored state's file.
    pub(super) async fn on_image<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> std::io::Result<R> + Send + 'static,
    ) -> Result<R, Error> {
        let place = self.place();
        self.environment.on_disk(&self.image_name(), move || work(&place)).await
    }

    /// What errors about its stored state begin with.
    pub(super) fn image_name(&self) -> String {
        format!("Stored state of domain '{}'", self.name)
    }

    /// Looks for a stored state, when the domain is found on disk.
    pub(super) fn recall_saved(&mut self) {
        self.saved = self.place().is_stored();
    }

    /// Looks for a stored state, when the domain is new: it may have been brought from another host.
    pub(super) async fn find_saved(&mut self) {
        // Where it can't be looked for, the start says so.
        self.saved = self.on_image(|place| Ok(place.is_stored())).await.unwrap_or(false);
    }

    /// Removes the stored state: the next start boots.
    pub(crate) async fn remove_saved(&mut self) -> Result<(), Error> {
        self.on_image(Place::remove).await?;
        self.saved = false;
        self.publish();
        Ok(())
    }

    /// The stored state, if there is one and it is this domain's.
    pub(super) async fn open_saved(&self) -> Result<Option<(Definition, Stored)>, Error> {
        if !self.saved {
            return Ok(None);
        }
        let (image, file, offset) = self.on_image(|place| read(place.open()?)).await.map_err(|error| {
            let message = format!(
                "Domain '{}': its stored state {} can't be read: {}; remove it ('virsh managedsave-remove', 'bulkhead \
                 save-remove'), and the next start boots",
                self.name,
                self.place().path().display(),
                error.message
            );
            Error::new(Code::OPERATION_FAILED, Origin::QEMU, message)
        })?;
        let read = self.environment.read(image.xml.as_bytes()).await;
        let (mut definition, _) = read.map_err(|error| self.named(&error))?;
        // It may have been renamed since.
        definition.root.child_or_insert("name").set_text(self.name.clone());
        if definition.uuid() != self.key() {
            let message = format!(
                "Domain '{}': the stored state is of domain '{}' ({}); remove it, or start with --force-boot",
                self.name,
                definition.name(),
                definition.uuid()
            );
            return Err(Error::new(Code::OPERATION_INVALID, Origin::QEMU, message));
        }
        Ok(Some((definition, Stored { runs: image.runs, file, offset })))
    }

    /// The definition in the stored state.
    pub(crate) async fn saved_definition(&self) -> Result<Definition, Error> {
        match self.open_saved().await? {
            Some((definition, _)) => Ok(definition),
            None => Err(self.invalid("no state of it is stored")),
        }
    }

    /// Fills a QEMU that waits for it with the stored state.
    pub(super) async fn restore(&self, monitor: &Monitor, stored: Stored, job: &Job) -> Result<(), Error> {
        self.transfer(monitor, Direction::In, stored.file.into(), stored.offset, job).await
    }

    /// Changes the definition in the stored state.
    pub(crate) async fn amend_saved(&mut self, xml: Option<String>, runs: Option<bool>) -> Result<(), Error> {
        if !self.saved {
            return Err(self.invalid("no state of it is stored"));
        }
        let (image, ..) = self.on_image(|place| read(place.open()?)).await?;
        let amended = self.environment.amended_image(image, xml, runs).await?;
        self.on_image(move |place| amended.replace(&place.open_to_change()?)).await
    }

    /// Takes up a save that this driver's predecessor was at when it ended.
    pub(super) async fn resume_saving(&mut self, was_running: bool, target: Target) {
        if self.is_complete(&target).await {
            let monitor = self.monitor().ok();
            if let Err(error) = self.stored(&target, monitor.as_ref()).await {
                tracing::error!(domain = self.name, %error, "a save could not be finished");
            }
            return;
        }
        let Ok(monitor) = self.monitor() else { return };
        tracing::warn!(domain = self.name, "a save that was cut short is undone");
        self.stop_transfer(&monitor).await;
        if let Err(error) = self.abandon(&target).await {
            tracing::error!(domain = self.name, %error, "an unfinished state is left behind");
        }
        self.go_on(&monitor, was_running).await;
    }

    /// Has QEMU give up what it moves. While a transfer is being canceled the CPUs can't go on.
    pub(super) async fn stop_transfer(&self, monitor: &Monitor) {
        let _ = monitor.execute("migrate_cancel", serde_json::Value::Null, COMMAND_WITHIN).await;
        let settled = async {
            while monitor
                .within(COMMAND_WITHIN)
                .query_migrate()
                .await
                .is_ok_and(|migration| migration.is_active())
            {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(SETTLED_WITHIN, settled).await.is_err() {
            tracing::error!(domain = self.name, "QEMU does not let go of a save that was canceled");
        }
    }

    /// Stores the guest's state beside its definition and ends it.
    pub(crate) async fn managed_save(&mut self, flags: u32, job: &Job) -> Result<(), Error> {
        self.active()?;
        if self.persistent.is_none() {
            return Err(self.invalid("a transient domain has no definition to store its state beside"));
        }
        self.save_to(&Target::Managed, None, flags, job).await
    }

    /// Stores the guest's state in a file of a client's and ends it. It is to go on with another definition, if one is given.
    pub(crate) async fn save(
        &mut self,
        file: String,
        xml: Option<String>,
        flags: u32,
        job: &Job,
    ) -> Result<(), Error> {
        let xml = match xml {
            Some(xml) => {
                let (wanted, _) = self.environment.read(xml.as_bytes()).await?;
                super::stable::check(&self.active()?.definition.root, &wanted.root)?;
                Some(wanted.root.to_xml())
            }
            None => None,
        };
        self.save_to(&Target::File(file), xml, flags, job).await
    }

    async fn save_to(
        &mut self,
        target: &Target,
        xml: Option<String>,
        flags: u32,
        job: &Job,
    ) -> Result<(), Error> {
        let monitor = self.attached().await?;
        let was_running = match self.state {
            State::Running => true,
            State::Paused => false,
            _ => return Err(self.invalid("its state can be stored while it runs or is paused")),
        };
        let runs = if flags & THEN_RUNNING != 0 { true } else { was_running && flags & THEN_PAUSED == 0 };
        // Before anything changes: a file that can't be made is no reason to stop the guest.
        let file = self.begin_image(target).await?;
        let before = (self.state, self.reason);
        (self.state, self.reason) = (State::Paused, reason::PAUSED_SAVE);
        // The intent: whoever finds it without a complete file lets the guest go on.
        if let Err(error) = self.record(target.phase(was_running)).await {
            (self.state, self.reason) = before;
            let _ = self.abandon(target).await;
            return Err(error);
        }
        fault::point("save", "before_store");
        match self.store(&monitor, target, file, xml, runs, was_running, job).await {
            Ok(()) => {
                fault::point("save", "after_store");
                self.stored(target, Some(&monitor)).await
            }
            Err(error) => {
                let _ = self.abandon(target).await;
                self.go_on(&monitor, was_running).await;
                Err(error)
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a state is stored in one place, with all that belongs to it"
    )]
    async fn store(
        &mut self,
        monitor: &Monitor,
        target: &Target,
        mut file: File,
        xml: Option<String>,
        runs: bool,
        was_running: bool,
        job: &Job,
    ) -> Result<(), Error> {
        if was_running {
            monitor.within(COMMAND_WITHIN).stop().await.map_err(|error| self.monitor_error(&error))?;
            self.publish();
            self.emit(lifecycle::PAUSED);
        }
        let xml = match xml {
            Some(xml) => xml,
            None => self.active()?.definition.root.to_xml(),
        };
        let (file, theirs, offset) = self
            .environment
            .on_disk(&self.image_name(), move || {
                let head = Image { xml, runs }.encode();
                file.write_all(&head)?;
                let theirs = OwnedFd::from(file.try_clone()?);
                Ok((file, theirs, head.len() as u64))
            })
            .await?;
        self.transfer(monitor, Direction::Out, theirs, offset, job).await?;
        fault::point("save", "before_rename");
        self.finish_image(target, file).await
    }

    /// The state is stored: QEMU ends, and with it the run.
    async fn stored(&mut self, target: &Target, monitor: Option<&Monitor>) -> Result<(), Error> {
        self.saved |= matches!(target, Target::Managed);
        let key = self.key();
        let Some(running) = &mut self.running else { return Ok(()) };
        running.ending = Some((reason::SHUTOFF_SAVED, lifecycle::STOPPED_SAVED));
        let process = Arc::clone(&running.process);
        if let Some(monitor) = monitor {
            let _ = monitor.within(COMMAND_WITHIN).quit().await;
        }
        if tokio::time::timeout(QUIT_WITHIN, process.readable()).await.is_err() {
            let _ = self.environment.stack.kill_helper(&key).await;
            let _ = tokio::time::timeout(QUIT_WITHIN, process.readable()).await;
        }
        self.ended(None).await;
        Ok(())
    }

    /// A save that did not come to its end: the guest is as it was before.
    pub(super) async fn go_on(&mut self, monitor: &Monitor, was_running: bool) {
        let (state, why) = if was_running {
            (State::Running, reason::RUNNING_SAVE_CANCELED)
        } else {
            (State::Paused, reason::PAUSED_USER)
        };
        if was_running && let Err(error) = monitor.within(COMMAND_WITHIN).cont().await {
            tracing::error!(domain = self.name, %error, "the guest could not go on after a save that failed");
            self.become_state(State::Paused, reason::PAUSED_USER).await;
            return;
        }
        self.become_state(state, why).await;
        if was_running {
            self.emit(lifecycle::RESUMED);
        }
    }

    /// Has QEMU write its state into an open file, or read it from there.
    pub(super) async fn transfer(
        &self,
        monitor: &Monitor,
        direction: Direction,
        file: OwnedFd,
        offset: u64,
        job: &Job,
    ) -> Result<(), Error> {
        let named = |error: MonitorError| self.monitor_error(&error);
        let parameters = json!({ "max-bandwidth": BANDWIDTH });
        monitor.execute("migrate-set-parameters", parameters, COMMAND_WITHIN).await.map_err(named)?;
        let version = monitor.version();
        let command = match direction {
            Direction::Out => "migrate",
            Direction::In => "migrate-incoming",
        };
        // A set of descriptors is what a path can name; before 8.2 QEMU takes no path, and a descriptor under a name
        // goes on at its own position.
        let (uri, set) = if (version.major, version.minor) >= (8, 2) {
            let added =
                monitor.within(COMMAND_WITHIN).add_fd(None, Some("state"), file).await.map_err(named)?;
            (format!("file:/dev/fdset/{},offset={offset}", added.fdset_id), Some(added.fdset_id))
        } else {
            monitor.within(COMMAND_WITHIN).getfd("state", file).await.map_err(named)?;
            ("fd:state".to_owned(), None)
        };
        let begun = monitor.execute(command, json!({ "uri": uri }), COMMAND_WITHIN).await.map_err(named);
        let moved = match begun {
            Ok(_) => self.watch_transfer(monitor, job).await,
            Err(error) => Err(error),
        };
        if let Some(set) = set {
            // QEMU closes its own when it is done; the set's is the one that this removes.
            let _ = monitor.execute("remove-fd", json!({ "fdset-id": set }), COMMAND_WITHIN).await;
        }
        moved
    }

    /// Waits for the end of a transfer. It may last as long as it needs: QEMU's end, or a wish to cancel, ends it early.
    async fn watch_transfer(&self, monitor: &Monitor, job: &Job) -> Result<(), Error> {
        let mut told = false;
        loop {
            match monitor.within(COMMAND_WITHIN).query_migrate().await {
                Ok(migration) => {
                    if let Some(memory) = &migration.ram {
                        job.report(memory.total.saturating_sub(memory.remaining), memory.total);
                    }
                    match migration.status.as_deref() {
                        Some("completed") => return Ok(()),
                        Some("cancelled") => return Err(self.canceled(job)),
                        Some("failed") => {
                            let why =
                                migration.error_desc.unwrap_or_else(|| "QEMU does not say why".to_owned());
                            let message =
                                format!("Domain '{}': QEMU could not move its state: {why}", self.name);
                            return Err(Error::new(Code::OPERATION_FAILED, Origin::QEMU, message));
                        }
                        _ => {}
                    }
                }
                // It writes while others wait: a slow disk is no failure, unless somebody has had enough of it.
                Err(MonitorError::Deadline { .. }) if !job.is_canceled() => {}
                Err(error) => return Err(self.monitor_error(&error)),
            }
            if job.is_canceled() && !told {
                told = true;
                let asked = monitor.execute("migrate_cancel", serde_json::Value::Null, COMMAND_WITHIN).await;
                asked.map_err(|error| self.monitor_error(&error))?;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = job.canceled(), if !told => {}
            }
        }
    }

    fn canceled(&self, job: &Job) -> Error {
        let operation = job.progress().operation;
        let message = format!("Domain '{}': {operation} was canceled by a client", self.name);
        Error::new(Code::OPERATION_ABORTED, Origin::QEMU, message)
    }
}
