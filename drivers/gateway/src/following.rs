//! Following a driver's events, over its deaths: what changed while nobody told is found out and told.

use crate::events::Kind;
use crate::journal::Journal;
use crate::{Shared, known, network_events, pool_events, secret_events};
use bulkhead_wire::channel::Caller;
use bulkhead_wire::codec;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::Uuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Events on their way from a driver.
const QUEUE: usize = 1024;
/// Pause before a subscription that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Time in which the clients of an earlier process are handed over to this one.
const RESTORED_WITHIN: Duration = Duration::from_secs(5);

/// How far following one driver has come.
#[derive(Debug, Default)]
pub(crate) struct Following {
    begun: AtomicBool,
    subscribed: watch::Sender<bool>,
}

/// Those of all drivers that have events.
#[derive(Debug, Default)]
pub(crate) struct Followings {
    domains: Following,
    networks: Following,
    pools: Following,
    secrets: Following,
}

/// Events were lost: how things are has to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// What one driver's events are, and what is known through them.
pub(crate) trait Source: Default + Send + 'static {
    /// Which driver.
    const DRIVER: Driver;
    /// Its events.
    type Event: DeserializeOwned + Send;
    /// What is known of one of its objects.
    type Entry: Serialize + DeserializeOwned + Send + Sync;

    /// All that is known, from the first look on.
    fn entries(&mut self) -> &mut Option<BTreeMap<Uuid, Self::Entry>>;

    /// Subscribes, and takes in how things are; gives the events that tell what changed since it was last looked.
    fn look(&mut self, caller: &Caller) -> impl Future<Output = Result<Vec<Self::Event>, Error>> + Send;

    /// Takes an event in; the object that it is about. An error if it says that others were lost.
    fn learn(&mut self, event: &Self::Event) -> Result<Uuid, Lost>;

    /// Tells it to all that asked for it.
    fn publish(shared: &Shared, event: &Self::Event);
}

/// Sees to it that the events of that kind of object are followed; what is returned tells when they are. Nothing where nobody
/// has such events: then there is nothing to wait for.
pub(crate) fn begin(shared: &Arc<Shared>, kind: Kind) -> Option<watch::Receiver<bool>> {
    let of = &shared.followings;
    match kind {
        Kind::Domain => Some(begun::<known::Known>(shared, &of.domains, |of| &of.domains)),
        Kind::Network => Some(begun::<network_events::Known>(shared, &of.networks, |of| &of.networks)),
        Kind::Pool => Some(begun::<pool_events::Known>(shared, &of.pools, |of| &of.pools)),
        Kind::Secret => Some(begun::<secret_events::Known>(shared, &of.secrets, |of| &of.secrets)),
        Kind::NodeDevice => None,
    }
}

fn begun<S: Source>(
    shared: &Arc<Shared>,
    following: &Following,
    of: fn(&Followings) -> &Following,
) -> watch::Receiver<bool> {
    if !following.begun.swap(true, Ordering::Relaxed) {
        tokio::spawn(follow::<S>(Arc::clone(shared), of));
    }
    following.subscribed.subscribe()
}

async fn follow<S: Source>(shared: Arc<Shared>, of: fn(&Followings) -> &Following) {
    let caller = loop {
        match shared.caller_on_demand(S::DRIVER).await {
            Ok(caller) => break caller,
            Err(error) => {
                tracing::warn!(driver = %S::DRIVER, %error, "a driver whose events are wanted");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    };
    let (queue, mut received) = mpsc::channel(QUEUE);
    caller.deliver_events(queue);
    let mut links = caller.links();
    let mut known = S::default();
    let name = format!("known {}", S::DRIVER);
    *known.entries() = shared.inherited(&name).and_then(|file| Journal::read(&file));
    let mut journal = Journal::new(&name);
    // Whoever was connected is told what he missed: not before he is there.
    drop(timeout(RESTORED_WITHIN, shared.expected.subscribe().wait_for(HashSet::is_empty)).await);
    loop {
        links.mark_unchanged();
        match known.look(&caller).await {
            Ok(events) => {
                for event in events {
                    S::publish(&shared, &event);
                }
                keep(&shared, &mut journal, &mut known).await;
                of(&shared.followings).subscribed.send_replace(true);
            }
            Err(error) => {
                tracing::warn!(driver = %S::DRIVER, %error, "events of a driver");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        }
        loop {
            // Both wait for what stays there until it is taken.
            tokio::select! {
                biased;
                Some(body) = received.recv() => match codec::decode::<S::Event>(&body, Vec::new()) {
                    Ok(event) => match known.learn(&event) {
                        Ok(object) => {
                            S::publish(&shared, &event);
                            let entry = known.entries().as_ref().and_then(|all| all.get(&object));
                            if !journal.note(object, entry) {
                                keep(&shared, &mut journal, &mut known).await;
                            }
                        }
                        Err(Lost) => break,
                    },
                    Err(_) => break,
                },
                changed = links.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            }
        }
    }
}

/// Has the next process find what clients know.
async fn keep<S: Source>(shared: &Shared, journal: &mut Journal<S::Entry>, known: &mut S) {
    let Some(all) = known.entries() else { return };
    if let Err(error) = journal.write(&shared.stack, all).await {
        tracing::error!(driver = %S::DRIVER, %error, "what clients were told is not kept");
    }
}
