//! Events of pools.

use crate::Shared;
use crate::events::{self, Kind, Message};
use crate::following::{Lost, Source};
use bulkhead_wire::channel::Caller;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{Driver, storage};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::storage::{PoolEvent, PoolOverview, PoolRef};
use bulkhead_wire::xdr;
use std::collections::BTreeMap;

/// `virStoragePoolEventLifecycleType`.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;
const STARTED: i32 = 2;
const STOPPED: i32 = 3;

/// The pools as clients were told of them; `None` before the first look.
#[derive(Debug, Default)]
pub(crate) struct Known(Option<BTreeMap<Uuid, PoolOverview>>);

impl Source for Known {
    const DRIVER: Driver = Driver::Storage;
    type Event = PoolEvent;
    type Entry = PoolOverview;

    fn entries(&mut self) -> &mut Option<BTreeMap<Uuid, PoolOverview>> {
        &mut self.0
    }

    async fn look(&mut self, caller: &Caller) -> Result<Vec<PoolEvent>, Error> {
        let driver = storage::Client(caller.clone());
        driver.events_subscribe().await?;
        Ok(self.compare(driver.pools_overview().await?))
    }

    fn learn(&mut self, event: &PoolEvent) -> Result<Uuid, Lost> {
        let (pool, event) = match event {
            PoolEvent::Lifecycle { pool, event, .. } => (pool, event),
            PoolEvent::Refresh { pool } => return Ok(pool.uuid),
            PoolEvent::Lagged { .. } => return Err(Lost),
        };
        let known = self.0.get_or_insert_default();
        let entry = known.entry(pool.uuid).or_insert_with(|| PoolOverview {
            pool: pool.clone(),
            active: false,
            persistent: false,
        });
        match *event {
            DEFINED => entry.persistent = true,
            UNDEFINED => entry.persistent = false,
            STARTED => entry.active = true,
            STOPPED => entry.active = false,
            _ => {}
        }
        if !entry.active && !entry.persistent {
            known.remove(&pool.uuid);
        }
        Ok(pool.uuid)
    }

    fn publish(shared: &Shared, event: &PoolEvent) {
        if let Some(message) = message(event) {
            events::publish(shared, &message);
        }
    }
}

impl Known {
    /// Takes in how things are now; gives the events that tell the difference. Whether one was refreshed unseen nobody can say.
    fn compare(&mut self, overview: Vec<PoolOverview>) -> Vec<PoolEvent> {
        let now: BTreeMap<_, _> = overview.into_iter().map(|pool| (pool.pool.uuid, pool)).collect();
        let before = self.0.replace(now);
        let (Some(before), Some(now)) = (before, &self.0) else { return Vec::new() };
        let mut events = Vec::new();
        let mut tell = |pool: &PoolRef, event| {
            events.push(PoolEvent::Lifecycle { pool: pool.clone(), event, detail: 0 });
        };
        for (uuid, old) in &before {
            let new = now.get(uuid);
            if old.active && !new.is_some_and(|new| new.active) {
                tell(&old.pool, STOPPED);
            }
            if old.persistent && !new.is_some_and(|new| new.persistent) {
                tell(&old.pool, UNDEFINED);
            }
        }
        for (uuid, new) in now {
            let old = before.get(uuid);
            if new.persistent && !old.is_some_and(|old| old.persistent) {
                tell(&new.pool, DEFINED);
            }
            if new.active && !old.is_some_and(|old| old.active) {
                tell(&new.pool, STARTED);
            }
        }
        events
    }
}

fn message(event: &PoolEvent) -> Option<Message> {
    let (number, procedure, pool, encoded) = match event {
        PoolEvent::Lifecycle { pool, event, detail } => (0, 370, pool, xdr::encode(&(pool, event, detail))),
        PoolEvent::Refresh { pool } => (1, 373, pool, xdr::encode(pool)),
        PoolEvent::Lagged { .. } => return None,
    };
    let (payload, _) = encoded.ok()?;
    // There is no older form of these.
    Some(Message {
        kind: Kind::Pool,
        event: number,
        procedure,
        legacy: procedure,
        object: pool.uuid,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(number: u8, active: bool, persistent: bool) -> PoolOverview {
        PoolOverview {
            pool: PoolRef { name: format!("p{number}"), uuid: Uuid([number; 16]) },
            active,
            persistent,
        }
    }

    fn told(events: &[PoolEvent]) -> Vec<(String, i32)> {
        let one = |event: &PoolEvent| match event {
            PoolEvent::Lifecycle { pool, event, .. } => (pool.name.clone(), *event),
            other => panic!("{other:?}"),
        };
        events.iter().map(one).collect()
    }

    #[test]
    fn what_changed_unseen_is_told_once() {
        let mut known = Known::default();
        assert!(
            known.compare(vec![pool(1, true, true), pool(2, true, false), pool(3, false, true)]).is_empty()
        );
        let started = PoolEvent::Lifecycle { pool: pool(3, true, true).pool, event: STARTED, detail: 0 };
        assert_eq!(known.learn(&started), Ok(Uuid([3; 16])));
        let now = || vec![pool(1, false, true), pool(3, true, true), pool(4, true, true)];
        let name = |number: u8| format!("p{number}");
        let expected = [(name(1), STOPPED), (name(2), STOPPED), (name(4), DEFINED), (name(4), STARTED)];
        assert_eq!(told(&known.compare(now())), expected);
        assert!(known.compare(now()).is_empty());
        assert_eq!(known.learn(&PoolEvent::Lagged { missed: 1 }), Err(Lost));
    }

    #[test]
    fn a_message_is_what_libvirt_calls_it() {
        let refreshed = message(&PoolEvent::Refresh { pool: pool(1, true, true).pool }).unwrap();
        assert_eq!((refreshed.event, refreshed.procedure, refreshed.payload.len()), (1, 373, 4 + 4 + 16));
    }
}
