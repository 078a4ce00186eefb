//! The start of a guest.
//!
//! A saga: intent, log, taps, QEMU, monitor, resume. Each step can be undone, and what a crash leaves between two steps is
//! undone or completed by the next incarnation of this driver, by the phase that the record on disk names.

use super::live::{Devices, Phase, Record};
use super::save::Stored;
use super::stop::GONE_WITHIN;
use super::view::reason;
use super::{COMMAND_WITHIN, Guest, GuestHandle, Process, Running, leases, lifecycle};
use crate::args::{self, CommandLine, Paths, Purpose, Rendering};
use crate::capabilities::Capabilities;
use crate::domain::Definition;
use crate::monitor::{Entry, Monitor, Notice, Options};
use bulkhead_actors::fault;
use bulkhead_actors::job::Job;
use bulkhead_wire::control::{Access, Helper, HelperRequest};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::link;
use bulkhead_wire::table::{Driver, log, network};
use bulkhead_wire::types::State;
use bulkhead_wire::types::lock::LeaseWanted;
use bulkhead_xml::Element;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

/// Start paused (`VIR_DOMAIN_START_PAUSED`).
pub(crate) const FLAG_PAUSED: u32 = 1;
/// End with the client (`VIR_DOMAIN_START_AUTODESTROY`).
pub(crate) const FLAG_AUTODESTROY: u32 = 2;
/// Do not go through the host's cache (`VIR_DOMAIN_START_BYPASS_CACHE`). It is gone through in any case.
const FLAG_BYPASS_CACHE: u32 = 4;
/// Boot, and drop a state that is stored (`VIR_DOMAIN_START_FORCE_BOOT`).
const FLAG_FORCE_BOOT: u32 = 8;
/// All flags that are served here.
pub(crate) const FLAGS: u32 = FLAG_PAUSED | FLAG_AUTODESTROY | FLAG_BYPASS_CACHE | FLAG_FORCE_BOOT;

/// Time in which QEMU must answer first; a loaded host and a large guest need some.
pub(super) const MONITOR_WITHIN: Duration = Duration::from_secs(30);
/// Bytes of a guest's log file before it is rotated, and how many old ones are kept.
const LOG_BYTES: u64 = 2 << 20;
const LOG_KEEP: u32 = 3;
/// The monitor's socket in the guest's folder.
pub(super) const MONITOR_SOCKET: &str = "monitor.sock";
/// Among what is given to QEMU, the leases of its disks; and the number of the first where it inherits nothing else.
const LEASES: &str = "leases";
const FREE_NUMBER: i32 = 3;
/// Events of a monitor that wait for the guest's task.
pub(super) const EVENTS: usize = 256;

/// What a start has taken so far, to be given back if it fails.
#[derive(Default)]
struct Taken {
    taps: Vec<String>,
    tpm: Option<Process>,
    /// The key of the helper that makes the TPM.
    tpm_setup: Option<String>,
    /// The files that were leased, or were about to be.
    leases: Vec<LeaseWanted>,
    recorded: bool,
    helper: bool,
    process: Option<Process>,
}

impl Guest {
    /// Starts the guest from the definition that it has when its turn comes.
    pub(crate) async fn start_defined(&mut self, flags: u32, job: &Job) -> Result<(), Error> {
        match &self.persistent {
            Some(definition) => {
                let definition = Definition::clone(definition);
                self.start(definition, flags, job).await
            }
            None => Err(self.invalid("it has no definition any more")),
        }
    }

    /// Starts the guest from this definition, or from the state that is stored of it.
    pub(crate) async fn start(&mut self, definition: Definition, flags: u32, job: &Job) -> Result<(), Error> {
        self.start_from(definition, None, flags, job).await
    }

    /// Starts the guest from this definition, and from a state that is given.
    pub(crate) async fn start_from(
        &mut self,
        definition: Definition,
        given: Option<Stored>,
        flags: u32,
        job: &Job,
    ) -> Result<(), Error> {
        self.enroll()?;
        let started = self.start_enrolled(definition, given, flags, job).await;
        self.forget_if_gone();
        started
    }

    async fn start_enrolled(
        &mut self,
        definition: Definition,
        given: Option<Stored>,
        flags: u32,
        job: &Job,
    ) -> Result<(), Error> {
        if self.running.is_some() {
            let message = format!("Domain '{}': domain is already active", self.name);
            return Err(Error::new(Code::OPERATION_INVALID, Origin::DOMAIN, message));
        }
        if let Some(pid) = self.environment.runs_unseen(self.uuid) {
            return Err(self.invalid(&format!(
                "it runs already, as process {pid}, and was set aside since adopting it ended this driver; end that process"
            )));
        }
        if flags & FLAG_FORCE_BOOT != 0 {
            self.remove_saved().await?;
        }
        if given.is_some() && self.saved {
            return Err(self.invalid(
                "another state of it is stored, which its next start would go on from; remove that first",
            ));
        }
        let (definition, stored) = match (given, self.open_saved().await?) {
            (None, Some((definition, stored))) => (definition, Some(stored)),
            (given, _) => (definition, given),
        };
        let going_on = stored.as_ref().map(|stored| stored.runs);
        self.destroyed.send_replace(false);
        let mut taken = Taken::default();
        match self.launch(definition, flags, stored, &mut taken, job).await {
            Ok(running) => {
                self.running = Some(running);
                (self.state, self.reason) = (State::Paused, reason::PAUSED_STARTING);
            }
            Err(error) => {
                self.give_back(taken).await;
                // Whatever ended the start: if somebody wanted that, it is the reason.
                let wanted = self.still_wanted();
                (self.state, self.reason) = (State::Shutoff, reason::SHUTOFF_FAILED);
                if wanted.is_err() {
                    self.reason = reason::SHUTOFF_DESTROYED;
                }
                self.publish();
                return wanted.and(Err(error));
            }
        }
        let begun = self.begin(flags, going_on).await;
        if let Err(error) = begun {
            let wanted = self.still_wanted();
            let failed = (reason::SHUTOFF_FAILED, lifecycle::STOPPED_FAILED);
            let destroyed = (reason::SHUTOFF_DESTROYED, lifecycle::STOPPED_DESTROYED);
            self.end(if wanted.is_ok() { failed } else { destroyed }).await?;
            return wanted.and(Err(error));
        }
        Ok(())
    }

    /// A start goes on only as long as nobody wants the domain to end.
    pub(super) fn still_wanted(&self) -> Result<(), Error> {
        if !*self.destroyed.borrow() {
            return Ok(());
        }
        let message = format!("Domain '{}' was destroyed while it was being started", self.name);
        Err(Error::new(Code::OPERATION_ABORTED, Origin::QEMU, message))
    }

    /// Waits for something of a start, unless somebody wants the domain to end.
    async fn unless_destroyed<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut destroyed = self.destroyed.subscribe();
        tokio::select! {
            biased;
            // The guard is gone before anybody waits again.
            () = async { drop(destroyed.wait_for(|destroyed| *destroyed).await) } => {}
            done = work => return done,
        }
        self.still_wanted()?;
        Err(self.invalid("its driver is ending"))
    }

    /// The last steps, on a QEMU that answers.
    ///
    /// `going_on` says of a guest that goes on from a stored state whether its CPUs run.
    async fn begin(&mut self, flags: u32, going_on: Option<bool>) -> Result<(), Error> {
        let monitor = self.monitor()?;
        self.set_display_password(&monitor).await?;
        let runs = flags & FLAG_PAUSED == 0 && going_on != Some(false);
        (self.state, self.reason) = match (runs, going_on) {
            (true, None) => (State::Running, reason::RUNNING_BOOTED),
            (true, Some(_)) => (State::Running, reason::RUNNING_RESTORED),
            (false, _) => (State::Paused, reason::PAUSED_USER),
        };
        // Before the CPUs run: up to here a crash undoes the start, from here on the next incarnation completes it.
        fault::point("start", "before_running");
        self.record(Phase::Running).await?;
        fault::point("start", "after_running");
        if going_on.is_some() {
            // Before the CPUs run: going on from it again would run an old memory over a newer disk.
            self.remove_saved().await?;
        }
        if runs {
            monitor.within(COMMAND_WITHIN).cont().await.map_err(|error| self.monitor_error(&error))?;
        }
        fault::point("start", "after_resume");
        self.publish();
        // In libvirt's order, which differs between the two.
        let events = match (runs, going_on) {
            (true, None) => [lifecycle::RESUMED, lifecycle::STARTED],
            (false, None) => [lifecycle::STARTED, lifecycle::PAUSED],
            (true, Some(_)) => [lifecycle::STARTED_RESTORED, lifecycle::RESUMED_FROM_STATE],
            (false, Some(_)) => [lifecycle::STARTED_RESTORED, lifecycle::PAUSED_RESTORED],
        };
        for event in events {
            self.emit(event);
        }
        Ok(())
    }

    async fn launch(
        &self,
        definition: Definition,
        flags: u32,
        stored: Option<Stored>,
        taken: &mut Taken,
        job: &Job,
    ) -> Result<Running, Error> {
        let environment = &self.environment;
        let key = self.key();
        let id = environment.next_id();
        let autodestroy = flags & FLAG_AUTODESTROY != 0;
        let mut live = definition.live(id.unsigned_abs());
        // From now on it can be seen, and destroyed.
        self.publish_start(id, &live);
        self.refuse_what_is_not_served(&live)?;
        settle_memory(&mut live);
        self.place_displays(&mut live, &environment.layout.guest(&key))?;
        self.place_channels(&mut live);
        self.prepare_variables(&live).await?;
        self.prepare_layers(&mut live).await?;
        let next_node = args::nodes::number_all(&mut live);
        let capabilities = self.unless_destroyed(environment.capabilities(&definition.root)).await?;
        if let Some(model) = &capabilities.host_model {
            crate::domain::settle_host_model(&mut live, model);
        }
        let paths = self.paths(stored.is_some(), Rendering::Launch);

        // The intent, before the first effect.
        let record = |phase, live: &Element, taps: &[String]| {
            let state = (State::Paused as i32, reason::PAUSED_STARTING);
            let persistent = self.persistent.is_some();
            Record::new(phase, id, &definition, live.to_xml(), persistent, autodestroy, taps.to_vec(), state)
        };
        let what = format!("Live state of domain '{}'", self.name);
        let write = |record: Record| {
            let folder = environment.live.clone();
            environment.on_disk(&what, move || record.write(&folder))
        };
        taken.recorded = true;
        write(record(Phase::Starting, &live, &[])).await?;

        fault::point("start", "before_leases");
        let wanted = leases::wanted(&live);
        taken.leases.clone_from(&wanted);
        let leases = self.unless_destroyed(self.take_leases(&wanted)).await?;
        fault::point("start", "before_taps");
        let mut given = self.unless_destroyed(self.open_taps(&mut live, taken)).await?;
        given.push((LEASES.to_owned(), leases));
        let (errors, said_from) = self.open_log(&self.name).await;
        let tpm = self.unless_destroyed(self.start_tpm(&live, autodestroy, &mut taken.tpm_setup)).await?;
        let tpm = tpm.map(|tpm| {
            given.push((tpm.alias, vec![tpm.socket]));
            tpm.process
        });
        taken.tpm.clone_from(&tpm);
        fault::point("start", "before_helper");
        taken.helper = true;
        let (pid, process) =
            self.run_qemu(&mut live, &capabilities, &paths, given, errors, autodestroy).await?;
        taken.process = Some(Arc::clone(&process));
        fault::point("start", "after_helper");
        self.unless_destroyed(self.bind_leases(&wanted, &process)).await?;
        // Who destroyed it before found nothing to kill.
        self.still_wanted()?;
        let (seen, monitor) = watch::channel(None);
        let (events, received) = mpsc::channel(EVENTS);
        // QEMU may end instead of answering; its monitor then ends a moment before or after its process.
        let attached = tokio::select! {
            biased;
            _ = process.readable() => return Err(self.died_at_start(said_from).await),
            attached = self.attach(events, MONITOR_WITHIN) => attached,
        };
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => {
                let ended = tokio::time::timeout(Duration::from_secs(1), process.readable()).await;
                return Err(if ended.is_ok() { self.died_at_start(said_from).await } else { error });
            }
        };
        self.name_terminals(&attached, pid, &mut live).await?;
        self.open_displays(&attached, &live).await?;
        self.plug_named_cpus(&attached, &live).await?;
        self.tune(&attached, pid, &live).await?;
        if let Some(stored) = stored {
            self.unless_destroyed(self.restore(&attached, stored, job)).await?;
        }
        seen.send_replace(Some(attached));
        self.follow(received, seen);
        let (memory_kib, network) = (memory_kib(&live), needs_network(&live));
        Ok(Running {
            id,
            definition,
            live: Arc::new(live),
            monitor,
            pid,
            process,
            tpm,
            taps: std::mem::take(&mut taken.taps),
            autodestroy,
            memory_kib,
            ending: None,
            reboot: false,
            devices: Devices { next_node, network, ..Devices::default() },
            waiting: super::plug::Waiting::default(),
            agent: Arc::new(tokio::sync::Mutex::new(self.agent_patience)),
        })
    }

    /// Writes where the sockets of channels are that the definition leaves open.
    pub(super) fn place_channels(&self, live: &mut Element) {
        let folder = self.environment.layout.guest(&self.key());
        for channel in live.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
            let open = channel.name == "channel"
                && channel.attr("type") == Some("unix")
                && channel.path_attr("source", "path").is_none()
                && channel.path_attr("source", "mode") != Some("connect");
            let alias = channel.path_attr("alias", "name").map(str::to_owned);
            if let Some(alias) = alias.filter(|_| open) {
                let path = folder.join(format!("{alias}.sock")).display().to_string();
                channel.take("source");
                let source = Element::new("source").with("mode", "bind").with("path", path);
                channel.children.insert(0, bulkhead_xml::Node::Element(source));
            }
        }
    }

    /// The guest's private places.
    pub(super) fn paths(&self, incoming: bool, rendering: Rendering) -> Paths {
        let environment = &self.environment;
        let folder = environment.layout.guest(&self.key());
        Paths {
            guest: folder.display().to_string(),
            channels: folder.display().to_string(),
            memory: folder.display().to_string(),
            certificates: environment.layout.etc.join("qemu/tls").display().to_string(),
            now: environment.now_seconds(),
            bus: folder.join("dbus.sock").display().to_string(),
            // Opening it is the broker's to do, which it does not yet.
            vhost_net: false,
            incoming,
            rendering,
        }
    }

    /// Has QEMU started; with other ports, if those that were chosen turn out to be somebody else's.
    async fn run_qemu(
        &self,
        live: &mut Element,
        capabilities: &Capabilities,
        paths: &Paths,
        mut given: Vec<(String, Vec<Descriptor>)>,
        mut errors: Option<Descriptor>,
        autodestroy: bool,
    ) -> Result<(u32, Process), Error> {
        let mut refused = Vec::new();
        loop {
            let ports = self.choose_ports(live, &refused)?;
            let mut command = args::build(live, capabilities, paths)?;
            if !ports.is_empty() {
                match self.environment.stack.ports_free(ports.clone()).await {
                    Ok(()) => {}
                    Err(error)
                        if error.code == Code::RESOURCE_BUSY && refused.len() < 64 && is_automatic(live) =>
                    {
                        refused.extend(ports);
                        continue;
                    }
                    Err(error) => return Err(self.named(&error)),
                }
            }
            let mut given = std::mem::take(&mut given);
            given.extend(self.unless_destroyed(self.give_secrets(&mut command)).await?);
            let request = self.helper_request(&command, live, given, errors.take(), autodestroy, ports)?;
            let helper =
                self.environment.stack.start_helper(request).await.map_err(|error| self.named(&error))?;
            return process(helper);
        }
    }

    pub(super) fn named(&self, error: &Error) -> Error {
        Error { message: format!("Domain '{}': {}", self.name, error.message), ..error.clone() }
    }

    /// What QEMU said before it ended is in its log, and the best reason there is.
    async fn died_at_start(&self, said_from: u64) -> Error {
        let said = self.environment.tail(&self.name, said_from).await;
        let message = format!("Domain '{}': QEMU ended before it was ready: {said}", self.name);
        Error::new(Code::INTERNAL, Origin::QEMU, message)
    }

    /// The pipe that QEMU's standard error goes into, and where in the log that will stand. A guest starts without one when the log driver can't be had: logs are
    /// never a brake.
    pub(super) async fn open_log(&self, name: &str) -> (Option<Descriptor>, u64) {
        let log = log::Client(self.environment.stack.peer(Driver::Log));
        let opened = tokio::time::timeout(
            Duration::from_secs(2),
            log.log_open(format!("{name}.log"), LOG_BYTES, LOG_KEEP),
        );
        match opened.await {
            Ok(Ok((pipe, begins))) => return (Some(pipe), begins),
            Ok(Err(error)) => tracing::warn!(domain = self.name, %error, "no log"),
            Err(_elapsed) => {
                tracing::warn!(domain = self.name, "no log: the log driver does not answer");
            }
        }
        (None, 0)
    }

    /// Has the network driver open the taps of the guest's interfaces; their names go into the live XML.
    async fn open_taps(
        &self,
        live: &mut Element,
        taken: &mut Taken,
    ) -> Result<Vec<(String, Vec<Descriptor>)>, Error> {
        let mut opened = Vec::new();
        let Some(devices) = live.child_mut("devices") else {
            return Ok(opened);
        };
        for interface in devices.elements_mut().filter(|device| device.name == "interface") {
            opened.extend(self.open_tap(interface, &mut taken.taps).await?);
        }
        Ok(opened)
    }

    /// Has the network driver open the tap of an interface that has one; its name goes into the interface.
    pub(super) async fn open_tap(
        &self,
        interface: &mut Element,
        taps: &mut Vec<String>,
    ) -> Result<Option<(String, Vec<Descriptor>)>, Error> {
        let network = network::Client(self.environment.stack.peer(Driver::Network));
        {
            let kind = interface.attr("type").unwrap_or_default().to_owned();
            if !matches!(kind.as_str(), "ethernet" | "bridge" | "network") {
                return Ok(None);
            }
            let name = interface.path_attr("target", "dev").map(str::to_owned);
            let managed = interface.path_attr("target", "managed") != Some("no");
            let bridge = interface.path_attr("source", "bridge").map(str::to_owned);
            let mac = interface.path_attr("mac", "address").unwrap_or_default().to_owned();
            let queues =
                interface.path_attr("driver", "queues").and_then(|queues| queues.parse().ok()).unwrap_or(1);
            let tap = if kind == "network" {
                let port = super::ports::wanted(interface, &self.name, self.view.get().uuid);
                let wanted = interface.path_attr("source", "network").unwrap_or_default().to_owned();
                let opened = network.port_open(wanted, port, name, queues).await;
                let opened = opened.map_err(|error| self.named(&error))?;
                super::ports::note(interface, &opened);
                opened.tap
            } else {
                network
                    .tap_open(name, managed, bridge, mac, queues)
                    .await
                    .map_err(|error| self.named(&error))?
            };
            if managed {
                taps.push(tap.name.clone());
            }
            if interface.child("target").is_none() {
                // Behind the source and the MAC address, where libvirt prints it.
                let place = interface
                    .children
                    .iter()
                    .position(|node| !matches!(node, bulkhead_xml::Node::Element(e) if matches!(e.name.as_str(), "mac" | "source")))
                    .unwrap_or(interface.children.len());
                interface.children.insert(place, bulkhead_xml::Node::Element(Element::new("target")));
            }
            if let Some(target) = interface.child_mut("target") {
                target.set("dev", tap.name);
            }
            let alias = interface.path_attr("alias", "name").unwrap_or_default().to_owned();
            Ok(Some((alias, tap.queues)))
        }
    }

    fn helper_request(
        &self,
        command: &CommandLine,
        live: &Element,
        given: Vec<(String, Vec<Descriptor>)>,
        errors: Option<Descriptor>,
        autodestroy: bool,
        ports: Vec<u16>,
    ) -> Result<HelperRequest, Error> {
        let mut given: Vec<(String, Vec<Option<Descriptor>>)> =
            given.into_iter().map(|(alias, files)| (alias, files.into_iter().map(Some).collect())).collect();
        let mut given_for = |alias: &str, index: u32| {
            let (_, files) = given.iter_mut().find(|(owner, _)| owner == alias)?;
            files.get_mut(index as usize)?.take()
        };
        let (mut listeners, mut descriptors, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        for used in &command.descriptors {
            let number = i32::try_from(used.number).unwrap_or(-1);
            match &used.purpose {
                Purpose::Monitor => listeners.push((MONITOR_SOCKET.to_owned(), number)),
                Purpose::Character { alias } => listeners.push((format!("{alias}.sock"), number)),
                Purpose::Tap { alias, queue } => {
                    let tap = given_for(alias, *queue).ok_or_else(|| {
                        self.invalid(&format!("interface {alias} has no tap for queue {queue}"))
                    })?;
                    descriptors.push((number, tap));
                }
                Purpose::Tpm { alias } => {
                    let socket = given_for(alias, 0)
                        .ok_or_else(|| self.invalid(&format!("TPM {alias} has no emulator")))?;
                    descriptors.push((number, socket));
                }
                Purpose::MasterKey => {
                    let key = given_for(args::builder::MASTER_KEY, 0)
                        .ok_or_else(|| self.invalid("its secrets have no master key"))?;
                    descriptors.push((number, key));
                }
                Purpose::File { alias } | Purpose::Log { alias } => {
                    let logs = matches!(used.purpose, Purpose::Log { .. });
                    let (path, append) = output_of(live, alias, logs)
                        .ok_or_else(|| self.invalid(&format!("device {alias} names no file")))?;
                    outputs.push((number, path, append));
                }
                other => {
                    let message = format!("Domain '{}': {other:?} can't be given to QEMU yet", self.name);
                    return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message));
                }
            }
        }
        // QEMU does nothing with them but have them, until it ends.
        let leases = given.iter_mut().filter(|(owner, _)| owner == LEASES).flat_map(|(_, files)| files);
        let first =
            descriptors.iter().map(|(number, _)| *number).chain(outputs.iter().map(|(number, _, _)| *number));
        let first = first
            .chain(listeners.iter().map(|(_, number)| *number))
            .max()
            .map_or(FREE_NUMBER, |last| last + 1);
        let leases: Vec<_> = (first..).zip(leases.filter_map(Option::take)).collect();
        descriptors.extend(leases);
        Ok(HelperRequest {
            key: self.key(),
            class: "qemu".to_owned(),
            program: PathBuf::from(&command.program),
            arguments: command.arguments.clone(),
            environment: command.environment.clone(),
            files: files(live, &self.environment.layout.guest(&self.key())),
            listeners,
            outputs,
            descriptors,
            ports,
            network: needs_network(live),
            errors,
            autodestroy,
        })
    }

    /// Connects to QEMU's monitor and negotiates.
    async fn attach(&self, events: mpsc::Sender<Notice>, within: Duration) -> Result<Monitor, Error> {
        let socket = self.environment.stack.connect_helper(&self.key(), MONITOR_SOCKET).await;
        let stream = socket.map_err(|error| self.named(&error))?;
        let stream = stream_of(stream).map_err(|error| {
            Error::system(Origin::QEMU, format!("Domain '{}': monitor", self.name), &error)
        })?;
        let mut options = Options::new(Entry::Fresh);
        options.handshake = within;
        Monitor::attach(stream, events, options).await.map_err(|error| self.monitor_error(&error))
    }

    /// Puts the names of the terminals that QEMU made into the live XML.
    pub(super) async fn name_terminals(
        &self,
        monitor: &Monitor,
        pid: u32,
        live: &mut Element,
    ) -> Result<(), Error> {
        let devices = monitor
            .within(COMMAND_WITHIN)
            .query_chardev()
            .await
            .map_err(|error| self.monitor_error(&error))?;
        let terminal = |alias: &str| {
            let label = format!("char{alias}");
            devices
                .iter()
                .find(|device| device.label == label)
                .and_then(|device| device.filename.strip_prefix("pty:"))
                .filter(|path| path.starts_with("/dev/pts/"))
                // QEMU's terminals are in an instance of its own; this is where others find them.
                .map(|path| format!("/proc/{pid}/root{path}"))
        };
        for device in live.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
            if device.attr("type") != Some("pty") {
                continue;
            }
            let Some(path) = device.path_attr("alias", "name").and_then(terminal) else {
                continue;
            };
            if device.name == "console" && device.path_attr("target", "type") == Some("serial") {
                device.set("tty", path.clone());
            }
            match device.child_mut("source") {
                Some(source) => source.set("path", path),
                None => device
                    .children
                    .insert(0, bulkhead_xml::Node::Element(Element::new("source").with("path", path))),
            }
        }
        Ok(())
    }

    /// Brings what QEMU tells to this guest's own task.
    pub(super) fn follow(&self, mut events: mpsc::Receiver<Notice>, seen: watch::Sender<Option<Monitor>>) {
        let myself = self.myself.clone();
        tokio::spawn(async move {
            while let Some(notice) = events.recv().await {
                let Some(guest) = myself.upgrade() else { return };
                let told =
                    guest.run("monitor event", move |guest: &mut Guest| Box::pin(guest.told(notice))).await;
                if let Err(error) = told {
                    tracing::warn!(%error, "monitor event");
                }
            }
            // The connection has ended; the process's own end is told by the broker.
            seen.send_replace(None);
        });
    }

    async fn give_back(&mut self, taken: Taken) {
        let environment = Arc::clone(&self.environment);
        if taken.helper {
            let _ = environment.stack.kill_helper(&self.key()).await;
        }
        // Its files and its place are free again before anybody hears that the start has failed.
        if let Some(process) = taken.process
            && tokio::time::timeout(GONE_WITHIN, process.readable()).await.is_err()
        {
            tracing::error!(domain = self.name, "QEMU was killed and is still there");
        }
        self.give_leases_back(&taken.leases).await;
        self.close_taps(&taken.taps).await;
        if let Some(key) = taken.tpm_setup {
            let _ = environment.stack.kill_helper(&key).await;
        }
        self.end_tpm(taken.tpm).await;
        if taken.recorded {
            let (folder, name) = (environment.live.clone(), self.key());
            let removed = environment.on_disk("Live state", move || folder.remove(&name)).await;
            if let Err(error) = removed {
                tracing::error!(domain = self.name, %error, "live state is left behind");
            }
        }
    }

    pub(super) async fn close_taps(&self, taps: &[String]) {
        let network = network::Client(self.environment.stack.peer(Driver::Network));
        for tap in taps {
            let closed = tokio::time::timeout(Duration::from_secs(2), network.tap_close(tap.clone())).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::warn!(domain = self.name, tap, "tap could not be closed");
            }
        }
    }
}

/// What the guest has at its start, in KiB.
pub(super) fn memory_kib(live: &Element) -> u64 {
    live.child_text("currentMemory").and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Can the guest be asked to give memory back?
pub(crate) fn has_balloon(root: &Element) -> bool {
    root.path_attr("devices/memballoon", "model").is_some_and(|model| model != "none")
}

/// Who can give nothing back has all from its start on.
fn settle_memory(live: &mut Element) {
    if !has_balloon(live)
        && let Some(all) = live.child_text("memory")
        && let Some(current) = live.child_mut("currentMemory")
    {
        current.set_text(all);
    }
}

/// Does some display leave its port open?
fn is_automatic(live: &Element) -> bool {
    let devices = live.child("devices");
    devices
        .into_iter()
        .flat_map(|devices| devices.all("graphics"))
        .any(|display| display.attr("autoport") == Some("yes"))
}

/// The file that a device's output goes to, or is copied to, and whether what it holds stays.
fn output_of(live: &Element, alias: &str, logs: bool) -> Option<(PathBuf, bool)> {
    let mut devices = live.child("devices")?.elements();
    let device = devices.find(|device| device.path_attr("alias", "name") == Some(alias))?;
    let (name, attribute) = if logs { ("log", "file") } else { ("source", "path") };
    let element = device.child(name)?;
    Some((PathBuf::from(element.attr(attribute)?), element.attr("append") == Some("on")))
}

pub(super) fn stream_of(socket: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

pub(super) fn process(helper: Helper) -> Result<(u32, Process), Error> {
    let gone = || Error::new(Code::INTERNAL, Origin::QEMU, "The broker sent no process with its helper");
    let file = helper.process.into_owned().ok_or_else(gone)?;
    let watched = link::watch(file).map_err(|error| Error::system(Origin::QEMU, "QEMU's process", &error))?;
    Ok((helper.pid, Arc::new(watched)))
}

/// The files that QEMU opens by path: the guest's own disks and firmware, and no others.
fn files(live: &Element, guest: &std::path::Path) -> Vec<(PathBuf, Access)> {
    let mut files = vec![(guest.to_owned(), Access::Folder)];
    if live.attr("type") == Some("kvm") {
        files.push((PathBuf::from("/dev/kvm"), Access::ReadWrite));
    }
    if let Some(os) = live.child("os") {
        for (name, access) in [
            ("kernel", Access::Read),
            ("initrd", Access::Read),
            ("dtb", Access::Read),
            ("loader", Access::Read),
            ("nvram", Access::ReadWrite),
        ] {
            if let Some(path) = os.child_text(name).filter(|path| path.starts_with('/')) {
                files.push((PathBuf::from(path), access));
            }
        }
    }
    for device in live.child("devices").into_iter().flat_map(Element::elements) {
        match device.name.as_str() {
            "disk" => disk_files(device, &mut files),
            "serial" | "parallel" | "console" | "channel"
                if matches!(device.attr("type"), Some("dev" | "pipe")) =>
            {
                if let Some(path) = device.path_attr("source", "path") {
                    files.push((PathBuf::from(path), Access::ReadWrite));
                }
            }
            "rng" => {
                if let Some(path) = device.child_text("backend").filter(|path| path.starts_with("/dev/")) {
                    files.push((PathBuf::from(path), Access::Read));
                }
            }
            _ => {}
        }
    }
    files
}

fn disk_files(disk: &Element, files: &mut Vec<(PathBuf, Access)>) {
    let read_only = disk.child("readonly").is_some() || disk.attr("device") == Some("cdrom");
    let mut access = if read_only { Access::Read } else { Access::ReadWrite };
    let mut layer = Some(disk);
    // A chain is as long as its XML, which has a depth limit.
    while let Some(element) = layer {
        let path = element.path_attr("source", "file").or_else(|| element.path_attr("source", "dev"));
        if let Some(path) = path {
            files.push((PathBuf::from(path), access));
        }
        access = Access::Read;
        layer = element.child("backingStore");
    }
}

/// User networking, and displays and character devices that listen on the network.
fn needs_network(live: &Element) -> bool {
    live.child("devices").into_iter().flat_map(Element::elements).any(|device| match device.name.as_str() {
        "interface" => device.attr("type") == Some("user"),
        "graphics" => {
            matches!(device.attr("type"), Some("vnc" | "spice")) && !super::display::is_on_socket(device)
        }
        "serial" | "parallel" | "console" | "channel" => {
            matches!(device.attr("type"), Some("tcp" | "udp"))
        }
        "disk" => device.attr("type") == Some("network"),
        _ => false,
    })
}

/// Finds the guest of an alias's terminal: see [`super::streams`].
pub(super) fn terminal_of<'a>(live: &'a Element, alias: Option<&str>) -> Option<(&'a str, Option<&'a str>)> {
    let devices = live.child("devices")?;
    let named = |device: &&Element| device.path_attr("alias", "name") == alias;
    let kinds = ["console", "serial", "parallel"];
    let device = match alias {
        Some(_) => devices.elements().find(|device| {
            (kinds.contains(&device.name.as_str()) || device.name == "channel") && named(device)
        }),
        None => kinds.iter().find_map(|kind| devices.all(kind).next()),
    }?;
    Some((
        device.path_attr("alias", "name").unwrap_or_default(),
        device.path_attr("source", "path").filter(|_| device.attr("type") == Some("pty")),
    ))
}

impl GuestHandle {
    /// Has a start that is under way give up.
    pub(crate) fn give_up_start(&self) {
        self.destroyed.send_replace(true);
    }

    /// The helper key of this guest.
    pub(crate) fn key(&self) -> String {
        self.view.get().uuid.to_string()
    }
}
