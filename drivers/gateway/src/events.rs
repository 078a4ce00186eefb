//! Events of the qemu driver, to the clients that asked for them.

use crate::client::Client;
use crate::known::Known;
use crate::{Shared, lock};
use bulkhead_wire::codec;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{Header, Kind, Status, program};
use bulkhead_wire::table::{Driver, domain};
use bulkhead_wire::types::{DomainEvent, Uuid};
use bulkhead_wire::xdr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events on their way from the driver.
const QUEUE: usize = 1024;
/// Registrations of one client.
const CALLBACKS: usize = 4096;
/// libvirt's domain events are numbered from 0 to this; the older form knows those to 15.
const EVENT_LAST: i32 = 27;
const EVENT_LAST_LEGACY: i32 = 15;
/// Pause before a subscription that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Which events a registration is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// `virDomainEventID`.
    pub(crate) event: i32,
    /// Of this domain alone.
    pub(crate) domain: Option<Uuid>,
    /// In the older form, without the registration's number.
    pub(crate) legacy: bool,
}

/// A client's registrations.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Callbacks {
    /// With whether events are sent already: not before the registration was answered.
    all: BTreeMap<i32, (Filter, bool)>,
    next: i32,
}

impl Callbacks {
    /// Adds a registration, which is asleep until it is armed.
    pub(crate) fn add(&mut self, filter: &Filter) -> Result<i32, Error> {
        let last = if filter.legacy { EVENT_LAST_LEGACY } else { EVENT_LAST };
        if !(0..=last).contains(&filter.event) {
            let message = format!("unsupported event ID {}", filter.event);
            return Err(Error::new(Code::INTERNAL, Origin::RPC, message));
        }
        if self.all.values().any(|(known, _)| known == filter) {
            let message = "invalid argument: event callback already tracked";
            return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
        }
        if self.all.len() >= CALLBACKS {
            let message = format!("operation failed: this client has {CALLBACKS} event callbacks already");
            return Err(Error::new(Code::OPERATION_FAILED, Origin::RPC, message));
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.all.insert(id, (filter.clone(), false));
        Ok(id)
    }

    /// Events are sent from now on.
    pub(crate) fn arm(&mut self, id: i32) {
        if let Some((_, armed)) = self.all.get_mut(&id) {
            *armed = true;
        }
    }

    /// As another process left them: whatever it answered is in force.
    pub(crate) fn arm_all(&mut self) {
        self.all.values_mut().for_each(|(_, armed)| *armed = true);
    }

    pub(crate) fn remove(&mut self, id: i32) -> Result<(), Error> {
        match self.all.remove(&id) {
            Some(_) => Ok(()),
            None => {
                let message = format!("domain event callback {id} not registered");
                Err(Error::new(Code::INTERNAL, Origin::RPC, message))
            }
        }
    }

    pub(crate) fn remove_legacy(&mut self, event: i32) -> Result<(), Error> {
        let filter = Filter { event, domain: None, legacy: true };
        let id = self.all.iter().find(|(_, (known, _))| *known == filter).map(|(id, _)| *id);
        match id {
            Some(id) => self.remove(id),
            None => {
                let message = format!("domain event {event} not registered");
                Err(Error::new(Code::INTERNAL, Origin::RPC, message))
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
    }
}

/// An event as it travels: its number, its message in both forms, and what follows the registration's number.
struct Message {
    event: i32,
    procedure: i32,
    legacy: i32,
    domain: Uuid,
    payload: Vec<u8>,
}

impl Message {
    fn of(event: &DomainEvent) -> Option<Self> {
        let encode = |value: Result<(Vec<u8>, _), xdr::XdrError>| value.ok().map(|(bytes, _)| bytes);
        let (number, procedure, legacy, domain, payload) = match event {
            DomainEvent::Lifecycle { domain, event, detail } => {
                (0, 318, 107, domain, encode(xdr::encode(&(domain, event, detail)))?)
            }
            DomainEvent::Reboot { domain } => (1, 319, 169, domain, encode(xdr::encode(domain))?),
            DomainEvent::Watchdog { domain, action } => {
                (3, 321, 171, domain, encode(xdr::encode(&(domain, action)))?)
            }
            DomainEvent::TrayChange { domain, alias, reason } => {
                (10, 328, 268, domain, encode(xdr::encode(&(domain, alias, reason)))?)
            }
            // The newer ones have no older form.
            DomainEvent::DeviceRemoved { domain, alias } => {
                (15, 333, 311, domain, encode(xdr::encode(&(domain, alias)))?)
            }
            DomainEvent::DeviceAdded { domain, alias } => {
                (19, 354, 0, domain, encode(xdr::encode(&(domain, alias)))?)
            }
            DomainEvent::DeviceRemovalFailed { domain, alias } => {
                (22, 367, 0, domain, encode(xdr::encode(&(domain, alias)))?)
            }
            DomainEvent::Lagged { .. } => return None,
        };
        Some(Self { event: number, procedure, legacy, domain: domain.uuid, payload })
    }
}

impl Client {
    fn tell(&self, message: &Message) {
        let callbacks = lock(&self.callbacks);
        let matching = callbacks.all.iter().filter(|(_, (filter, armed))| {
            *armed
                && filter.event == message.event
                && filter.domain.is_none_or(|domain| domain == message.domain)
        });
        for (id, (filter, _)) in matching {
            let mut payload = if filter.legacy { Vec::new() } else { id.to_be_bytes().to_vec() };
            payload.extend(&message.payload);
            let header = Header {
                program: program::REMOTE,
                version: 1,
                procedure: if filter.legacy { message.legacy } else { message.procedure },
                kind: Some(Kind::Message),
                serial: 1,
                status: Status::Ok as i32,
            };
            if self.outbox.message(header, &payload).is_err() {
                // libvirt's protocol has no word for events that were lost: who would miss some is let go.
                self.cut_off();
                return;
            }
        }
    }
}

fn publish(shared: &Shared, event: &DomainEvent) {
    if let Some(message) = Message::of(event) {
        for client in lock(&shared.clients).values() {
            client.tell(&message);
        }
    }
}

/// Follows the driver's events, over its deaths: what changed while nobody told is found out and told.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let caller = shared.caller(Driver::Qemu);
    let driver = domain::Client(caller.clone());
    let (queue, mut received) = mpsc::channel(QUEUE);
    caller.deliver_events(queue);
    let mut links = caller.links();
    let mut known = Known::default();
    loop {
        links.mark_unchanged();
        let subscribed = async {
            driver.events_subscribe().await?;
            driver.domains_overview().await
        };
        match subscribed.await {
            Ok(overview) => {
                for event in known.compare(overview) {
                    publish(&shared, &event);
                }
                shared.subscribed.send_replace(true);
            }
            Err(error) => {
                tracing::warn!(%error, "events of the qemu driver");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
        }
        loop {
            // Both wait for what stays there until it is taken.
            tokio::select! {
                biased;
                Some(body) = received.recv() => {
                    match codec::decode::<DomainEvent>(&body, Vec::new()) {
                        Ok(DomainEvent::Lagged { .. }) | Err(_) => break,
                        Ok(event) => {
                            known.learn(&event);
                            publish(&shared, &event);
                        }
                    }
                }
                changed = links.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_wire::types::DomainRef;

    fn filter(event: i32, domain: Option<Uuid>) -> Filter {
        Filter { event, domain, legacy: false }
    }

    #[test]
    fn a_registration_is_one_of_its_kind_and_ends_once() {
        let mut callbacks = Callbacks::default();
        let all = callbacks.add(&filter(0, None)).unwrap();
        let one = callbacks.add(&filter(0, Some(Uuid([1; 16])))).unwrap();
        assert_ne!(all, one);
        assert_eq!(callbacks.add(&filter(0, None)).unwrap_err().code, Code::INVALID_ARG);
        assert!(callbacks.add(&filter(28, None)).unwrap_err().message.contains("unsupported event ID 28"));
        callbacks.remove(all).unwrap();
        assert!(callbacks.remove(all).unwrap_err().message.contains("not registered"));
    }

    #[test]
    fn a_message_is_what_libvirt_calls_it() {
        let domain = DomainRef { name: "web".to_owned(), uuid: Uuid([7; 16]), id: 3 };
        let message = Message::of(&DomainEvent::Lifecycle { domain, event: 2, detail: 0 }).unwrap();
        assert_eq!((message.event, message.procedure, message.legacy), (0, 318, 107));
        assert_eq!(message.payload.len(), 4 + 4 + 16 + 4 + 8);
    }
}
