//! Events of one connection: subscribed to once at the driver, handed to every listener.

use bulkhead_wire::channel::Caller;
use bulkhead_wire::codec;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{domain, secret};
use bulkhead_wire::types::DomainEvent;
use bulkhead_wire::types::secret::SecretEvent;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Events that wait for one listener.
const QUEUE: usize = 256;

/// The events of one driver.
pub(crate) trait Event: Clone + DeserializeOwned + Send + 'static {
    /// The event that tells how many others are lost.
    fn lagged(missed: u64) -> Self;

    /// Has the driver send its events over this channel.
    fn subscribe(caller: Caller) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Event for DomainEvent {
    fn lagged(missed: u64) -> Self {
        Self::Lagged { missed }
    }

    async fn subscribe(caller: Caller) -> Result<(), Error> {
        domain::Client(caller).events_subscribe().await
    }
}

impl Event for SecretEvent {
    fn lagged(missed: u64) -> Self {
        Self::Lagged { missed }
    }

    async fn subscribe(caller: Caller) -> Result<(), Error> {
        secret::Client(caller).events_subscribe().await
    }
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
            let (bodies, received) = mpsc::channel(QUEUE);
            caller.deliver_events(bodies);
            let links = caller.links();
            E::subscribe(caller.clone()).await?;
            runtime.spawn(pass_on(Arc::clone(self), caller, received, links, closed));
            *subscribed = true;
        }
        self.lock().push(Listener { queue, missed: 0 });
        Ok(receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Listener<E>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
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

async fn pass_on<E: Event>(
    listeners: Arc<Listeners<E>>,
    caller: Caller,
    mut received: mpsc::Receiver<Vec<u8>>,
    mut links: watch::Receiver<u64>,
    mut closed: watch::Receiver<bool>,
) {
    links.mark_unchanged();
    loop {
        // All wait for what stays there until it is taken.
        tokio::select! {
            Some(body) = received.recv() => {
                if let Ok(event) = codec::decode::<E>(&body, Vec::new()) {
                    listeners.publish(&event);
                }
            }
            Ok(()) = links.changed() => {
                // Another incarnation, which knows nothing of subscriptions; what happened in between nobody knows.
                let _ = E::subscribe(caller.clone()).await;
                listeners.publish(&E::lagged(0));
            }
            // Also when the connection has been dropped.
            () = is_closed(&mut closed) => break,
        }
    }
    listeners.lock().clear();
}

async fn is_closed(closed: &mut watch::Receiver<bool>) {
    let _ = closed.wait_for(|closed| *closed).await;
}
