//! Events of QEMU's own monitor, in the `qemu` program's form, to the clients that asked for them.

use crate::client::Client;
use crate::{Shared, lock};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::remote::{Header, Kind, Status, program};
use bulkhead_wire::types::{DomainEvent, Uuid};
use bulkhead_wire::xdr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The event's name is a pattern (`VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX`).
const REGEX: u32 = 1;
/// Capitals and small letters are the same (`VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_NOCASE`).
const NOCASE: u32 = 2;
/// The number of the one event that the program has.
const EVENT: i32 = 6;

/// Which events a registration is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// Of this domain alone.
    domain: Option<Uuid>,
    /// Of this name alone.
    event: Option<String>,
    ignore_case: bool,
}

impl Filter {
    pub(crate) fn new(domain: Option<Uuid>, event: Option<String>, flags: u32) -> Result<Self, Error> {
        let function = "virConnectDomainQemuMonitorEventRegister";
        if flags & !(REGEX | NOCASE) != 0 {
            let message =
                format!("unsupported flags ({:#x}) in function {function}", flags & !(REGEX | NOCASE));
            return Err(Error::new(Code::INVALID_ARG, Origin::NONE, message));
        }
        if flags & REGEX != 0 {
            let message = format!(
                "argument unsupported: {function} matches no patterns here; name one event, or none to be told of all"
            );
            return Err(Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::NONE, message));
        }
        Ok(Self { domain, event, ignore_case: flags & NOCASE != 0 })
    }

    fn matches(&self, domain: Uuid, event: &str) -> bool {
        let same = |name: &String| {
            if self.ignore_case { name.eq_ignore_ascii_case(event) } else { name == event }
        };
        self.domain.is_none_or(|wanted| wanted == domain) && self.event.as_ref().is_none_or(same)
    }
}

/// A client's registrations, with whether events are sent already.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Registrations(BTreeMap<i32, (Filter, bool)>);

impl Registrations {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn add(&mut self, id: i32, filter: Filter) {
        self.0.insert(id, (filter, false));
    }

    pub(crate) fn remove(&mut self, id: i32) -> Result<(), Error> {
        match self.0.remove(&id) {
            Some(_) => Ok(()),
            None => {
                let message = format!("qemu monitor event callback {id} not registered");
                Err(Error::new(Code::INTERNAL, Origin::RPC, message))
            }
        }
    }

    pub(crate) fn arm(&mut self, id: i32) {
        if let Some((_, armed)) = self.0.get_mut(&id) {
            *armed = true;
        }
    }

    pub(crate) fn arm_all(&mut self) {
        self.0.values_mut().for_each(|(_, armed)| *armed = true);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn matching(&self, domain: Uuid, event: &str) -> impl Iterator<Item = i32> {
        let told = self.0.iter().filter(move |(_, (filter, armed))| *armed && filter.matches(domain, event));
        told.map(|(id, _)| *id)
    }
}

impl Client {
    fn tell_monitor(&self, domain: Uuid, event: &str, payload: &[u8]) {
        for id in lock(&self.callbacks).monitor().matching(domain, event) {
            let header = Header {
                program: program::QEMU,
                version: 1,
                procedure: EVENT,
                kind: Some(Kind::Message),
                serial: 1,
                status: Status::Ok as i32,
            };
            let message = [&id.to_be_bytes()[..], payload].concat();
            if self.outbox.message(header, &message).is_err() {
                return self.cut_off("it does not read its events");
            }
        }
    }
}

/// Tells all that asked for it.
pub(crate) fn publish(shared: &Shared, told: &DomainEvent) {
    let DomainEvent::Monitor { domain, event, seconds, micros, details } = told else { return };
    let Ok((payload, _)) = xdr::encode(&(domain, event, seconds, micros, details)) else { return };
    for client in lock(&shared.clients).values() {
        client.tell_monitor(domain.uuid, event, &payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_for_a_domain_a_name_or_all() {
        let (web, other) = (Uuid([1; 16]), Uuid([2; 16]));
        let all = Filter::new(None, None, 0).unwrap();
        let stop = Filter::new(None, Some("STOP".to_owned()), 0).unwrap();
        let small = Filter::new(Some(web), Some("stop".to_owned()), NOCASE).unwrap();
        assert!(all.matches(web, "RESUME") && stop.matches(other, "STOP") && small.matches(web, "STOP"));
        assert!(!stop.matches(web, "RESUME") && !small.matches(other, "STOP"));
        assert_eq!(
            Filter::new(None, Some("S.*".to_owned()), REGEX).unwrap_err().code,
            Code::ARGUMENT_UNSUPPORTED
        );
        assert_eq!(Filter::new(None, None, 4).unwrap_err().code, Code::INVALID_ARG);
    }

    #[test]
    fn nothing_is_told_before_the_registration_is_answered() {
        let mut registrations = Registrations::default();
        registrations.add(3, Filter::new(None, None, 0).unwrap());
        assert_eq!(registrations.matching(Uuid([0; 16]), "STOP").count(), 0);
        registrations.arm(3);
        assert_eq!(registrations.matching(Uuid([0; 16]), "STOP").collect::<Vec<_>>(), [3]);
        registrations.remove(3).unwrap();
        assert!(registrations.remove(3).is_err());
    }
}
