//! The driver as a whole: its domains, what they share, and how it comes to life.

use crate::autostart::{self, Pending};
use crate::capabilities::{Capabilities, HostFacts, Query, Reply};
use crate::domain::host::RandomIdentifiers;
use crate::domain::{Definition, Host};
use crate::guest::amend;
use crate::guest::live::{self, Phase, Record};
use crate::guest::view::View;
use crate::guest::{Guest, GuestHandle, tpm};
use crate::installed::Installed;
use crate::owned::{self, Owned};
use crate::probe::{self, Probes};
use bulkhead_actors::driver::{DriverLogic, HelperEnd, Leave, Start};
use bulkhead_actors::events::Fanout;
use bulkhead_actors::fault;
use bulkhead_actors::snapshot::Snapshot;
use bulkhead_actors::stack::Stack;
use bulkhead_actors::state::Folder;
use bulkhead_wire::channel::EventSink;
use bulkhead_wire::control::{FilePurpose, Helper, Layout};
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{CallContext, Driver, domain, log};
use bulkhead_wire::types::{Busy, DomainEvent, DomainRef, Uuid};
use bulkhead_xml::Element;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Time that a helper which was killed gets to be gone before this driver serves without waiting for it.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// What all domains share.
pub(crate) struct Environment {
    pub(crate) stack: Stack,
    pub(crate) layout: Layout,
    /// What does not change of the host, without emulators.
    pub(crate) host: Host,
    /// The host with its emulators, as they are.
    pub(crate) installed: Installed,
    /// `NAME.xml`: definitions.
    pub(crate) definitions: Folder,
    /// `NAME.xml`: the domain starts with the stack.
    pub(crate) autostart: Folder,
    /// `NAME.xml`: the domain starts with the stack once.
    pub(crate) autostart_once: Folder,
    /// `UUID.json`: running guests.
    pub(crate) live: Folder,
    probes: Arc<Probes>,
    events: Fanout,
    last_id: AtomicI32,
    helpers: AtomicU64,
    /// Who waits for the end of which helper.
    ends: Mutex<HashMap<String, oneshot::Sender<Option<i32>>>>,
    guests: RwLock<Guests>,
    /// Names of definitions that ended this driver and are not adopted.
    set_aside: Mutex<HashSet<String>>,
    /// Guests that run and are not adopted for that reason: uuid and process.
    unseen: Mutex<HashMap<String, u32>>,
    /// Which guests end with which clients.
    pub(crate) owned: Owned,
    /// What is still to be started with the stack.
    pub(crate) pending: Pending,
}

/// All domains, by identity and by name. Names and uuids are unique here and nowhere else.
#[derive(Default)]
struct Guests {
    by_uuid: BTreeMap<Uuid, GuestHandle>,
    by_name: HashMap<String, Uuid>,
}

impl Environment {
    /// Does something with the disk where waiting for it holds nobody up.
    pub(crate) async fn on_disk<R: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> io::Result<R> + Send + 'static,
    ) -> Result<R, Error> {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Error::system(Origin::QEMU, what, &error)),
            Err(error) => Err(Error::new(Code::INTERNAL, Origin::QEMU, format!("{what}: {error}"))),
        }
    }

    /// The last lines of a guest's log that were written since it was opened, for an error text.
    pub(crate) async fn tail(&self, name: &str, since: u64) -> String {
        let log = log::Client(self.stack.peer(Driver::Log));
        let asked = log.log_tail(format!("{name}.log"), since, 2048);
        match tokio::time::timeout(Duration::from_secs(1), asked).await {
            Ok(Ok(text)) if text.trim().is_empty() => "it said nothing".to_owned(),
            Ok(Ok(text)) => {
                let lines: Vec<&str> = text.lines().rev().take(3).collect();
                lines.into_iter().rev().collect::<Vec<_>>().join(" ")
            }
            _ => "its log can't be read".to_owned(),
        }
    }

    pub(crate) fn next_id(&self) -> i32 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number that no helper of this incarnation has had.
    pub(crate) fn next_number(&self) -> String {
        format!("{}-{}", std::process::id(), self.helpers.fetch_add(1, Ordering::Relaxed))
    }

    /// The end of a helper that is about to be started under this key: its status, if anybody knows it.
    pub(crate) fn end_of(&self, key: &str) -> impl Future<Output = Option<i32>> + Send + use<> {
        let (told, end) = oneshot::channel();
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), told);
        async move { end.await.ok().flatten() }
    }

    fn helper_ended(&self, key: &str, status: Option<i32>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever gave up waiting is forgotten on this occasion.
        ends.retain(|_, waiting| !waiting.is_closed());
        if let Some(waiting) = ends.remove(key) {
            let _ = waiting.send(status);
        }
    }

    /// Where guests' firmware variables are.
    pub(crate) fn variables_folder(&self) -> PathBuf {
        PathBuf::from(&self.host.state_folder).join("nvram")
    }

    /// Ports on which the other guests of this stack show their displays.
    pub(crate) fn used_ports(&self, except: Uuid) -> Vec<u16> {
        let views = self.all().into_iter().map(|guest| guest.view.get()).filter(|view| view.uuid != except);
        let ports = views.flat_map(|view| {
            let root = view.live.as_ref().map(|live| Arc::clone(&live.root));
            let devices = root.as_ref().and_then(|root| root.child("devices"));
            let displays = devices.into_iter().flat_map(|devices| devices.all("graphics"));
            displays.filter_map(|display| display.attr("port")?.parse().ok()).collect::<Vec<u16>>()
        });
        ports.collect()
    }

    pub(crate) fn now_seconds(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(0)
    }

    pub(crate) fn emit(&self, event: &DomainEvent) {
        self.events.publish(event, |missed| DomainEvent::Lagged { missed });
    }

    /// What the emulator of this definition can do.
    pub(crate) async fn capabilities(&self, root: &Element) -> Result<Arc<Capabilities>, Error> {
        let emulator = root.at("devices/emulator").map(Element::text).unwrap_or_default();
        let kvm = root.attr("type") == Some("kvm");
        self.probes.of(&emulator, probe::host_facts(kvm)).await
    }

    /// Reads a definition that a client sent; answers the host too that it was read against.
    pub(crate) async fn read(&self, xml: &[u8]) -> Result<(Definition, Arc<Host>), Error> {
        let document = crate::domain::document(xml)?;
        let host = self.installed.for_definition(&document).await;
        Ok((Definition::complete(document, &host)?, host))
    }

    /// What a binary can do.
    pub(crate) async fn probe(&self, binary: &str, host: HostFacts) -> Result<Arc<Capabilities>, Error> {
        self.probes.of(binary, host).await
    }

    /// Asks a binary something more than what is kept of it.
    pub(crate) async fn ask_binary(
        &self,
        binary: &str,
        kvm: bool,
        queries: Vec<Query>,
    ) -> Result<Vec<Reply>, Error> {
        self.probes.more(binary, kvm, queries).await
    }

    /// Opens a file that a client named.
    pub(crate) async fn open_file(
        &self,
        what: &str,
        path: &str,
        purpose: FilePurpose,
    ) -> Result<std::fs::File, Error> {
        if !path.starts_with('/') {
            let message =
                format!("{what}: '{path}' does not begin at the root of the host's files; name it whole");
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        match self.stack.open_file(std::path::Path::new(path), purpose).await {
            Ok(file) => Ok(file.into()),
            Err(error) => {
                // Who refused it is nothing to the client.
                let why =
                    error.message.split_once("is refused: ").map_or(error.message.as_str(), |(_, why)| why);
                let message = format!("{what}: {why}");
                Err(Error { message, origin: Origin::QEMU, ..error.clone() })
            }
        }
    }

    pub(crate) fn subscribe(&self, sink: EventSink) {
        self.events.subscribe(sink);
    }

    /// Drops a domain of which nothing is left. Called by its own task alone, so that nothing of it begins meanwhile.
    pub(crate) fn forget(&self, uuid: Uuid, view: &Arc<Snapshot<View>>) {
        let mut guests = self.guests.write().unwrap_or_else(PoisonError::into_inner);
        if guests
            .by_uuid
            .get(&uuid)
            .is_some_and(|guest| Arc::ptr_eq(&guest.view, view) && !view.get().exists())
        {
            guests.by_uuid.remove(&uuid);
            guests.by_name.retain(|_, named| *named != uuid);
        }
    }

    /// Makes sure that a domain which is about to exist can be found: it may have been dropped while its turn was awaited.
    pub(crate) fn enroll(&self, guest: GuestHandle) -> Result<(), Error> {
        let view = guest.view.get();
        let mut guests = self.guests.write().unwrap_or_else(PoisonError::into_inner);
        let other = match guests.by_uuid.get(&view.uuid) {
            Some(known) if Arc::ptr_eq(&known.view, &guest.view) => return Ok(()),
            Some(_) => true,
            None => guests.by_name.contains_key(&view.name),
        };
        if other {
            let message = format!("Domain '{}' was removed and made anew meanwhile; try again", view.name);
            return Err(Error::new(Code::OPERATION_FAILED, Origin::QEMU, message));
        }
        guests.by_name.insert(view.name.clone(), view.uuid);
        guests.by_uuid.insert(view.uuid, guest);
        Ok(())
    }

    /// Is its definition one that is not adopted any more?
    pub(crate) fn is_set_aside(&self, name: &str) -> bool {
        self.set_aside.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Has a definition that was made anew adopted again.
    pub(crate) async fn reinstate(&self, name: &str) {
        match self.stack.reinstate(name).await {
            Ok(()) => drop(self.set_aside.lock().unwrap_or_else(PoisonError::into_inner).remove(name)),
            Err(error) => tracing::error!(domain = name, %error, "is not adopted at the next start"),
        }
    }

    /// The process of a guest that runs and was set aside.
    pub(crate) fn runs_unseen(&self, uuid: Uuid) -> Option<u32> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).get(&uuid.to_string()).copied()
    }

    /// All domains.
    pub(crate) fn all(&self) -> Vec<GuestHandle> {
        self.guests.read().unwrap_or_else(PoisonError::into_inner).by_uuid.values().cloned().collect()
    }

    pub(crate) fn by_uuid(&self, uuid: Uuid) -> Option<GuestHandle> {
        let guests = self.guests.read().unwrap_or_else(PoisonError::into_inner);
        guests.by_uuid.get(&uuid).filter(|guest| guest.view.get().exists()).cloned()
    }

    /// Sets a name aside for a domain that has another one yet.
    pub(crate) fn reserve(&self, name: &str, uuid: Uuid) -> Result<(), Error> {
        let mut guests = self.guests.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = guests.by_name.get(name) {
            let message = format!("domain '{name}' already exists with uuid {other}; choose another name");
            return Err(Error::new(Code::OPERATION_INVALID, Origin::QEMU, message));
        }
        guests.by_name.insert(name.to_owned(), uuid);
        Ok(())
    }

    /// Gives a name free that a domain no longer has.
    pub(crate) fn release(&self, name: &str) {
        self.guests.write().unwrap_or_else(PoisonError::into_inner).by_name.remove(name);
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<GuestHandle> {
        let uuid = *self.guests.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name)?;
        self.by_uuid(uuid)
    }
}

/// The driver.
pub struct Qemu {
    pub(crate) environment: Arc<Environment>,
}

impl Qemu {
    /// The domain that a client means.
    pub(crate) fn guest(&self, reference: &DomainRef) -> Result<GuestHandle, Error> {
        self.environment.by_uuid(reference.uuid).ok_or_else(|| {
            let message = format!(
                "Domain not found: no domain with matching uuid '{}' ({})",
                reference.uuid, reference.name
            );
            Error::new(Code::NO_DOMAIN, Origin::QEMU, message)
        })
    }

    /// The domain of this definition: the one that has its uuid, or a new one.
    pub(crate) fn guest_for(&self, definition: &Definition) -> Result<GuestHandle, Error> {
        let (name, uuid) = identity(definition)?;
        let exists = |message: String| Err(Error::new(Code::OPERATION_FAILED, Origin::DOMAIN, message));
        let mut guests = self.environment.guests.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = guests.by_uuid.get(&uuid) {
            let known = &guest.view.get().name;
            if *known != name {
                return exists(format!(
                    "domain '{known}' is already defined with uuid {uuid}; rename it, or choose another uuid"
                ));
            }
            return Ok(guest.clone());
        }
        if let Some(other) = guests.by_name.get(&name) {
            return exists(format!(
                "domain '{name}' already exists with uuid {other}; choose another name, or that uuid"
            ));
        }
        let guest = GuestHandle::new(&self.environment, &name, uuid);
        guests.by_uuid.insert(uuid, guest.clone());
        guests.by_name.insert(name, uuid);
        Ok(guest)
    }
}

/// Name and uuid of a definition.
fn identity(definition: &Definition) -> Result<(String, Uuid), Error> {
    let name = definition.root.child_text("name").unwrap_or_default();
    let uuid = definition.root.child_text("uuid").and_then(|text| Uuid::parse(&text));
    match uuid {
        Some(uuid) if !name.is_empty() => Ok((name, uuid)),
        _ => Err(Error::new(Code::INTERNAL, Origin::DOMAIN, "The definition lacks a name or uuid")),
    }
}

impl DriverLogic for Qemu {
    const DRIVER: Driver = Driver::Qemu;
    const ORIGIN: Origin = Origin::QEMU;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let Start { welcome, stack, clients, helper_ends, .. } = start;
        let layout = welcome.layout;
        let layout_run = layout.run.join("qemu");
        let system = |error: io::Error| Error::system(Origin::QEMU, "The driver's folders", &error);
        let etc = layout.etc.join("qemu");
        let state_folder = layout.lib.join("qemu").display().to_string();
        let host = Host::bare(state_folder, Arc::new(RandomIdentifiers::default()));
        let cache = Folder::open(&layout.cache.join("qemu"), "capabilities", ".json").map_err(system)?;
        let probes = Arc::new(Probes::new(stack.clone(), cache));
        let programs: Vec<PathBuf> = welcome.programs.into_iter().map(|(_, program)| program).collect();
        let environment = Environment {
            definitions: Folder::open(&etc, "definition", ".xml").map_err(system)?,
            autostart: Folder::open(&etc.join("autostart"), "autostart", ".xml").map_err(system)?,
            autostart_once: Folder::open(&etc.join("autostart-once"), "autostart", ".xml").map_err(system)?,
            live: Folder::open(&layout.run.join("qemu"), "live", ".json").map_err(system)?,
            installed: Installed::new(host.clone(), programs, Arc::clone(&probes)),
            probes,
            stack,
            host,
            layout,
            events: Fanout::default(),
            last_id: AtomicI32::new(0),
            helpers: AtomicU64::new(1),
            ends: Mutex::default(),
            guests: RwLock::default(),
            set_aside: Mutex::new(welcome.set_aside.iter().cloned().collect()),
            unseen: Mutex::default(),
            owned: Owned::new(clients),
            pending: Pending::open(&layout_run, welcome.opening).map_err(system)?,
        };
        let driver = Arc::new(Self { environment: Arc::new(environment) });
        driver.recall(&welcome.set_aside).await?;
        driver.adopt(welcome.helpers, &welcome.set_aside).await?;
        tokio::spawn(watch_ends(Arc::clone(&driver.environment), helper_ends));
        tokio::spawn(owned::follow(Arc::clone(&driver.environment)));
        tokio::spawn(autostart::run(Arc::clone(&driver)));
        Ok(driver)
    }

    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        domain::dispatch(self, call, body, files)
    }

    fn busy(&self) -> Vec<Busy> {
        self.environment.all().iter().filter_map(|guest| guest.object.busy()).collect()
    }

    async fn leave(&self, reason: Leave) {
        // Whoever started a guest to be destroyed with the application meant both: its death and its orderly end. One that ends
        // with a client is not this driver's to end because it alone is to stop; with the stack the broker ends it.
        let alone = reason == Leave::Stop;
        let mut quitting = Vec::new();
        for guest in self.environment.all() {
            quitting.push(tokio::spawn(async move {
                let quit = guest.object.run("quit", move |guest: &mut Guest| {
                    Box::pin(async move {
                        if guest.is_autodestroy() && !(alone && guest.is_owned()) {
                            guest.quit().await;
                        }
                    })
                });
                let _ = quit.await;
            }));
        }
        for quit in quitting {
            let _ = quit.await;
        }
    }
}

impl Qemu {
    /// Takes up the definitions on disk. One that can't be read is set aside and the rest serves; one that ends this process
    /// is told from the others by what the broker was told before.
    async fn recall(&self, set_aside: &[String]) -> Result<(), Error> {
        let environment = &self.environment;
        let folder = environment.definitions.clone();
        let files = environment.on_disk("Definitions", move || folder.read_all()).await?;
        let folders = [environment.autostart.clone(), environment.autostart_once.clone()];
        let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let [starting, starting_once] = environment
            .on_disk("Autostart", move || {
                let mut marks = [Vec::new(), Vec::new()];
                for (folder, marks) in folders.iter().zip(&mut marks) {
                    let all = folder.read_all()?.into_iter().map(|(name, _)| name);
                    let (starting, left): (Vec<_>, Vec<_>) = all.partition(|name| names.contains(name));
                    // Of domains that were undefined by an incarnation which did not come to this. A later one of the same
                    // name is another one.
                    left.iter().try_for_each(|name| folder.remove(name))?;
                    *marks = starting;
                }
                Ok(marks)
            })
            .await?;
        for (name, text) in files {
            if set_aside.contains(&name) {
                tracing::warn!(domain = name, "is set aside");
                continue;
            }
            environment.stack.adopting(Some(&name)).await?;
            fault::point("adopt", &name);
            let read = Definition::recall(&text, &environment.host).and_then(|definition| {
                let guest = self.guest_for(&definition)?;
                Ok((definition, guest))
            });
            match read {
                Ok((definition, guest)) => {
                    let starts = (starting.contains(&name), starting_once.contains(&name));
                    guest
                        .object
                        .run("recall", move |guest: &mut Guest| {
                            Box::pin(async move { guest.recall(definition, starts) })
                        })
                        .await?;
                }
                Err(error) => environment.definitions.set_aside(&name, &error.message),
            }
        }
        environment.stack.adopting(None).await
    }

    /// Finds the guests that run, and undoes starts that were cut short.
    async fn adopt(&self, helpers: Vec<Helper>, set_aside: &[String]) -> Result<(), Error> {
        let environment = &self.environment;
        let folder = environment.live.clone();
        let records = environment.on_disk("Live states", move || live::read_all(&folder)).await?;
        let mut helpers: HashMap<String, Helper> =
            helpers.into_iter().map(|helper| (helper.key.clone(), helper)).collect();
        for record in records {
            if set_aside.contains(&record.name) {
                // Its guest goes on: only this driver can't bear to look at it.
                helpers.remove(&tpm::key_of(&record.uuid));
                if let Some(helper) = helpers.remove(&record.uuid) {
                    let mut unseen = environment.unseen.lock().unwrap_or_else(PoisonError::into_inner);
                    unseen.insert(record.uuid, helper.pid);
                }
                continue;
            }
            let name = record.uuid.clone();
            environment.last_id.fetch_max(record.id, Ordering::Relaxed);
            let runs = match record.phase {
                Phase::Running | Phase::Saving { .. } | Phase::Dumping { .. } => helpers.remove(&record.uuid),
                Phase::Starting => None,
            };
            let adopted = match runs {
                Some(helper) => {
                    environment.stack.adopting(Some(&record.name)).await?;
                    fault::point("adopt_running", &record.name);
                    let tpm = helpers.remove(&tpm::key_of(&name));
                    self.adopt_one(record, helper, tpm).await
                }
                None => {
                    let folder = environment.live.clone();
                    environment.on_disk("Live state", move || folder.remove(&record.uuid)).await
                }
            };
            if let Err(error) = adopted {
                environment.live.set_aside(&name, &error.message);
            }
        }
        // What has no record of a finished start is nobody's guest.
        environment.stack.adopting(None).await?;
        for (key, helper) in helpers {
            tracing::warn!(key, "helper without a record is ended");
            let _ = environment.stack.kill_helper(&key).await;
            // Gone before anybody is served: its name and its files are free again.
            if let Some(process) = helper.process.into_owned()
                && let Ok(process) = bulkhead_wire::link::watch(process)
            {
                let _ = tokio::time::timeout(KILLED_WITHIN, process.readable()).await;
            }
        }
        Ok(())
    }

    async fn adopt_one(&self, record: Record, helper: Helper, tpm: Option<Helper>) -> Result<(), Error> {
        let definition = Definition { root: amend::tree(&record.definition)? };
        let root = amend::tree(&record.live)?;
        let guest = self.guest_for(&definition)?;
        guest
            .object
            .run("adopt", move |guest: &mut Guest| {
                Box::pin(async move { guest.adopt(record, definition, root, helper, tpm) })
            })
            .await?
    }
}

/// Tells guests when their QEMU has ended.
async fn watch_ends(environment: Arc<Environment>, mut ends: mpsc::Receiver<HelperEnd>) {
    while let Some((key, pid, status)) = ends.recv().await {
        environment.helper_ended(&key, status);
        environment.unseen.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, unseen| *unseen != pid);
        let guest = Uuid::parse(&key).and_then(|uuid| environment.by_uuid(uuid));
        let Some(guest) = guest else { continue };
        let told =
            guest.object.post("ended", move |guest: &mut Guest| Box::pin(guest.process_ended(pid, status)));
        if let Err(error) = told {
            tracing::error!(key, %error, "end of a guest");
        }
    }
}
