//! Events of the secret driver. They are followed from the first time that a client asks for them: a stack without secrets has
//! no secret driver running.

use crate::Shared;
use crate::events::{self, Kind, Message};
use crate::following::{Lost, Source};
use bulkhead_wire::channel::Caller;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{Driver, secret};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::secret::{SecretEvent, SecretRef};
use bulkhead_wire::xdr;
use std::collections::BTreeMap;

/// `virSecretEventLifecycleType`.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;

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
        kind: Kind::Secret,
        event: number,
        procedure,
        legacy: procedure,
        object: secret.uuid,
        payload,
    })
}

/// The secrets as clients were told of them; `None` before the first look.
#[derive(Default)]
pub(crate) struct Known(Option<BTreeMap<Uuid, SecretRef>>);

impl Source for Known {
    const DRIVER: Driver = Driver::Secret;
    type Event = SecretEvent;
    type Entry = SecretRef;

    fn entries(&mut self) -> &mut Option<BTreeMap<Uuid, SecretRef>> {
        &mut self.0
    }

    async fn look(&mut self, caller: &Caller) -> Result<Vec<SecretEvent>, Error> {
        let driver = secret::Client(caller.clone());
        driver.events_subscribe().await?;
        Ok(self.compare(driver.connect_list_all_secrets(1, 0).await?.secrets))
    }

    fn learn(&mut self, event: &SecretEvent) -> Result<Uuid, Lost> {
        let known = self.0.get_or_insert_default();
        match event {
            SecretEvent::Lifecycle { secret, event: UNDEFINED, .. } => drop(known.remove(&secret.uuid)),
            SecretEvent::Lifecycle { secret, .. } => drop(known.insert(secret.uuid, secret.clone())),
            SecretEvent::ValueChanged { .. } => {}
            SecretEvent::Lagged { .. } => return Err(Lost),
        }
        match event {
            SecretEvent::Lifecycle { secret, .. } | SecretEvent::ValueChanged { secret } => Ok(secret.uuid),
            SecretEvent::Lagged { .. } => Err(Lost),
        }
    }

    fn publish(shared: &Shared, event: &SecretEvent) {
        if let Some(message) = message(event) {
            events::publish(shared, &message);
        }
    }
}

impl Known {
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
        let _ = known.learn(&SecretEvent::Lifecycle { secret: secret(3), event: DEFINED, detail: 0 });
        let _ = known.learn(&SecretEvent::Lifecycle { secret: secret(1), event: UNDEFINED, detail: 0 });
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
