//! What all pools share: state on disk, the broker, subscribers, helpers that are waited for.

use crate::error::{error, invalid};
use crate::pool::definition::Definition;
use crate::pool::worker::{SOON, Worker};
use crate::pool::{Pool, View};
use crate::protocol::{Order, UNFINISHED};
use crate::volume::Volume;
use crate::xml::clean_path;
use bulkhead_actors::driver::HelperEnd;
use bulkhead_actors::events::Fanout;
use bulkhead_actors::stack::Stack;
use bulkhead_actors::state::Folder;
use bulkhead_wire::control::{Access, HelperRequest, Layout};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::storage::PoolEvent;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

/// What an external program may say when it fails.
const ERRORS_MAX_BYTES: u64 = 4096;
/// Programs that run at one time; who comes after waits. The broker allows a few more, which others may take.
const PROGRAMS_MAX: usize = 8;
/// Pools of one stack; libvirt's protocol can't list more.
const POOLS_MAX: usize = 16_384;

/// What is on disk about an active pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The pool.
    pub uuid: String,
    /// What it is.
    pub xml: String,
    /// Does its definition outlive it?
    pub persistent: bool,
}

/// Definitions, names of pools that start with the stack, and what was active with its record.
type Recalled = (Vec<Definition>, Vec<String>, Vec<(Definition, Record)>);

/// What all pools share.
pub struct Environment {
    pub(crate) stack: Stack,
    definitions: Folder,
    autostart: Folder,
    live: Folder,
    raw: Folder,
    intents: Folder,
    /// All pools; each name and uuid once.
    pools: RwLock<BTreeMap<Uuid, Arc<Pool>>>,
    /// Held while pools come and go.
    pub(crate) registry: tokio::sync::Mutex<()>,
    /// Files that are raw, whatever a guest wrote into them: name and inode.
    known_raw: Mutex<HashMap<Uuid, Vec<(String, u64)>>>,
    pub(crate) events: Fanout,
    ends: Mutex<HashMap<String, oneshot::Sender<Option<i32>>>>,
    number: AtomicU64,
    random: RandomState,
    qemu_img: Option<PathBuf>,
    /// Places for programs that run at one time.
    programs: tokio::sync::Semaphore,
}

/// An error that says of which pool it is.
pub(crate) fn of_pool(name: &str, cause: &Error) -> Error {
    Error { origin: Origin::STORAGE, message: format!("Pool '{name}': {}", cause.message), ..*cause }
}

fn on_disk(name: &str, cause: &io::Error) -> Error {
    Error::system(Origin::STORAGE, format!("State of pool '{name}'"), cause)
}

impl Environment {
    pub(crate) fn open(stack: Stack, layout: &Layout, programs: &[(String, PathBuf)]) -> io::Result<Self> {
        let (etc, run) = (layout.etc.join("storage"), layout.run.join("storage"));
        let qemu_img = programs.iter().find(|(class, _)| class == "qemu-img").map(|(_, path)| path.clone());
        let environment = Self {
            stack,
            definitions: Folder::open(&etc, "pool", ".xml")?,
            autostart: Folder::open(&etc.join("autostart"), "pool_autostart", ".xml")?,
            live: Folder::open(&run, "pool_live", ".json")?,
            raw: Folder::open(&etc.join("raw"), "pool_raw", ".json")?,
            intents: Folder::open(&run.join("intents"), "volume_intent", ".json")?,
            pools: RwLock::default(),
            registry: tokio::sync::Mutex::default(),
            known_raw: Mutex::default(),
            events: Fanout::default(),
            ends: Mutex::default(),
            number: AtomicU64::new(1),
            random: RandomState::new(),
            qemu_img,
            programs: tokio::sync::Semaphore::new(PROGRAMS_MAX),
        };
        Ok(environment)
    }

    /// A name for a helper that no other one has, of an earlier process of this driver neither.
    pub(crate) fn key(&self, what: &str) -> String {
        format!("{what}-{}-{}", std::process::id(), self.number.fetch_add(1, Ordering::Relaxed))
    }

    /// A name for a file that is being made, which nobody else chooses.
    pub(crate) fn unfinished(&self) -> String {
        format!("{UNFINISHED}{}", self.fresh_uuid())
    }

    /// A uuid of bits from the keys with which the standard library seeds its hash tables.
    pub(crate) fn fresh_uuid(&self) -> Uuid {
        let next = || self.random.hash_one(self.number.fetch_add(1, Ordering::Relaxed));
        let bits = u128::from(next()) << 64 | u128::from(next());
        // Version 4, variant 1.
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        Uuid(bits.to_be_bytes())
    }

    pub(crate) fn tell(&self, event: &PoolEvent) {
        self.events.publish(event, |missed| PoolEvent::Lagged { missed });
    }

    // Pools.

    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let mut pools: Vec<_> = pools.values().cloned().collect();
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        pools
    }

    pub(crate) fn by_uuid(&self, uuid: Uuid) -> Option<Arc<Pool>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).get(&uuid).cloned()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Pool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().find(|pool| pool.name == name).cloned()
    }

    /// The volume of an active pool that lies there.
    pub(crate) fn volume_at(&self, path: &str) -> Option<(Arc<Pool>, Arc<View>, Arc<Volume>)> {
        let clean = clean_path(path);
        let (folder, name) = clean.rsplit_once('/')?;
        let pools = self.pools();
        pools.into_iter().find_map(|pool| {
            let view = pool.view.get();
            let shows = view.is_active() && view.folder().trim_end_matches('/') == folder;
            let volume = view.volume(name).filter(|_| shows).cloned()?;
            Some((pool, view, volume))
        })
    }

    pub(crate) fn insert(&self, pool: &Arc<Pool>) {
        self.pools.write().unwrap_or_else(PoisonError::into_inner).insert(pool.uuid, Arc::clone(pool));
    }

    pub(crate) fn forget(&self, pool: &Pool) {
        self.pools.write().unwrap_or_else(PoisonError::into_inner).remove(&pool.uuid);
        self.known_raw.lock().unwrap_or_else(PoisonError::into_inner).remove(&pool.uuid);
    }

    /// May there be a pool with this definition? Answers the one that it redefines.
    pub(crate) fn admit(&self, definition: &Definition) -> Result<Option<Arc<Pool>>, Error> {
        let pools = self.pools();
        let failed = |message: String| Err(error(Code::OPERATION_FAILED, message));
        let (name, uuid) = (&definition.name, definition.uuid);
        if let Some(other) = pools.iter().find(|pool| pool.name == *name && pool.uuid != uuid) {
            return failed(format!("Pool '{name}' exists already, with uuid {}", other.uuid));
        }
        let same = pools.iter().find(|pool| pool.uuid == uuid);
        if let Some(other) = same.filter(|pool| pool.name != *name) {
            return failed(format!("Uuid {uuid} is that of pool '{}' already", other.name));
        }
        if let Some(other) = pools.iter().find(|pool| {
            let view = pool.view.get();
            pool.uuid != uuid && definition.conflicts(&view.definition)
        }) {
            let state = if other.view.get().is_active() { "active" } else { "inactive" };
            return failed(format!(
                "Pool '{name}' would stand on the same as pool '{}', which is {state}; use that one, or another place",
                other.name
            ));
        }
        if same.is_none() && pools.len() >= POOLS_MAX {
            return failed(format!("There are {POOLS_MAX} pools already"));
        }
        Ok(same.cloned())
    }

    // State on disk.

    async fn write(&self, folder: &Folder, pool: &str, name: String, content: Vec<u8>) -> Result<(), Error> {
        let folder = folder.clone();
        let written = tokio::task::spawn_blocking(move || folder.write(&name, &content)).await;
        written.map_err(io::Error::other).and_then(|written| written).map_err(|cause| on_disk(pool, &cause))
    }

    async fn remove(&self, folder: &Folder, pool: &str, name: String) -> Result<(), Error> {
        let folder = folder.clone();
        let removed = tokio::task::spawn_blocking(move || folder.remove(&name)).await;
        removed.map_err(io::Error::other).and_then(|removed| removed).map_err(|cause| on_disk(pool, &cause))
    }

    pub(crate) async fn write_definition(&self, name: &str, xml: String) -> Result<(), Error> {
        self.write(&self.definitions, name, name.to_owned(), xml.into_bytes()).await
    }

    /// Removes all that is kept of a definition.
    pub(crate) async fn remove_definition(&self, pool: &Pool) -> Result<(), Error> {
        self.remove(&self.autostart, &pool.name, pool.name.clone()).await?;
        self.remove(&self.definitions, &pool.name, pool.name.clone()).await?;
        self.remove_raw(pool).await
    }

    /// Removes what is kept of a pool that had no definition.
    pub(crate) async fn remove_raw(&self, pool: &Pool) -> Result<(), Error> {
        self.remove(&self.raw, &pool.name, pool.uuid.to_string()).await
    }

    pub(crate) async fn set_autostart(&self, name: &str, autostart: bool) -> Result<(), Error> {
        if autostart {
            self.write(&self.autostart, name, name.to_owned(), Vec::new()).await
        } else {
            self.remove(&self.autostart, name, name.to_owned()).await
        }
    }

    pub(crate) async fn write_record(&self, name: &str, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record).map_err(|cause| error(Code::INTERNAL, cause.to_string()))?;
        self.write(&self.live, name, name.to_owned(), text).await
    }

    pub(crate) async fn remove_record(&self, name: &str) -> Result<(), Error> {
        self.remove(&self.live, name, name.to_owned()).await
    }

    /// Definitions, names of those that start with the stack, and records of active pools. What makes no sense is set aside.
    pub(crate) fn recall(&self) -> io::Result<Recalled> {
        let mut definitions = Vec::new();
        for (name, text) in self.definitions.read_all()? {
            match Definition::read(&String::from_utf8_lossy(&text), Uuid::default) {
                Ok(definition) if definition.name == name => definitions.push(definition),
                Ok(_) => self.definitions.set_aside(&name, "it is the definition of another pool"),
                Err(cause) => self.definitions.set_aside(&name, &cause.message),
            }
        }
        let autostart = self.autostart.read_all()?.into_iter().map(|(name, _)| name).collect();
        let mut active = Vec::new();
        for (name, text) in self.live.read_all()? {
            let record: Result<Record, _> = serde_json::from_slice(&text);
            let record = record.map_err(|cause| cause.to_string()).and_then(|record| {
                let definition =
                    Definition::read(&record.xml, Uuid::default).map_err(|cause| cause.message)?;
                if definition.name == name {
                    Ok((definition, record))
                } else {
                    Err("it is another pool's".to_owned())
                }
            });
            match record {
                Ok(record) => active.push(record),
                Err(why) => self.live.set_aside(&name, &why),
            }
        }
        let mut known = self.known_raw.lock().unwrap_or_else(PoisonError::into_inner);
        let exists = |uuid| {
            let mut all = definitions.iter().chain(active.iter().map(|(definition, _)| definition));
            all.any(|definition: &Definition| definition.uuid == uuid)
        };
        for (name, text) in self.raw.read_all()? {
            match (Uuid::parse(&name), serde_json::from_slice(&text)) {
                // Its pool was undefined, and the driver ended before this went too.
                (Some(uuid), _) if !exists(uuid) => self.raw.remove(&name)?,
                (Some(uuid), Ok(files)) => drop(known.insert(uuid, files)),
                _ => self.raw.set_aside(&name, "it names no raw files"),
            }
        }
        Ok((definitions, autostart, active))
    }

    // Raw files.

    pub(crate) fn raw_of(&self, pool: Uuid) -> Vec<(String, u64)> {
        self.known_raw.lock().unwrap_or_else(PoisonError::into_inner).get(&pool).cloned().unwrap_or_default()
    }

    /// From now on these files are raw. What a guest writes into one of them never makes it something else.
    pub(crate) fn remember_raw(&self, pool: Uuid, mut files: Vec<(String, u64)>) {
        files.sort();
        let mut known = self.known_raw.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&pool) == Some(&files) {
            return;
        }
        let text = serde_json::to_vec(&files);
        known.insert(pool, files);
        drop(known);
        let folder = self.raw.clone();
        if let Ok(text) = text {
            // Lost with a power failure at worst: the next look finds them as they are.
            tokio::task::spawn_blocking(move || {
                if let Err(cause) = folder.write(&pool.to_string(), &text) {
                    tracing::error!(%cause, %pool, "which files are raw can't be kept");
                }
            });
        }
    }

    /// Adds one file to those that are raw.
    pub(crate) fn remember_one_raw(&self, pool: Uuid, name: &str, inode: u64) {
        let mut files = self.raw_of(pool);
        files.retain(|(known, _)| known != name);
        files.push((name.to_owned(), inode));
        self.remember_raw(pool, files);
    }

    // Volumes that are being made.

    /// Writes down that a file of this name is being made in a pool.
    pub(crate) async fn intend(&self, pool: &Pool, unfinished: &str) -> Result<(), Error> {
        let text = serde_json::to_vec(&pool.uuid.to_string());
        let text = text.map_err(|cause| error(Code::INTERNAL, cause.to_string()))?;
        self.write(&self.intents, &pool.name, unfinished.to_owned(), text).await
    }

    /// It is made, or removed.
    pub(crate) async fn intended(&self, pool: &Pool, unfinished: &str) -> Result<(), Error> {
        self.remove(&self.intents, &pool.name, unfinished.to_owned()).await
    }

    /// Removes what an earlier process of this driver did not finish in a pool.
    pub(crate) async fn clear_unfinished(&self, pool: &Pool, worker: &Worker) {
        let intents = match self.intents.read_all() {
            Ok(intents) => intents,
            Err(cause) => return tracing::error!(%cause, "intents can't be read"),
        };
        let own = pool.uuid.to_string();
        for (unfinished, text) in intents {
            if serde_json::from_slice::<String>(&text).is_ok_and(|uuid| uuid == own) {
                let discarded =
                    worker.ask(Order::Discard { unfinished: unfinished.clone() }, Some(SOON)).await;
                let forgotten = match discarded {
                    Ok(_) => self.intended(pool, &unfinished).await,
                    Err(cause) => Err(cause),
                };
                if let Err(cause) = forgotten {
                    tracing::error!(pool = pool.name, unfinished, %cause, "an unfinished file stays");
                }
            }
        }
    }

    // Programs.

    /// Runs qemu-img, which may open these files and no others.
    pub(crate) async fn qemu_img(
        &self,
        pool: &str,
        arguments: Vec<String>,
        files: Vec<(PathBuf, Access)>,
    ) -> Result<(), Error> {
        let program = self.qemu_img.clone().ok_or_else(|| {
            error(
                Code::CONFIG_UNSUPPORTED,
                format!("Pool '{pool}': images take qemu-img, which is not installed"),
            )
        })?;
        let _place = self.programs.acquire().await;
        let system = |cause: io::Error| on_disk(pool, &cause);
        let (reading, writing) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| system(errno.into()))?;
        fcntl(&reading, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| system(errno.into()))?;
        let errors = tokio::net::unix::pipe::Receiver::from_owned_fd(reading).map_err(system)?;
        let key = self.key("image");
        let (ended, end) = oneshot::channel();
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), ended);
        let request = HelperRequest {
            key: key.clone(),
            class: "qemu-img".to_owned(),
            program,
            arguments,
            environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
            files,
            listeners: Vec::new(),
            outputs: Vec::new(),
            descriptors: Vec::new(),
            ports: Vec::new(),
            network: false,
            errors: Some(Descriptor::new(writing)),
            autodestroy: true,
        };
        if let Err(cause) = self.stack.start_helper(request).await {
            self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return Err(of_pool(pool, &cause));
        }
        let mut said = Vec::new();
        // Its end closes the pipe.
        let _ = errors.take(ERRORS_MAX_BYTES).read_to_end(&mut said).await;
        match end.await {
            Ok(Some(0)) => Ok(()),
            _ => {
                let said = String::from_utf8_lossy(&said);
                let said = said.trim().trim_start_matches("qemu-img: ");
                let message = format!("Pool '{pool}': qemu-img could not do it: {said}");
                Err(Error::new(Code::INTERNAL, Origin::NONE, message))
            }
        }
    }

    pub(crate) async fn watch_ends(self: Arc<Self>, mut ends: mpsc::Receiver<HelperEnd>) {
        while let Some((key, _, status)) = ends.recv().await {
            let waiting = self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            if let Some(waiting) = waiting {
                let _ = waiting.send(status);
            }
        }
    }
}

/// Refuses what is not done to pools that are active.
pub(crate) fn must_be_inactive(pool: &Pool) -> Result<(), Error> {
    if pool.view.get().is_active() {
        return Err(invalid(format!("Pool '{}' is active; stop it first", pool.name)));
    }
    Ok(())
}
