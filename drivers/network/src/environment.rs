//! What all networks share: state on disk, the broker, subscribers, programs that serve guests.

use crate::catalog::{Known, complete};
use crate::definition::Definition;
use crate::error::{error, invalid, system};
use crate::kernel;
use crate::network::{Network, View};
use crate::port::Port;
use bulkhead_actors::driver::HelperEnd;
use bulkhead_actors::events::Fanout;
use bulkhead_actors::stack::Stack;
use bulkhead_actors::state::Folder;
use bulkhead_wire::control::Layout;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::network::{NetworkEvent, NetworkRef};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};

/// Networks of one stack; libvirt's protocol can't list more.
const NETWORKS_MAX: usize = 16_384;

/// How far a network's start or stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// It is being set up.
    Starting,
    /// It is there.
    Running,
    /// It is being taken down.
    Stopping,
}

/// What is on disk about an active network, before anything in the kernel is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What it is.
    pub(crate) xml: String,
    /// Does its definition outlive it?
    pub(crate) persistent: bool,
    /// How far it is.
    pub(crate) phase: Phase,
}

/// What is on disk about a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    /// The network's uuid.
    pub(crate) network: String,
    /// The port.
    pub(crate) xml: String,
    /// The tap that was made for it.
    pub(crate) tap: Option<String>,
}

/// All that was on disk.
#[derive(Debug, Default)]
pub(crate) struct Recalled {
    pub(crate) definitions: Vec<Definition>,
    pub(crate) autostart: Vec<String>,
    pub(crate) active: Vec<(Definition, Record)>,
    pub(crate) ports: Vec<(Uuid, Port)>,
}

/// What all networks share.
pub(crate) struct Environment {
    pub(crate) stack: Stack,
    definitions: Folder,
    autostart: Folder,
    live: Folder,
    ports: Folder,
    /// Below it each network has a folder for what serves its guests.
    pub(crate) services: PathBuf,
    /// The program that serves them.
    pub(crate) dnsmasq: Option<PathBuf>,
    networks: RwLock<BTreeMap<Uuid, Arc<Network>>>,
    /// Held while networks come and go.
    pub(crate) registry: tokio::sync::Mutex<()>,
    pub(crate) events: Fanout,
    pub(crate) ends: Mutex<HashMap<String, oneshot::Sender<Option<i32>>>>,
    number: AtomicU64,
    random: RandomState,
}

fn on_disk(name: &str, cause: &io::Error) -> Error {
    system(format!("State of network '{name}'"), cause)
}

impl Environment {
    pub(crate) fn open(stack: Stack, layout: &Layout, programs: &[(String, PathBuf)]) -> io::Result<Self> {
        let (etc, run) = (layout.etc.join("network"), layout.run.join("network"));
        let dnsmasq = programs.iter().find(|(class, _)| class == "dnsmasq").map(|(_, path)| path.clone());
        let services = layout.lib.join("network/services");
        std::fs::create_dir_all(&services)?;
        Ok(Self {
            stack,
            definitions: Folder::open(&etc, "network", ".xml")?,
            autostart: Folder::open(&etc.join("autostart"), "network_autostart", ".xml")?,
            live: Folder::open(&run, "network_live", ".json")?,
            ports: Folder::open(&run.join("ports"), "network_port", ".json")?,
            services,
            dnsmasq,
            networks: RwLock::default(),
            registry: tokio::sync::Mutex::default(),
            events: Fanout::default(),
            ends: Mutex::default(),
            number: AtomicU64::new(1),
            random: RandomState::new(),
        })
    }

    fn bits(&self) -> u64 {
        self.random.hash_one(self.number.fetch_add(1, Ordering::Relaxed))
    }

    /// A uuid of bits from the keys with which the standard library seeds its hash tables.
    pub(crate) fn fresh_uuid(&self) -> Uuid {
        let bits = u128::from(self.bits()) << 64 | u128::from(self.bits());
        // Version 4, variant 1.
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        Uuid(bits.to_be_bytes())
    }

    pub(crate) fn tell(&self, event: &NetworkEvent) {
        self.events.publish(event, |missed| NetworkEvent::Lagged { missed });
    }

    // Networks.

    pub(crate) fn networks(&self) -> Vec<Arc<Network>> {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        let mut networks: Vec<_> = networks.values().cloned().collect();
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        networks
    }

    pub(crate) fn by_uuid(&self, uuid: Uuid) -> Option<Arc<Network>> {
        self.networks.read().unwrap_or_else(PoisonError::into_inner).get(&uuid).cloned()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Network>> {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        networks.values().find(|network| network.name == name).cloned()
    }

    pub(crate) fn named(&self, named: &NetworkRef) -> Result<Arc<Network>, Error> {
        self.by_uuid(named.uuid).ok_or_else(|| {
            let message = format!("Network not found: none has uuid {} ({})", named.uuid, named.name);
            error(Code::NO_NETWORK, message)
        })
    }

    pub(crate) fn insert(&self, network: &Arc<Network>) {
        let mut networks = self.networks.write().unwrap_or_else(PoisonError::into_inner);
        networks.insert(network.uuid, Arc::clone(network));
    }

    pub(crate) fn forget(&self, network: &Network) {
        self.networks.write().unwrap_or_else(PoisonError::into_inner).remove(&network.uuid);
    }

    /// Completes a definition in the light of all others. Answers the network that it redefines.
    pub(crate) async fn admit(
        &self,
        mut definition: Definition,
    ) -> Result<(Definition, Option<Arc<Network>>), Error> {
        let networks = self.networks();
        let known: Vec<Known> = networks.iter().map(|network| network.view.get().known()).collect();
        let [a, b, c, ..] = self.bits().to_be_bytes();
        // Asking the kernel is quick, and waits for nobody but other changes of interfaces.
        let completed = tokio::task::spawn_blocking(move || {
            complete(&mut definition, &known, &kernel::exists, || [a, b, c]).map(|()| definition)
        });
        let definition = completed.await.map_err(|cause| error(Code::INTERNAL, cause.to_string()))??;
        let same = networks.into_iter().find(|network| network.uuid == definition.uuid);
        if same.is_none() && self.networks().len() >= NETWORKS_MAX {
            return Err(invalid(format!("There are {NETWORKS_MAX} networks already; undefine some")));
        }
        Ok((definition, same))
    }

    // State on disk.

    async fn on_disk(
        &self,
        network: &str,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(io::Error::other).and_then(|done| done).map_err(|cause| on_disk(network, &cause))
    }

    pub(crate) async fn write_definition(&self, name: &str, xml: String) -> Result<(), Error> {
        let (folder, file) = (self.definitions.clone(), name.to_owned());
        self.on_disk(name, move || folder.write(&file, xml.as_bytes())).await
    }

    /// Removes all that is kept of a definition.
    pub(crate) async fn remove_definition(&self, name: &str) -> Result<(), Error> {
        let (autostart, definitions, file) =
            (self.autostart.clone(), self.definitions.clone(), name.to_owned());
        // In this order: a mark without a definition is removed by whoever finds it.
        self.on_disk(name, move || {
            definitions.remove(&file)?;
            autostart.remove(&file)
        })
        .await
    }

    pub(crate) async fn set_autostart(&self, name: &str, autostart: bool) -> Result<(), Error> {
        let (folder, file) = (self.autostart.clone(), name.to_owned());
        self.on_disk(name, move || if autostart { folder.write(&file, b"") } else { folder.remove(&file) })
            .await
    }

    pub(crate) async fn write_record(&self, name: &str, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record).map_err(|cause| error(Code::INTERNAL, cause.to_string()))?;
        let (folder, file) = (self.live.clone(), name.to_owned());
        self.on_disk(name, move || folder.write(&file, &text)).await
    }

    pub(crate) async fn remove_record(&self, name: &str) -> Result<(), Error> {
        let (folder, file) = (self.live.clone(), name.to_owned());
        self.on_disk(name, move || folder.remove(&file)).await
    }

    /// Writes down whether an active network outlives its run, which has just changed.
    pub(crate) async fn keep_persistent(&self, network: &Network) -> Result<(), Error> {
        let view = network.view.get();
        self.write_record(&network.name, &view.record(Phase::Running)).await
    }

    pub(crate) async fn write_port(&self, network: &Network, port: &Port) -> Result<(), Error> {
        let record =
            PortRecord { network: network.uuid.to_string(), xml: port.to_xml(), tap: port.tap.clone() };
        let text = serde_json::to_vec(&record).map_err(|cause| error(Code::INTERNAL, cause.to_string()))?;
        let (folder, file) = (self.ports.clone(), port.uuid.to_string());
        self.on_disk(&network.name, move || folder.write(&file, &text)).await
    }

    pub(crate) async fn remove_port(&self, network: &Network, port: Uuid) -> Result<(), Error> {
        let folder = self.ports.clone();
        self.on_disk(&network.name, move || folder.remove(&port.to_string())).await
    }

    /// Removes what served a network's guests, its leases too.
    pub(crate) async fn remove_services(&self, network: &Network) {
        let folder = self.services.join(network.services_key());
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        if let Ok(Err(cause)) = removed
            && cause.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(network = network.name, %cause, "files of its services stay");
        }
    }

    /// Reads what is on disk. What makes no sense is set aside.
    pub(crate) fn recall(&self) -> io::Result<Recalled> {
        let mut recalled = Recalled::default();
        for (name, text) in self.definitions.read_all()? {
            match Definition::read(&String::from_utf8_lossy(&text), false, Uuid::default) {
                Ok(definition) if definition.name == name => recalled.definitions.push(definition),
                Ok(_) => self.definitions.set_aside(&name, "it is the definition of another network"),
                Err(cause) => self.definitions.set_aside(&name, &cause.message),
            }
        }
        for name in self.autostart.names()? {
            if recalled.definitions.iter().any(|definition| definition.name == name) {
                recalled.autostart.push(name);
            } else {
                self.autostart.remove(&name)?;
            }
        }
        for (name, text) in self.live.read_all()? {
            let record: Result<Record, _> = serde_json::from_slice(&text);
            let read = record.map_err(|cause| cause.to_string()).and_then(|record| {
                let definition = Definition::read(&record.xml, false, Uuid::default);
                let definition = definition.map_err(|cause| cause.message)?;
                if definition.name == name {
                    Ok((definition, record))
                } else {
                    Err("it is another's".to_owned())
                }
            });
            match read {
                Ok(read) => recalled.active.push(read),
                Err(why) => self.live.set_aside(&name, &why),
            }
        }
        for (name, text) in self.ports.read_all()? {
            let record: Result<PortRecord, _> = serde_json::from_slice(&text);
            let read = record.ok().and_then(|record| {
                let mut port = Port::read(&record.xml, None).ok()?;
                port.tap = record.tap;
                Some((Uuid::parse(&record.network)?, port))
            });
            match read {
                Some(read) if read.1.uuid.to_string() == name => recalled.ports.push(read),
                _ => self.ports.set_aside(&name, "it is no port"),
            }
        }
        Ok(recalled)
    }

    // Programs.

    /// Passes ends of programs on to those who wait for them, or to whom they served.
    pub(crate) async fn watch_ends(self: Arc<Self>, mut ends: mpsc::Receiver<HelperEnd>) {
        while let Some((key, _, status)) = ends.recv().await {
            let waiting = self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            if let Some(waiting) = waiting {
                let _ = waiting.send(status);
                continue;
            }
            if let Some(network) = self.networks().into_iter().find(|network| network.services_key() == key) {
                network.services_ended(&self, status);
            }
        }
    }
}

/// Refuses a view of a network that is not active.
pub(crate) fn must_be_active(view: &View) -> Result<(), Error> {
    if view.active {
        return Ok(());
    }
    Err(invalid(format!("Network '{}' is not active; start it first", view.definition.name)))
}
