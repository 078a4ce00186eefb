//! The storage driver: pools and their volumes.
//!
//! Owns: definitions of pools, what is known of their volumes. Never does: open a file of a pool. Each active pool has a worker
//! (`bulkhead-pool`), a process that the broker confines to the pool's folder; headers are parsed there. A worker that hangs or
//! dies makes its own pool inaccessible and nothing else.

mod calls;
mod capabilities;
mod environment;
mod error;
mod event;
pub mod image;
pub mod pool;
pub mod protocol;
pub mod volume;
pub mod worker;
mod xml;

use bulkhead_actors::driver::{DriverLogic, Leave, Start};
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_wire::table::{CallContext, Driver, storage};
use bulkhead_wire::types::Busy;
use environment::Environment;
use pool::definition::Definition;
use pool::{Pool, State, View};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// All pools of a stack.
pub struct Storage {
    environment: Arc<Environment>,
}

impl DriverLogic for Storage {
    const DRIVER: Driver = Driver::Storage;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let Start { welcome, stack, helper_ends, .. } = start;
        // They belong to an earlier process: nobody hears what they say.
        for helper in welcome.helpers {
            let _ = stack.kill_helper(&helper.key).await;
        }
        let system = |cause| Error::system(Origin::STORAGE, "The driver's folders", &cause);
        let environment = Environment::open(stack, &welcome.layout, &welcome.programs).map_err(system)?;
        let environment = Arc::new(environment);
        tokio::spawn(Arc::clone(&environment).watch_ends(helper_ends));
        recall(&environment, welcome.incarnation == 1).map_err(system)?;
        Ok(Arc::new(Self { environment }))
    }

    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        let answer = storage::dispatch(self, call, body, files);
        Box::pin(async move {
            answer.await.map_err(|cause| match cause.origin {
                // What objects in general say, this driver's objects say; some codes have no origin in stock either.
                Origin::NONE if cause.code == bulkhead_wire::error::Code::OPERATION_TIMEOUT => {
                    Error { origin: Origin::STORAGE, ..cause }
                }
                _ => cause,
            })
        })
    }

    fn busy(&self) -> Vec<Busy> {
        self.environment.pools().iter().filter_map(|pool| pool.object.busy()).collect()
    }

    async fn leave(&self, _reason: Leave) {}
}

/// Reads what is on disk. Pools that were active are active again, and those that start with the stack start: in the
/// background, for a storage that does not answer must keep nobody waiting.
fn recall(environment: &Arc<Environment>, first: bool) -> std::io::Result<()> {
    let (definitions, autostart, active) = environment.recall()?;
    let mut views: BTreeMap<_, _> = definitions
        .into_iter()
        .map(|definition| {
            let starts = autostart.contains(&definition.name);
            (definition.uuid, View::inactive(Arc::new(definition), true, starts))
        })
        .collect();
    for (definition, record) in active {
        let definition = Arc::new(definition);
        let uuid = definition.uuid;
        let view = views.entry(uuid).or_insert_with(|| View::inactive(Arc::clone(&definition), false, false));
        // The definition may have changed while it was active.
        if record.persistent && !same(&view.definition, &definition) {
            view.next = Some(Arc::clone(&view.definition));
            view.definition = definition;
        }
        view.state = State::Starting;
    }
    for view in views.into_values() {
        let (was, starts) = (view.is_active(), view.autostart && first);
        let pool = Pool::new(view);
        environment.insert(&pool);
        let (ours, theirs) = (Arc::clone(environment), Arc::clone(&pool));
        let begun = match (was, starts) {
            (true, _) => pool.object.post("start again", move |()| {
                Box::pin(async move {
                    if let Err(cause) = theirs.reopen(&ours).await {
                        tracing::error!(pool = theirs.name, %cause, "can't be reached");
                    }
                })
            }),
            (false, true) => pool.object.post("autostart", move |()| {
                Box::pin(async move {
                    if let Err(cause) = theirs.start(&ours, 0).await {
                        tracing::error!(pool = theirs.name, %cause, "autostart");
                    }
                })
            }),
            (false, false) => Ok(()),
        };
        if let Err(cause) = begun {
            tracing::error!(pool = pool.name, %cause, "can't be started");
        }
    }
    Ok(())
}

fn same(one: &Definition, other: &Definition) -> bool {
    let sizes = pool::definition::Sizes::default();
    one.to_xml(sizes, None) == other.to_xml(sizes, None)
}
