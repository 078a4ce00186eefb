//! Registrations for events, and the events as they travel to the clients that asked for them.

use crate::client::Client;
use crate::{Shared, lock, monitor};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{Header, Kind as FrameKind, Status, program, undecodable};
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::network::NetworkRef;
use bulkhead_wire::types::secret::SecretRef;
use bulkhead_wire::types::storage::PoolRef;
use bulkhead_wire::types::{DomainEvent, DomainRef, Uuid};
use bulkhead_wire::xdr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Registrations of one client.
const CALLBACKS: usize = 4096;
/// libvirt's domain events are numbered from 0 to this; the older form knows those to 15.
const EVENT_LAST: i32 = 27;
const EVENT_LAST_LEGACY: i32 = 15;

/// What kind of object events are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Domains.
    Domain,
    /// Pools.
    Pool,
    /// Secrets.
    Secret,
    /// Virtual networks.
    Network,
    /// Devices of the host, which have no driver yet: nothing happens to them.
    NodeDevice,
}

impl Kind {
    /// As errors name it.
    fn name(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Pool => "storage pool",
            Self::Secret => "secret",
            Self::Network => "network",
            Self::NodeDevice => "node device",
        }
    }

    /// Who has them.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Self::Domain => Driver::Qemu.name(),
            Self::Pool => Driver::Storage.name(),
            Self::Secret => Driver::Secret.name(),
            Self::Network => Driver::Network.name(),
            Self::NodeDevice => "node device",
        }
    }

    /// The highest number of its events.
    fn last(self) -> i32 {
        match self {
            Self::Domain => EVENT_LAST,
            Self::Pool | Self::Secret | Self::Network | Self::NodeDevice => 1,
        }
    }

    /// The arguments of a registration: the event, and the one object that it is for, if it is for one alone.
    pub(crate) fn decode(self, payload: &[u8]) -> Result<(i32, Option<Uuid>), Error> {
        fn arguments<T: DeserializeOwned>(payload: &[u8]) -> Result<(i32, Option<T>), Error> {
            xdr::decode(payload, Vec::new()).map(|(value, _)| value).map_err(|_error| undecodable())
        }
        Ok(match self {
            Self::Domain => arguments::<DomainRef>(payload)
                .map(|(event, domain)| (event, domain.map(|domain| domain.uuid)))?,
            Self::Pool => {
                arguments::<PoolRef>(payload).map(|(event, pool)| (event, pool.map(|pool| pool.uuid)))?
            }
            Self::Secret => arguments::<SecretRef>(payload)
                .map(|(event, secret)| (event, secret.map(|secret| secret.uuid)))?,
            Self::Network => arguments::<NetworkRef>(payload)
                .map(|(event, network)| (event, network.map(|network| network.uuid)))?,
            // Known by name; since none has events, which one does not matter.
            Self::NodeDevice => arguments::<String>(payload).map(|(event, _)| (event, None))?,
        })
    }
}

/// Which events a registration is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// Of which kind of object.
    pub(crate) kind: Kind,
    /// `virDomainEventID`, or that of the driver's other kind of object.
    pub(crate) event: i32,
    /// Of this object alone.
    pub(crate) object: Option<Uuid>,
    /// In the older form, without the registration's number.
    pub(crate) legacy: bool,
}

/// A client's registrations.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Callbacks {
    /// With whether events are sent already: not before the registration was answered.
    all: BTreeMap<i32, (Filter, bool)>,
    /// For the monitor's own events.
    monitor: monitor::Registrations,
    next: i32,
}

impl Callbacks {
    /// Adds a registration, which is asleep until it is armed.
    pub(crate) fn add(&mut self, filter: &Filter) -> Result<i32, Error> {
        let last = if filter.legacy { EVENT_LAST_LEGACY } else { filter.kind.last() };
        let kind = match filter.kind {
            Kind::Domain => String::new(),
            kind => format!("{} ", kind.name()),
        };
        if !(0..=last).contains(&filter.event) {
            let message = format!("unsupported {kind}event ID {}", filter.event);
            return Err(Error::new(Code::INTERNAL, Origin::RPC, message));
        }
        if self.all.values().any(|(known, _)| known == filter) {
            let message = "invalid argument: event callback already tracked";
            return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
        }
        let id = self.number()?;
        self.all.insert(id, (filter.clone(), false));
        Ok(id)
    }

    /// The number of one more registration, if there may be one more.
    fn number(&mut self) -> Result<i32, Error> {
        if self.all.len() + self.monitor.len() >= CALLBACKS {
            let message = format!("operation failed: this client has {CALLBACKS} event callbacks already");
            return Err(Error::new(Code::OPERATION_FAILED, Origin::RPC, message));
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        Ok(id)
    }

    /// Adds a registration for the monitor's own events, asleep too.
    pub(crate) fn add_monitor(&mut self, filter: monitor::Filter) -> Result<i32, Error> {
        let id = self.number()?;
        self.monitor.add(id, filter);
        Ok(id)
    }

    pub(crate) fn remove_monitor(&mut self, id: i32) -> Result<(), Error> {
        self.monitor.remove(id)
    }

    /// Drops a registration of whatever kind.
    pub(crate) fn drop_one(&mut self, id: i32) {
        self.all.remove(&id);
        drop(self.monitor.remove(id));
    }

    pub(crate) fn monitor(&self) -> &monitor::Registrations {
        &self.monitor
    }

    /// Events are sent from now on.
    pub(crate) fn arm(&mut self, id: i32) {
        if let Some((_, armed)) = self.all.get_mut(&id) {
            *armed = true;
        }
        self.monitor.arm(id);
    }

    /// As another process left them: whatever it answered is in force.
    pub(crate) fn arm_all(&mut self) {
        self.all.values_mut().for_each(|(_, armed)| *armed = true);
        self.monitor.arm_all();
    }

    /// Is there one for events of this kind?
    pub(crate) fn concern(&self, kind: Kind) -> bool {
        self.all.values().any(|(filter, _)| filter.kind == kind)
    }

    pub(crate) fn remove(&mut self, kind: Kind, id: i32) -> Result<(), Error> {
        if self.all.get(&id).is_some_and(|(filter, _)| filter.kind == kind) {
            self.all.remove(&id);
            return Ok(());
        }
        let message = format!("{} event callback {id} not registered", kind.name());
        Err(Error::new(Code::INTERNAL, Origin::RPC, message))
    }

    pub(crate) fn remove_legacy(&mut self, event: i32) -> Result<(), Error> {
        let filter = Filter { kind: Kind::Domain, event, object: None, legacy: true };
        let id = self.all.iter().find(|(_, (known, _))| *known == filter).map(|(id, _)| *id);
        match id {
            Some(id) => self.remove(Kind::Domain, id),
            None => {
                let message = format!("domain event {event} not registered");
                Err(Error::new(Code::INTERNAL, Origin::RPC, message))
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.monitor.clear();
    }
}

/// An event as it travels: its number, its message in both forms, and what follows the registration's number.
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) event: i32,
    pub(crate) procedure: i32,
    pub(crate) legacy: i32,
    pub(crate) object: Uuid,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// The message for an event of a domain.
    pub(crate) fn of(event: &DomainEvent) -> Option<Self> {
        let encode = |value: Result<(Vec<u8>, _), xdr::XdrError>| value.ok().map(|(bytes, _)| bytes);
        let (number, procedure, legacy, domain, payload) = match event {
            DomainEvent::Lifecycle { domain, event, detail } => {
                (0, 318, 107, domain, encode(xdr::encode(&(domain, event, detail)))?)
            }
            DomainEvent::Reboot { domain } => (1, 319, 169, domain, encode(xdr::encode(domain))?),
            DomainEvent::Watchdog { domain, action } => {
                (3, 321, 171, domain, encode(xdr::encode(&(domain, action)))?)
            }
            // The monitor's own go another way.
            DomainEvent::Monitor { .. } | DomainEvent::Lagged { .. } => return None,
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
        };
        Some(Self { kind: Kind::Domain, event: number, procedure, legacy, object: domain.uuid, payload })
    }
}

impl Client {
    pub(crate) fn tell(&self, message: &Message) {
        let callbacks = lock(&self.callbacks);
        let matching = callbacks.all.iter().filter(|(_, (filter, armed))| {
            *armed
                && (filter.kind, filter.event) == (message.kind, message.event)
                && filter.object.is_none_or(|object| object == message.object)
        });
        for (id, (filter, _)) in matching {
            let mut payload = if filter.legacy { Vec::new() } else { id.to_be_bytes().to_vec() };
            payload.extend(&message.payload);
            let header = Header {
                program: program::REMOTE,
                version: 1,
                procedure: if filter.legacy { message.legacy } else { message.procedure },
                kind: Some(FrameKind::Message),
                serial: 1,
                status: Status::Ok as i32,
            };
            if self.outbox.message(header, &payload).is_err() {
                // libvirt's protocol has no word for events that were lost: who would miss some is let go.
                self.cut_off("it does not read its events");
                return;
            }
        }
    }
}

/// Tells it to all that asked for it.
pub(crate) fn publish(shared: &Shared, message: &Message) {
    for client in lock(&shared.clients).values() {
        client.tell(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_wire::types::DomainRef;

    fn filter(event: i32, object: Option<Uuid>) -> Filter {
        Filter { kind: Kind::Domain, event, object, legacy: false }
    }

    #[test]
    fn a_registration_is_one_of_its_kind_and_ends_once() {
        let mut callbacks = Callbacks::default();
        let all = callbacks.add(&filter(0, None)).unwrap();
        let one = callbacks.add(&filter(0, Some(Uuid([1; 16])))).unwrap();
        assert_ne!(all, one);
        assert_eq!(callbacks.add(&filter(0, None)).unwrap_err().code, Code::INVALID_ARG);
        assert!(callbacks.add(&filter(28, None)).unwrap_err().message.contains("unsupported event ID 28"));
        assert!(callbacks.remove(Kind::Secret, all).is_err());
        callbacks.remove(Kind::Domain, all).unwrap();
        assert!(callbacks.remove(Kind::Domain, all).unwrap_err().message.contains("not registered"));
    }

    #[test]
    fn a_message_is_what_libvirt_calls_it() {
        let domain = DomainRef { name: "web".to_owned(), uuid: Uuid([7; 16]), id: 3 };
        let message = Message::of(&DomainEvent::Lifecycle { domain, event: 2, detail: 0 }).unwrap();
        assert_eq!((message.event, message.procedure, message.legacy), (0, 318, 107));
        assert_eq!(message.payload.len(), 4 + 4 + 16 + 4 + 8);
    }
}
