//! Events of the secret driver. They are followed from the first time that a client asks for them: a stack without secrets has
//! no secret driver running.

use crate::events::{AGAIN_AFTER, Message, QUEUE};
use crate::{Shared, lock};
use bulkhead_wire::channel::Caller;
use bulkhead_wire::codec;
use bulkhead_wire::table::{Driver, secret};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::secret::{SecretEvent, SecretRef};
use bulkhead_wire::xdr;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OnceCell, mpsc, watch};

/// `virSecretEventLifecycleType`.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;

/// How far following has come.
#[derive(Default)]
pub(crate) struct Following {
    /// The channel, once the driver was asked for.
    pub(crate) wanted: OnceCell<Caller>,
    begun: AtomicBool,
    subscribed: watch::Sender<bool>,
}

/// Sees to it that the driver's events are followed; what is returned tells when they are.
pub(crate) fn begin(shared: &Arc<Shared>) -> watch::Receiver<bool> {
    if !shared.secret_events.begun.swap(true, Ordering::Relaxed) {
        tokio::spawn(follow(Arc::clone(shared)));
    }
    shared.secret_events.subscribed.subscribe()
}

fn message(event: &SecretEvent) -> Option<Message> {
    let (number, procedure, secret, encoded) = match event {
        SecretEvent::Lifecycle { secret, event, detail } => {
            (0, 382, secret, xdr::encode(&(secret, event, detail)))
        }
        SecretEvent::ValueChanged { secret } => (1, 383, secret, xdr::encode(secret)),
        SecretEvent::Lagged { .. } => return None,
    };
    let (payload, _) = encoded.ok()?;
    // There is no older form of these.
    Some(Message {
        driver: Driver::Secret,
        event: number,
        procedure,
        legacy: procedure,
        object: secret.uuid,
        payload,
    })
}

fn publish(shared: &Shared, event: &SecretEvent) {
    if let Some(message) = message(event) {
        for client in lock(&shared.clients).values() {
            client.tell(&message);
        }
    }
}

/// The secrets as clients were told of them; `None` before the first look.
#[derive(Default)]
struct Known(Option<BTreeMap<Uuid, SecretRef>>);

impl Known {
    fn learn(&mut self, event: &SecretEvent) {
        let Some(known) = &mut self.0 else { return };
        match event {
            SecretEvent::Lifecycle { secret, event: UNDEFINED, .. } => drop(known.remove(&secret.uuid)),
            SecretEvent::Lifecycle { secret, .. } => drop(known.insert(secret.uuid, secret.clone())),
            SecretEvent::ValueChanged { .. } | SecretEvent::Lagged { .. } => {}
        }
    }

    /// Takes in how things are now; gives the events that tell the difference. Whether a value changed unseen nobody can say.
    fn compare(&mut self, list: Vec<SecretRef>) -> Vec<SecretEvent> {
        let now: BTreeMap<_, _> = list.into_iter().map(|secret| (secret.uuid, secret)).collect();
        let told =
            |secret: &SecretRef, event| SecretEvent::Lifecycle { secret: secret.clone(), event, detail: 0 };
        let mut events = Vec::new();
        if let Some(before) = &self.0 {
            let gone = before.values().filter(|secret| !now.contains_key(&secret.uuid));
            events.extend(gone.map(|secret| told(secret, UNDEFINED)));
            let new = now.values().filter(|secret| !before.contains_key(&secret.uuid));
            events.extend(new.map(|secret| told(secret, DEFINED)));
        }
        self.0 = Some(now);
        events
    }
}

async fn follow(shared: Arc<Shared>) {
    let caller = loop {
        match shared.caller_on_demand(Driver::Secret).await {
            Ok(caller) => break caller,
            Err(error) => {
                tracing::warn!(%error, "the secret driver");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    };
    let driver = secret::Client(caller.clone());
    let (queue, mut received) = mpsc::channel(QUEUE);
    caller.deliver_events(queue);
    let mut links = caller.links();
    let mut known = Known::default();
    loop {
        links.mark_unchanged();
        let subscribed = async {
            driver.events_subscribe().await?;
            driver.connect_list_all_secrets(1, 0).await
        };
        match subscribed.await {
            Ok(list) => {
                for event in known.compare(list.secrets) {
                    publish(&shared, &event);
                }
                shared.secret_events.subscribed.send_replace(true);
            }
            Err(error) => {
                tracing::warn!(%error, "events of the secret driver");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        }
        loop {
            // Both wait for what stays there until it is taken.
            tokio::select! {
                biased;
                Some(body) = received.recv() => match codec::decode::<SecretEvent>(&body, Vec::new()) {
                    Ok(SecretEvent::Lagged { .. }) | Err(_) => break,
                    Ok(event) => {
                        known.learn(&event);
                        publish(&shared, &event);
                    }
                },
                changed = links.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(number: u8) -> SecretRef {
        SecretRef { uuid: Uuid([number; 16]), usage_type: 1, usage_id: format!("/{number}") }
    }

    #[test]
    fn what_changed_unseen_is_told_once() {
        let mut known = Known::default();
        assert!(known.compare(vec![secret(1), secret(2)]).is_empty());
        known.learn(&SecretEvent::Lifecycle { secret: secret(3), event: DEFINED, detail: 0 });
        known.learn(&SecretEvent::Lifecycle { secret: secret(1), event: UNDEFINED, detail: 0 });
        let told = known.compare(vec![secret(3), secret(4)]);
        let lifecycle = |secret, event| SecretEvent::Lifecycle { secret, event, detail: 0 };
        assert_eq!(told, [lifecycle(secret(2), UNDEFINED), lifecycle(secret(4), DEFINED)]);
        assert!(known.compare(vec![secret(3), secret(4)]).is_empty());
    }

    #[test]
    fn a_message_is_what_libvirt_calls_it() {
        let changed = message(&SecretEvent::ValueChanged { secret: secret(1) }).unwrap();
        assert_eq!((changed.event, changed.procedure, changed.payload.len()), (1, 383, 16 + 4 + 4 + 4));
    }
}
