//! Events of one connection: subscribed to once at the driver, handed to every listener.

use crate::caller::{Caller, Way};
use crate::lock;
use crate::remote::{Heard, Told};
use bulkhead_wire::channel;
use bulkhead_wire::codec;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{domain, network, secret, storage};
use bulkhead_wire::types::DomainEvent;
use bulkhead_wire::types::network::NetworkEvent;
use bulkhead_wire::types::secret::SecretEvent;
use bulkhead_wire::types::storage::PoolEvent;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Events that wait for one listener.
const QUEUE: usize = 256;
/// Until a subscription that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The events of one driver.
pub(crate) trait Event: Clone + DeserializeOwned + Heard + Send + 'static {
    /// The event that tells how many others are lost.
    fn lagged(missed: u64) -> Self;

    /// Has the driver send its events over this channel.
    fn subscribe(caller: channel::Caller) -> impl Future<Output = Result<(), Error>> + Send;
}

macro_rules! events {
    ($($event:ident from $driver:ident),* $(,)?) => {
        $(impl Event for $event {
            fn lagged(missed: u64) -> Self {
                Self::Lagged { missed }
            }

            async fn subscribe(caller: channel::Caller) -> Result<(), Error> {
                $driver::Client(caller).events_subscribe().await
            }
        })*
    };
}

events! {
    DomainEvent from domain,
    NetworkEvent from network,
    PoolEvent from storage,
    SecretEvent from secret,
}

/// The listeners of a connection.
#[derive(Debug)]
pub(crate) struct Listeners<E> {
    all: Mutex<Vec<Listener<E>>>,
    /// Held while the first listener subscribes, so that the second finds it done.
    subscribed: tokio::sync::Mutex<bool>,
}

impl<E> Default for Listeners<E> {
    fn default() -> Self {
        Self { all: Mutex::default(), subscribed: tokio::sync::Mutex::default() }
    }
}

#[derive(Debug)]
struct Listener<E> {
    queue: mpsc::Sender<E>,
    missed: u64,
}

impl<E: Event> Listeners<E> {
    /// Adds a listener; the first one subscribes. What comes is passed on until `closed` says that the connection is.
    pub(crate) async fn listen(
        self: &Arc<Self>,
        caller: Caller,
        closed: watch::Receiver<bool>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<mpsc::Receiver<E>, Error> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let mut subscribed = self.subscribed.lock().await;
        if !*subscribed {
            match caller.0 {
                Way::Channel(caller) => {
                    let (bodies, received) = mpsc::channel(QUEUE);
                    caller.deliver_events(bodies);
                    let links = caller.links();
                    E::subscribe(caller.clone()).await?;
                    let read = |body: Vec<u8>| codec::decode(&body, Vec::new()).ok();
                    let subscribe = move || E::subscribe(caller.clone());
                    runtime.spawn(pass_on(Arc::clone(self), received, read, subscribe, links, closed));
                }
                Way::Remote(caller) => {
                    let received = caller.hear(E::is_about, QUEUE);
                    let links = caller.links();
                    E::register(&caller).await?;
                    let subscribe = move || {
                        let caller = caller.clone();
                        async move { E::register(&caller).await }
                    };
                    runtime.spawn(pass_on(Arc::clone(self), received, told, subscribe, links, closed));
                }
            }
            *subscribed = true;
        }
        self.lock().push(Listener { queue, missed: 0 });
        Ok(receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Listener<E>>> {
        lock(&self.all)
    }

    /// Hands an event to all. Nobody is waited for: what a slow listener misses is counted, and told.
    fn publish(&self, event: &E) {
        self.lock().retain_mut(|listener| {
            if listener.missed > 0 {
                let missed = listener.missed;
                if listener.queue.try_send(E::lagged(missed)).is_ok() {
                    listener.missed = 0;
                }
            }
            if listener.missed > 0 || listener.queue.try_send(event.clone()).is_err() {
                listener.missed += 1;
            }
            !listener.queue.is_closed()
        });
    }
}

/// An event as it came in libvirt's protocol.
fn told<E: Event>(told: Told) -> Option<E> {
    match told {
        Told::Event { program, procedure, payload } => E::read(program, procedure, &payload),
        Told::Missed(missed) => Some(E::lagged(missed)),
    }
}

async fn pass_on<E: Event, T, F: Future<Output = Result<(), Error>>>(
    listeners: Arc<Listeners<E>>,
    mut received: mpsc::Receiver<T>,
    read: impl Fn(T) -> Option<E>,
    subscribe: impl Fn() -> F,
    mut links: watch::Receiver<u64>,
    mut closed: watch::Receiver<bool>,
) {
    links.mark_unchanged();
    loop {
        // All wait for what stays there until it is taken.
        tokio::select! {
            Some(event) = received.recv() => {
                if let Some(event) = read(event) {
                    listeners.publish(&event);
                }
            }
            Ok(()) = links.changed() => {
                // Another incarnation, which knows nothing of subscriptions; what happened in between nobody knows.
                tokio::select! {
                    () = again(&subscribe, &mut links) => listeners.publish(&E::lagged(0)),
                    () = is_closed(&mut closed) => break,
                }
            }
            // Also when the connection has been dropped.
            () = is_closed(&mut closed) => break,
        }
    }
    listeners.lock().clear();
}

/// Subscribes until it is done, on whatever link is in use by then.
async fn again<F: Future<Output = Result<(), Error>>>(
    subscribe: &impl Fn() -> F,
    links: &mut watch::Receiver<u64>,
) {
    loop {
        links.mark_unchanged();
        match subscribe().await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "events do not come"),
        }
        drop(tokio::time::timeout(AGAIN_AFTER, links.changed()).await);
    }
}

async fn is_closed(closed: &mut watch::Receiver<bool>) {
    let _ = closed.wait_for(|closed| *closed).await;
}
