//! Events of networks.

use crate::Shared;
use crate::events::{self, Kind, Message};
use crate::following::{Lost, Source};
use bulkhead_wire::channel::Caller;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{Driver, network};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::network::{NetworkEvent, NetworkOverview, NetworkRef};
use bulkhead_wire::xdr;
use std::collections::BTreeMap;

/// `virNetworkEventLifecycleType`.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;
const STARTED: i32 = 2;
const STOPPED: i32 = 3;

/// The networks as clients were told of them; `None` before the first look.
#[derive(Debug, Default)]
pub(crate) struct Known(Option<BTreeMap<Uuid, NetworkOverview>>);

impl Source for Known {
    const DRIVER: Driver = Driver::Network;
    type Event = NetworkEvent;
    type Entry = NetworkOverview;

    fn entries(&mut self) -> &mut Option<BTreeMap<Uuid, NetworkOverview>> {
        &mut self.0
    }

    async fn look(&mut self, caller: &Caller) -> Result<Vec<NetworkEvent>, Error> {
        let driver = network::Client(caller.clone());
        driver.events_subscribe().await?;
        Ok(self.compare(driver.networks_overview().await?))
    }

    fn learn(&mut self, event: &NetworkEvent) -> Result<Uuid, Lost> {
        let (network, event) = match event {
            NetworkEvent::Lifecycle { network, event, .. } => (network, event),
            NetworkEvent::Metadata { network, .. } => return Ok(network.uuid),
            NetworkEvent::Lagged { .. } => return Err(Lost),
        };
        let known = self.0.get_or_insert_default();
        let entry = known.entry(network.uuid).or_insert_with(|| NetworkOverview {
            network: network.clone(),
            active: false,
            persistent: false,
            degraded: None,
        });
        match *event {
            DEFINED => entry.persistent = true,
            UNDEFINED => entry.persistent = false,
            STARTED => entry.active = true,
            STOPPED => entry.active = false,
            _ => {}
        }
        if !entry.active && !entry.persistent {
            known.remove(&network.uuid);
        }
        Ok(network.uuid)
    }

    fn publish(shared: &Shared, event: &NetworkEvent) {
        if let Some(message) = message(event) {
            events::publish(shared, &message);
        }
    }
}

impl Known {
    /// Takes in how things are now; gives the events that tell the difference. Whether metadata
    /// changed unseen nobody can say.
    fn compare(&mut self, overview: Vec<NetworkOverview>) -> Vec<NetworkEvent> {
        let now: BTreeMap<_, _> =
            overview.into_iter().map(|network| (network.network.uuid, network)).collect();
        let before = self.0.replace(now);
        let (Some(before), Some(now)) = (before, &self.0) else { return Vec::new() };
        let mut events = Vec::new();
        let mut tell = |network: &NetworkRef, event| {
            events.push(NetworkEvent::Lifecycle { network: network.clone(), event, detail: 0 });
        };
        for (uuid, old) in &before {
            let new = now.get(uuid);
            if old.active && !new.is_some_and(|new| new.active) {
                tell(&old.network, STOPPED);
            }
            if old.persistent && !new.is_some_and(|new| new.persistent) {
                tell(&old.network, UNDEFINED);
            }
        }
        for (uuid, new) in now {
            let old = before.get(uuid);
            if new.persistent && !old.is_some_and(|old| old.persistent) {
                tell(&new.network, DEFINED);
            }
            if new.active && !old.is_some_and(|old| old.active) {
                tell(&new.network, STARTED);
            }
        }
        events
    }
}

fn message(event: &NetworkEvent) -> Option<Message> {
    let (number, procedure, network, encoded) = match event {
        NetworkEvent::Lifecycle { network, event, detail } => {
            (0, 315, network, xdr::encode(&(network, event, detail)))
        }
        NetworkEvent::Metadata { network, kind, uri } => {
            (1, 446, network, xdr::encode(&(network, kind, uri)))
        }
        NetworkEvent::Lagged { .. } => return None,
    };
    let (payload, _) = encoded.ok()?;
    // There is no older form of these.
    Some(Message {
        kind: Kind::Network,
        event: number,
        procedure,
        legacy: procedure,
        object: network.uuid,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(number: u8, active: bool, persistent: bool) -> NetworkOverview {
        NetworkOverview {
            network: NetworkRef { name: format!("n{number}"), uuid: Uuid([number; 16]) },
            active,
            persistent,
            degraded: None,
        }
    }

    fn told(events: &[NetworkEvent]) -> Vec<(String, i32)> {
        let one = |event: &NetworkEvent| match event {
            NetworkEvent::Lifecycle { network, event, .. } => (network.name.clone(), *event),
            other => panic!("{other:?}"),
        };
        events.iter().map(one).collect()
    }

    #[test]
    fn what_changed_unseen_is_told_once() {
        let mut known = Known::default();
        assert!(
            known
                .compare(vec![network(1, true, true), network(2, true, false), network(3, false, true)])
                .is_empty()
        );
        let started =
            NetworkEvent::Lifecycle { network: network(3, true, true).network, event: STARTED, detail: 0 };
        assert_eq!(known.learn(&started), Ok(Uuid([3; 16])));
        let now = || vec![network(1, false, true), network(3, true, true), network(4, true, true)];
        let name = |number: u8| format!("n{number}");
        let expected = [(name(1), STOPPED), (name(2), STOPPED), (name(4), DEFINED), (name(4), STARTED)];
        assert_eq!(told(&known.compare(now())), expected);
        assert!(known.compare(now()).is_empty());
        assert_eq!(known.learn(&NetworkEvent::Lagged { missed: 1 }), Err(Lost));
    }

    #[test]
    fn a_message_is_what_libvirt_calls_it() {
        let network = network(1, true, true).network;
        let changed = message(&NetworkEvent::Metadata { network, kind: 1, uri: None }).unwrap();
        assert_eq!((changed.event, changed.procedure, changed.payload.len()), (1, 446, 4 + 4 + 16 + 4 + 4));
    }
}
