//! Events of one connection: subscribed to once at the driver, handed to every listener.

use bulkhead_wire::channel::Caller;
use bulkhead_wire::codec;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::domain;
use bulkhead_wire::types::DomainEvent;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Events that wait for one listener.
const QUEUE: usize = 256;

/// The listeners of a connection.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    all: Mutex<Vec<Listener>>,
    /// Held while the first listener subscribes, so that the second finds it done.
    subscribed: tokio::sync::Mutex<bool>,
}

#[derive(Debug)]
struct Listener {
    queue: mpsc::Sender<DomainEvent>,
    missed: u64,
}

impl Listeners {
    /// Adds a listener; the first one subscribes. What comes is passed on until `closed` says that the connection is.
    pub(crate) async fn listen(
        self: &Arc<Self>,
        caller: Caller,
        closed: watch::Receiver<bool>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<mpsc::Receiver<DomainEvent>, Error> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let mut subscribed = self.subscribed.lock().await;
        if !*subscribed {
            let (bodies, received) = mpsc::channel(QUEUE);
            caller.deliver_events(bodies);
            let links = caller.links();
            domain::Client(caller.clone()).events_subscribe().await?;
            runtime.spawn(pass_on(Arc::clone(self), caller, received, links, closed));
            *subscribed = true;
        }
        self.lock().push(Listener { queue, missed: 0 });
        Ok(receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an event to all. Nobody is waited for: what a slow listener misses is counted, and told.
    fn publish(&self, event: &DomainEvent) {
        self.lock().retain_mut(|listener| {
            if listener.missed > 0 {
                let missed = listener.missed;
                if listener.queue.try_send(DomainEvent::Lagged { missed }).is_ok() {
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

async fn pass_on(
    listeners: Arc<Listeners>,
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
                if let Ok(event) = codec::decode::<DomainEvent>(&body, Vec::new()) {
                    listeners.publish(&event);
                }
            }
            Ok(()) = links.changed() => {
                // Another incarnation, which knows nothing of subscriptions; what happened in between nobody knows.
                let _ = domain::Client(caller.clone()).events_subscribe().await;
                listeners.publish(&DomainEvent::Lagged { missed: 0 });
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
