//! A pool: what is known of it, and who is busy with which of its volumes.

pub mod definition;
pub mod kind;
pub mod life;
pub mod worker;

use crate::error::{error, invalid, no_volume};
use crate::protocol::{Found, Permissions};
use crate::volume::Volume;
use bulkhead_actors::object::Object;
use bulkhead_actors::snapshot::Snapshot;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::storage::PoolRef;
use definition::{Definition, Sizes};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use worker::Worker;

/// Where a pool is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started.
    Inactive,
    /// Active, and looked at for the first time.
    Starting,
    /// Active.
    Running,
    /// Active, but its storage can't be reached; its volumes are those that were seen last.
    Inaccessible,
}

impl State {
    /// `virStoragePoolState`.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Inactive => 0,
            Self::Starting => 1,
            Self::Running => 2,
            Self::Inaccessible => 4,
        }
    }
}

/// What readers see of a pool.
#[derive(Debug, Clone)]
pub struct View {
    /// What it is now.
    pub definition: Arc<Definition>,
    /// What it will be after its next start, if that differs.
    pub next: Option<Arc<Definition>>,
    /// Does its definition outlive it?
    pub persistent: bool,
    /// Does it start with the stack?
    pub autostart: bool,
    /// Where it is in its life.
    pub state: State,
    /// Its sizes.
    pub sizes: Sizes,
    /// Owner and mode of its folder, as they are.
    pub permissions: Option<Permissions>,
    /// Its volumes.
    pub volumes: Arc<BTreeMap<String, Arc<Volume>>>,
    /// Who looks into its folder.
    pub worker: Option<Arc<Worker>>,
}

impl View {
    /// That of a pool that is not active.
    #[must_use]
    pub fn inactive(definition: Arc<Definition>, persistent: bool, autostart: bool) -> Self {
        Self {
            definition,
            next: None,
            persistent,
            autostart,
            state: State::Inactive,
            sizes: Sizes::default(),
            permissions: None,
            volumes: Arc::default(),
            worker: None,
        }
    }

    /// Is it active?
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state != State::Inactive
    }

    /// The folder that it shows.
    #[must_use]
    pub fn folder(&self) -> &str {
        self.definition.target.as_deref().unwrap_or_default()
    }

    /// A volume by its name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Arc<Volume>> {
        self.volumes.get(name)
    }
}

/// How a volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// So many read it.
    Read(u32),
    /// One changes it.
    Change(&'static str),
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Its life's turns, one after the other. What is done to single volumes goes on beside them.
    pub object: Object<()>,
    /// What readers see.
    pub view: Snapshot<View>,
    /// Volumes that changed while the folder is looked at; `None` while it is not. Held while the view is changed.
    touched: Mutex<Option<HashSet<String>>>,
    uses: Mutex<HashMap<String, Use>>,
}

impl Pool {
    /// A pool with this view.
    #[must_use]
    pub fn new(view: View) -> Arc<Self> {
        let PoolRef { name, uuid } = view.definition.to_ref();
        Arc::new(Self {
            object: Object::spawn(&format!("pool {name}"), |_| ()),
            name,
            uuid,
            view: Snapshot::new(view),
            touched: Mutex::default(),
            uses: Mutex::default(),
        })
    }

    /// Itself in a few words.
    #[must_use]
    pub fn to_ref(&self) -> PoolRef {
        PoolRef { name: self.name.clone(), uuid: self.uuid }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HashSet<String>>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes another view.
    pub fn change(&self, change: impl FnOnce(&mut View)) {
        let _changing = self.lock();
        let mut view = View::clone(&self.view.get());
        change(&mut view);
        self.view.set(view);
    }

    /// Publishes what became of one volume.
    pub fn set_volume(&self, name: &str, volume: Option<Volume>) {
        if let Some(touched) = self.lock().as_mut() {
            touched.insert(name.to_owned());
        }
        self.change(|view| {
            let volumes = Arc::make_mut(&mut view.volumes);
            match volume {
                Some(volume) => drop(volumes.insert(name.to_owned(), Arc::new(volume))),
                None => drop(volumes.remove(name)),
            }
        });
    }

    /// The whole folder will be looked at: what changes meanwhile is remembered.
    fn begin_looking(&self) {
        *self.lock() = Some(HashSet::new());
    }

    /// The volumes that were found, but for those that changed meanwhile.
    fn merge(&self, found: Vec<Found>) -> BTreeMap<String, Arc<Volume>> {
        let touched = self.lock().take().unwrap_or_default();
        let known = self.view.get();
        let fresh = found.into_iter().filter(|found| !touched.contains(&found.name));
        let mut volumes: BTreeMap<_, _> =
            fresh.map(|found| (found.name.clone(), Arc::new(Volume { found, made: None }))).collect();
        for name in touched {
            if let Some(volume) = known.volume(&name) {
                volumes.insert(name, Arc::clone(volume));
            }
        }
        volumes
    }

    /// The view of a pool that must be active. One that is being started is waited for.
    ///
    /// # Errors
    /// A pool that is not.
    pub async fn active(&self) -> Result<Arc<View>, Error> {
        let view = self.view.get();
        let view = if view.state == State::Starting {
            self.object.run("wait for its start", |()| Box::pin(async {})).await?;
            self.view.get()
        } else {
            view
        };
        if view.is_active() {
            return Ok(view);
        }
        Err(invalid(format!("Pool '{}' is not active; start it first", self.name)))
    }

    /// A volume of an active pool.
    ///
    /// # Errors
    /// A pool that is not active, or has no such volume.
    pub async fn volume(&self, name: &str) -> Result<(Arc<View>, Arc<Volume>), Error> {
        let view = self.active().await?;
        let volume = view.volume(name).cloned().ok_or_else(|| no_volume("name", name))?;
        Ok((view, volume))
    }

    /// Its worker.
    ///
    /// # Errors
    /// A pool without one.
    pub fn worker(&self) -> Result<Arc<Worker>, Error> {
        self.view.get().worker.clone().filter(|worker| !worker.is_gone()).ok_or_else(|| {
            let message =
                format!("Pool '{}' can't be reached; refresh it when its storage is back", self.name);
            error(Code::OPERATION_FAILED, message)
        })
    }

    /// Takes a volume for a change, which nobody else may read or change meanwhile.
    ///
    /// # Errors
    /// A volume that is in use.
    pub fn take(self: &Arc<Self>, name: &str, operation: &'static str) -> Result<InUse, Error> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get(name) {
            None => drop(uses.insert(name.to_owned(), Use::Change(operation))),
            Some(used) => return Err(self.busy(name, *used)),
        }
        drop(uses);
        Ok(InUse { pool: Arc::clone(self), name: name.to_owned() })
    }

    /// Takes a volume for reading, as others may.
    ///
    /// # Errors
    /// A volume that is being changed.
    pub fn share(self: &Arc<Self>, name: &str) -> Result<InUse, Error> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(name) {
            None => drop(uses.insert(name.to_owned(), Use::Read(1))),
            Some(Use::Read(count)) => *count += 1,
            Some(used) => return Err(self.busy(name, *used)),
        }
        drop(uses);
        Ok(InUse { pool: Arc::clone(self), name: name.to_owned() })
    }

    fn busy(&self, name: &str, used: Use) -> Error {
        let what = match used {
            Use::Read(_) => "read",
            Use::Change(operation) => operation,
        };
        let message = format!(
            "Volume '{name}' of pool '{}' is in use ({what}); try again when that has ended",
            self.name
        );
        invalid(message)
    }

    /// Is any of its volumes in use? Which, if so.
    fn in_use(&self) -> Option<String> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).keys().next().cloned()
    }
}

/// A volume is in use until this is dropped.
#[derive(Debug)]
pub struct InUse {
    pool: Arc<Pool>,
    name: String,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut uses = self.pool.uses.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(&self.name) {
            Some(Use::Read(count)) if *count > 1 => *count -= 1,
            _ => drop(uses.remove(&self.name)),
        }
    }
}
