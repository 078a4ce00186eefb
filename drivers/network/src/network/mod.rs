//! A network: what is known of it, and its life.

pub(crate) mod life;
mod ports;
mod serve;

use crate::catalog::Known;
use crate::definition::{Definition, Usage};
use crate::environment::{Environment, Phase, Record};
use crate::port::Port;
use bulkhead_actors::object::Object;
use bulkhead_actors::snapshot::Snapshot;
use bulkhead_wire::error::Error;
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::network::{NetworkEvent, NetworkRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// `virNetworkEventLifecycleType`.
pub(crate) const DEFINED: i32 = 0;
pub(crate) const UNDEFINED: i32 = 1;
pub(crate) const STARTED: i32 = 2;
pub(crate) const STOPPED: i32 = 3;

/// What readers see of a network.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// What it is now.
    pub(crate) definition: Arc<Definition>,
    /// What it will be after its next start; only while it is active.
    pub(crate) next: Option<Arc<Definition>>,
    /// Does its definition outlive it?
    pub(crate) persistent: bool,
    /// Does it start with the stack?
    pub(crate) autostart: bool,
    /// Is it active?
    pub(crate) active: bool,
    /// Its ports.
    pub(crate) ports: Arc<BTreeMap<Uuid, Arc<Port>>>,
    /// Why it does not serve all that it should, if it does not.
    pub(crate) degraded: Option<String>,
}

impl View {
    /// That of a network that is not active.
    pub(crate) fn inactive(definition: Arc<Definition>, persistent: bool, autostart: bool) -> Self {
        Self {
            definition,
            next: None,
            persistent,
            autostart,
            active: false,
            ports: Arc::default(),
            degraded: None,
        }
    }

    /// The definition of its next start.
    pub(crate) fn configured(&self) -> &Arc<Definition> {
        self.next.as_ref().unwrap_or(&self.definition)
    }

    /// How many ports there are.
    pub(crate) fn usage(&self) -> Usage {
        let mut devices = vec![0; self.definition.forward.devices.len()];
        for port in self.ports.values() {
            if let Some(count) = port.device(&self.definition).and_then(|device| devices.get_mut(device)) {
                *count += 1;
            }
        }
        Usage { ports: u32::try_from(self.ports.len()).unwrap_or(u32::MAX), devices }
    }

    pub(crate) fn known(&self) -> Known {
        let mut known = Known::of(&self.definition, self.active);
        known.bridges.extend(self.next.iter().filter_map(|next| next.bridge.name.clone()));
        known
    }

    pub(crate) fn record(&self, phase: Phase) -> Record {
        Record { xml: self.definition.to_xml(), persistent: self.persistent, phase }
    }
}

/// A network.
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    /// Its turn: changes are made one after the other.
    pub(crate) object: Object<()>,
    pub(crate) view: Snapshot<View>,
    changing: Mutex<()>,
    /// How often in a row what serves its guests has ended soon after its start, and when it was started last.
    ended: Mutex<(u32, Option<Instant>)>,
}

impl Network {
    pub(crate) fn new(view: View) -> Arc<Self> {
        let NetworkRef { name, uuid } = view.definition.to_ref();
        Arc::new(Self {
            object: Object::spawn(&format!("network {name}"), |_| ()),
            name,
            uuid,
            view: Snapshot::new(view),
            changing: Mutex::default(),
            ended: Mutex::default(),
        })
    }

    /// Itself in a few words.
    pub(crate) fn to_ref(&self) -> NetworkRef {
        NetworkRef { name: self.name.clone(), uuid: self.uuid }
    }

    /// Publishes another view.
    pub(crate) fn change(&self, change: impl FnOnce(&mut View)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&self.view.get());
        change(&mut view);
        self.view.set(view);
    }

    /// The name of what serves its guests, among the stack's programs.
    pub(crate) fn services_key(&self) -> String {
        format!("dnsmasq-{}", self.uuid)
    }

    pub(crate) fn tell(&self, environment: &Environment, event: i32) {
        environment.tell(&NetworkEvent::Lifecycle { network: self.to_ref(), event, detail: 0 });
    }

    /// Has something done in its turn.
    pub(crate) async fn turn<R, F>(
        self: &Arc<Self>,
        environment: &Arc<Environment>,
        operation: &'static str,
        work: impl FnOnce(Arc<Self>, Arc<Environment>) -> F,
    ) -> Result<R, Error>
    where
        R: Send + 'static,
        F: Future<Output = Result<R, Error>> + Send + 'static,
    {
        let work = work(Arc::clone(self), Arc::clone(environment));
        self.object.run(operation, move |()| Box::pin(work)).await?
    }
}
