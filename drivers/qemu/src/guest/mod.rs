//! A domain's own actor: everything that changes it happens here, one operation after the other.
//!
//! ```text
//!            define                       start                        SHUTDOWN event
//!  (nothing) ──────► Shutoff(persistent) ──────► Paused ──► Running ──────────────► Shutdown
//!                      ▲        │ undefine          │ suspend/resume                   │
//!                      │        ▼                   ▼                                  │
//!                      │      gone                Paused                               │
//!                      └──────────── QEMU's end (destroy, quit, crash) ◄───────────────┘
//! ```
//!
//! [`view`] is what readers see, [`live`] what is on disk while it runs, [`start`] and [`stop`] the two sagas, [`adopt`] how one that runs is taken over,
//! [`monitor_events`] what QEMU tells, [`streams`] what is handed out as open files,
//! [`amend`] and [`rename`] how its description changes, [`agent`] the way to the guest's agent,
//! [`owner`] the client that it ends with, [`process`] and [`blocks`] what kernel and QEMU count of it,
//! [`plug`] devices that come and go,
//! [`prepare`] what a start needs beside the definition, [`tpm`] the TPM beside QEMU, [`display`] where displays listen,
//! [`save`], [`target`], [`stable`] and [`image`] the state that a guest goes on from, [`dump`] what is written of its memory.

mod adopt;
pub(crate) mod agent;
pub(crate) mod amend;
pub(crate) mod blocks;
mod display;
pub(crate) mod dump;
pub(crate) mod group;
mod image;
pub(crate) mod leases;
pub(crate) mod live;
mod monitor_events;
mod owner;
pub(crate) mod plug;
mod ports;
mod prepare;
pub(crate) mod process;
mod rename;
mod save;
mod secrets;
mod stable;
mod start;
pub(crate) use start::has_balloon;
mod stop;
mod streams;
mod target;
pub(crate) mod tpm;
pub(crate) mod tuning;
pub(crate) mod variables;
pub(crate) mod view;

use crate::domain::Definition;
use crate::driver::Environment;
use crate::monitor::{Monitor, MonitorError};
use bulkhead_actors::object::{Object, WeakObject};
use bulkhead_actors::snapshot::Snapshot;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::{DomainEvent, State, Uuid};
use bulkhead_xml::Element;
use live::{Phase, Record};
pub(crate) use save::SAVE_FLAGS;
pub(crate) use start::{FLAG_AUTODESTROY as START_AUTODESTROY, FLAGS as START_FLAGS};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use variables::Variables;
use view::{LiveView, View, reason};

/// Time that QEMU gets for one command; well below every deadline in the table, so that the error can name the guest.
pub(crate) const COMMAND_WITHIN: Duration = Duration::from_secs(5);

/// libvirt's lifecycle events and the details that this driver tells.
pub(crate) mod lifecycle {
    pub(crate) const DEFINED: (i32, i32) = (0, 0);
    pub(crate) const REDEFINED: (i32, i32) = (0, 1);
    pub(crate) const DEFINED_RENAMED: (i32, i32) = (0, 2);
    pub(crate) const UNDEFINED: (i32, i32) = (1, 0);
    pub(crate) const UNDEFINED_RENAMED: (i32, i32) = (1, 1);
    pub(crate) const STARTED: (i32, i32) = (2, 0);
    pub(crate) const STARTED_RESTORED: (i32, i32) = (2, 2);
    pub(crate) const PAUSED: (i32, i32) = (3, 0);
    pub(crate) const PAUSED_IO_ERROR: (i32, i32) = (3, 2);
    pub(crate) const PAUSED_WATCHDOG: (i32, i32) = (3, 3);
    pub(crate) const PAUSED_RESTORED: (i32, i32) = (3, 4);
    pub(crate) const RESUMED: (i32, i32) = (4, 0);
    pub(crate) const RESUMED_FROM_STATE: (i32, i32) = (4, 2);
    pub(crate) const STOPPED_SHUTDOWN: (i32, i32) = (5, 0);
    pub(crate) const STOPPED_DESTROYED: (i32, i32) = (5, 1);
    pub(crate) const STOPPED_CRASHED: (i32, i32) = (5, 2);
    pub(crate) const STOPPED_SAVED: (i32, i32) = (5, 4);
    pub(crate) const STOPPED_FAILED: (i32, i32) = (5, 5);
    pub(crate) const SHUTDOWN_FINISHED: (i32, i32) = (6, 0);
    pub(crate) const ASLEEP: (i32, i32) = (7, 0);
    pub(crate) const CRASHED: (i32, i32) = (8, 0);
}

/// A helper's process: readable when it has ended.
type Process = Arc<AsyncFd<OwnedFd>>;

/// QEMU, while it runs.
pub(crate) struct Running {
    id: i32,
    /// What it was started from.
    definition: Definition,
    live: Arc<Element>,
    /// Present once attached; a QEMU that hangs has none after a restart of this driver.
    monitor: watch::Receiver<Option<Monitor>>,
    pid: u32,
    /// Readable when it has ended.
    process: Process,
    /// The emulator of its TPM, if it has one.
    tpm: Option<Process>,
    taps: Vec<String>,
    autodestroy: bool,
    memory_kib: u64,
    /// Why it is about to end, if it is known.
    ending: Option<(i32, (i32, i32))>,
    /// The next shutdown is half of a reboot.
    reboot: bool,
    /// Whose turn it is to speak with the guest's agent.
    agent: agent::Turn,
    /// What is under way with its devices.
    devices: live::Devices,
    /// Who waits for devices to be gone.
    waiting: plug::Waiting,
}

/// The error of whoever needs a guest that runs.
pub(crate) fn not_running(name: &str) -> Error {
    let message = format!("Domain '{name}': domain is not running; start it first");
    Error::new(Code::OPERATION_INVALID, Origin::DOMAIN, message)
}

/// A domain.
pub(crate) struct Guest {
    environment: Arc<Environment>,
    name: String,
    uuid: Uuid,
    persistent: Option<Arc<Definition>>,
    autostart: bool,
    /// It starts with the stack the next time alone.
    autostart_once: bool,
    /// A state is stored that the next start goes on from.
    saved: bool,
    state: State,
    reason: i32,
    running: Option<Running>,
    /// How long its agent is waited for, if a client said so.
    agent_patience: Option<Duration>,
    /// Somebody wants it to end; a start that is under way gives up.
    destroyed: Arc<watch::Sender<bool>>,
    view: Arc<Snapshot<View>>,
    myself: WeakObject<Guest>,
}

/// The way to a domain: its task and its snapshot.
#[derive(Debug, Clone)]
pub(crate) struct GuestHandle {
    pub(crate) object: Object<Guest>,
    pub(crate) view: Arc<Snapshot<View>>,
    destroyed: Arc<watch::Sender<bool>>,
}

impl GuestHandle {
    /// A domain that has a name and nothing else yet.
    pub(crate) fn new(environment: &Arc<Environment>, name: &str, uuid: Uuid) -> Self {
        let view = Arc::new(Snapshot::new(View::new(name, uuid)));
        let shared = Arc::clone(&view);
        let destroyed = Arc::new(watch::Sender::new(false));
        let heard = Arc::clone(&destroyed);
        let environment = Arc::clone(environment);
        let object = Object::spawn(&format!("domain {name}"), |myself| Guest {
            environment,
            name: name.to_owned(),
            uuid,
            persistent: None,
            autostart: false,
            autostart_once: false,
            saved: false,
            state: State::Shutoff,
            reason: reason::SHUTOFF_UNKNOWN,
            running: None,
            agent_patience: None,
            destroyed: heard,
            view: shared,
            myself,
        });
        Self { object, view, destroyed }
    }
}

impl Running {
    /// The XML as it runs.
    pub(crate) fn live_root(&self) -> Arc<Element> {
        Arc::clone(&self.live)
    }
}

impl Guest {
    /// What readers see at present.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.get()
    }

    /// The helper's key: what the broker knows this guest by.
    fn key(&self) -> String {
        self.uuid.to_string()
    }

    /// Publishes what readers see. Before anybody is answered: a caller reads its own write.
    fn publish(&self) {
        let live = self.running.as_ref().map(|running| LiveView {
            id: running.id,
            pid: running.pid,
            root: Arc::clone(&running.live),
            memory_kib: running.memory_kib,
            monitor: running.monitor.clone(),
            agent: Arc::clone(&running.agent),
        });
        self.view.set(View {
            name: self.name.clone(),
            uuid: self.uuid,
            state: self.state,
            reason: self.reason,
            autostart: self.autostart,
            autostart_once: self.autostart_once,
            saved: self.saved,
            persistent: self.persistent.clone(),
            live,
        });
    }

    /// Publishes that it is being started: it has its number, and no process yet.
    fn publish_start(&self, id: i32, live: &Element) {
        let live = LiveView {
            id,
            pid: 0,
            root: Arc::new(live.clone()),
            memory_kib: start::memory_kib(live),
            monitor: watch::channel(None).1,
            agent: agent::Turn::default(),
        };
        let view = View::clone(&self.view.get());
        let (state, reason) = (State::Paused, reason::PAUSED_STARTING);
        self.view.set(View { state, reason, live: Some(live), ..view });
    }

    /// Makes sure that it can be found, before it exists.
    fn enroll(&self) -> Result<(), Error> {
        let object = self.myself.upgrade().ok_or_else(|| self.invalid("its driver is ending"))?;
        let (view, destroyed) = (Arc::clone(&self.view), Arc::clone(&self.destroyed));
        self.environment.enroll(GuestHandle { object, view, destroyed })
    }

    /// Drops it if nothing is left of it.
    pub(crate) fn forget_if_gone(&self) {
        self.environment.forget(self.uuid, &self.view);
    }

    fn emit(&self, (event, detail): (i32, i32)) {
        let domain = self.view.get().reference();
        self.environment.emit(&DomainEvent::Lifecycle { domain, event, detail });
    }

    pub(crate) fn invalid(&self, why: &str) -> Error {
        let message = format!("Domain '{}': {why}", self.name);
        Error::new(Code::OPERATION_INVALID, Origin::QEMU, message)
    }

    pub(crate) fn active(&self) -> Result<&Running, Error> {
        self.running.as_ref().ok_or_else(|| not_running(&self.name))
    }

    /// The monitor of a guest that runs.
    pub(crate) fn monitor(&self) -> Result<Monitor, Error> {
        let monitor = self.active()?.monitor.borrow().clone();
        monitor.ok_or_else(|| {
            let message = format!(
                "Domain '{}': its QEMU does not answer on the monitor; if it stays so, destroy the domain",
                self.name
            );
            Error::new(Code::OPERATION_TIMEOUT, Origin::QEMU, message)
        })
    }

    /// The monitor of a guest that runs. One that was adopted a moment ago gets the time of a command to be attached.
    async fn attached(&self) -> Result<Monitor, Error> {
        let running = self.active()?;
        let mut seen = running.monitor.clone();
        let attached =
            async { seen.wait_for(Option::is_some).await.ok().and_then(|monitor| monitor.clone()) };
        tokio::select! {
            biased;
            _ = running.process.readable() => Err(self.invalid("its QEMU has ended")),
            attached = tokio::time::timeout(COMMAND_WITHIN, attached) => match attached {
                Ok(Some(monitor)) => Ok(monitor),
                _ => self.monitor(),
            },
        }
    }

    /// An error of the monitor, with the guest's name.
    pub(crate) fn monitor_error(&self, error: &MonitorError) -> Error {
        let mut error = Error::from(error);
        error.message = format!("Domain '{}': {}", self.name, error.message);
        error
    }

    /// Gives it a definition that outlives its runs.
    pub(crate) async fn define(&mut self, definition: Definition) -> Result<(), Error> {
        self.enroll()?;
        let defined = self.take_definition(definition).await;
        self.forget_if_gone();
        defined
    }

    async fn take_definition(&mut self, definition: Definition) -> Result<(), Error> {
        let (folder, name) = (self.environment.definitions.clone(), self.name.clone());
        let text = definition.root.to_xml();
        self.environment
            .on_disk(&format!("Definition of domain '{name}'"), move || folder.write(&name, text.as_bytes()))
            .await?;
        if self.environment.is_set_aside(&self.name) {
            self.environment.reinstate(&self.name).await;
        }
        let known = self.persistent.replace(Arc::new(definition)).is_some();
        if self.running.is_some() {
            self.record(Phase::Running).await?;
        }
        if !known {
            self.find_saved().await;
        }
        self.publish();
        self.emit(if known { lifecycle::REDEFINED } else { lifecycle::DEFINED });
        Ok(())
    }

    /// Takes up a definition found on disk.
    pub(crate) fn recall(&mut self, definition: Definition, (autostart, once): (bool, bool)) {
        self.persistent = Some(Arc::new(definition));
        self.autostart = autostart;
        self.autostart_once = once;
        self.recall_saved();
        self.publish();
    }

    /// Removes the definition. A guest that runs goes on, and is gone when it ends.
    pub(crate) async fn undefine(
        &mut self,
        with_state: bool,
        tpm: tpm::StateOf,
        variables: Variables,
    ) -> Result<(), Error> {
        let Some(definition) = self.persistent.clone() else {
            return Err(self.invalid("cannot undefine transient domain"));
        };
        if self.saved && !with_state {
            return Err(self.invalid("a state of it is stored; remove that first, or with the definition"));
        }
        // Before anything goes. A crash after it leaves a domain whose next start makes new ones.
        self.settle_variables(&definition.root, variables).await?;
        if self.saved {
            self.remove_saved().await?;
        }
        let environment = Arc::clone(&self.environment);
        let name = self.name.clone();
        environment
            .on_disk(&format!("Definition of domain '{name}'"), {
                let definitions = environment.definitions.clone();
                let marks = [environment.autostart.clone(), environment.autostart_once.clone()];
                // With its definition the domain is gone; a mark that a crash leaves means nothing, and is removed after it.
                move || {
                    definitions.remove(&name)?;
                    marks.iter().try_for_each(|mark| mark.remove(&name))
                }
            })
            .await?;
        self.persistent = None;
        (self.autostart, self.autostart_once) = (false, false);
        if self.running.is_some() {
            self.record(Phase::Running).await?;
        } else {
            self.drop_tpm(&definition.root, tpm).await;
        }
        self.publish();
        self.emit(lifecycle::UNDEFINED);
        self.forget_if_gone();
        Ok(())
    }

    /// Starts it with the stack, or no longer.
    pub(crate) async fn set_autostart(&mut self, wanted: bool) -> Result<(), Error> {
        if self.persistent.is_none() {
            return Err(self.invalid("cannot set autostart for transient domain"));
        }
        let (folder, name) = (self.environment.autostart.clone(), self.name.clone());
        self.environment
            .on_disk(&format!("Autostart of domain '{name}'"), move || {
                if wanted { folder.write(&name, b"") } else { folder.remove(&name) }
            })
            .await?;
        self.autostart = wanted;
        self.publish();
        Ok(())
    }

    /// Starts it with the stack the next time alone, or no longer.
    pub(crate) async fn set_autostart_once(&mut self, wanted: bool) -> Result<(), Error> {
        if self.persistent.is_none() {
            return Err(self.invalid("cannot set autostart for transient domain"));
        }
        let (folder, name) = (self.environment.autostart_once.clone(), self.name.clone());
        self.environment
            .on_disk(&format!("Autostart of domain '{name}'"), move || {
                if wanted { folder.write(&name, b"") } else { folder.remove(&name) }
            })
            .await?;
        self.autostart_once = wanted;
        self.publish();
        Ok(())
    }

    /// Writes the live state.
    async fn record(&self, phase: Phase) -> Result<(), Error> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let mut record = Record::new(
            phase,
            running.id,
            &running.definition,
            running.live.to_xml(),
            self.persistent.is_some(),
            running.autodestroy,
            running.taps.clone(),
            (self.state as i32, self.reason),
        )
        .owned_by(self.environment.owned.owner(self.uuid));
        record.devices = running.devices.clone();
        let folder = self.environment.live.clone();
        self.environment
            .on_disk(&format!("Live state of domain '{}'", self.name), move || record.write(&folder))
            .await
    }

    /// Takes a new state, publishes it and writes it down; a disk that fails does not stop the guest.
    async fn become_state(&mut self, state: State, reason: i32) {
        if (self.state, self.reason) == (state, reason) {
            return;
        }
        (self.state, self.reason) = (state, reason);
        self.publish();
        if let Err(error) = self.record(Phase::Running).await {
            tracing::error!(domain = self.name, %error, "live state");
        }
    }

    /// Stops the CPUs.
    pub(crate) async fn suspend(&mut self) -> Result<(), Error> {
        let monitor = self.attached().await?;
        match self.state {
            State::Paused => return Ok(()),
            State::Running => {}
            _ => return Err(self.invalid("domain is not running")),
        }
        monitor.within(COMMAND_WITHIN).stop().await.map_err(|error| self.monitor_error(&error))?;
        self.become_state(State::Paused, reason::PAUSED_USER).await;
        self.emit(lifecycle::PAUSED);
        Ok(())
    }

    /// Lets the CPUs run.
    pub(crate) async fn resume(&mut self) -> Result<(), Error> {
        let monitor = self.attached().await?;
        match self.state {
            State::Running => return Ok(()),
            State::Paused => {}
            State::Suspended => return Err(self.invalid("domain is pmsuspended")),
            _ => return Err(self.invalid("domain is not paused")),
        }
        monitor.within(COMMAND_WITHIN).cont().await.map_err(|error| self.monitor_error(&error))?;
        self.become_state(State::Running, reason::RUNNING_UNPAUSED).await;
        self.emit(lifecycle::RESUMED);
        Ok(())
    }

    /// Says how long the guest's agent is waited for.
    pub(crate) fn set_agent_timeout(&mut self, seconds: i32) {
        let patience = agent::patience(seconds);
        self.agent_patience = patience;
        if let Some(running) = &self.running {
            // Whoever speaks with it now has his own time.
            let turn = Arc::clone(&running.agent);
            tokio::spawn(async move { *turn.lock().await = patience });
        }
    }

    /// Resets the hardware.
    pub(crate) async fn reset(&mut self) -> Result<(), Error> {
        let monitor = self.attached().await?;
        monitor.within(COMMAND_WITHIN).system_reset().await.map_err(|error| self.monitor_error(&error))
    }
}
