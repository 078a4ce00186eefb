//! What is known of the domains, so that what changed unseen can be told afterwards, as ordinary events.

use crate::events::{self, Message};
use crate::following::{Lost, Source};
use crate::{Shared, monitor};
use bulkhead_wire::channel::Caller;
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{Driver, domain};
use bulkhead_wire::types::{DomainEvent, DomainOverview, DomainRef, State, Uuid};
use std::collections::BTreeMap;

/// Types of lifecycle events.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;
const STARTED: i32 = 2;
const SUSPENDED: i32 = 3;
const RESUMED: i32 = 4;
const STOPPED: i32 = 5;
const ASLEEP: i32 = 7;
const CRASHED: i32 = 8;

/// The domains as clients were told of them.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// `None` before the first look: nobody was told anything then, so nobody missed anything.
    domains: Option<BTreeMap<Uuid, DomainOverview>>,
}

fn runs(domain: &DomainOverview) -> bool {
    domain.domain.id >= 0
}

/// The detail of a stop, by the reason for which a domain is shut off.
fn stop_detail(now: Option<&DomainOverview>) -> i32 {
    match now.map(|now| now.reason) {
        Some(1) => 0,
        Some(2) => 1,
        Some(3) => 2,
        // Failed, as far as anybody knows.
        _ => 5,
    }
}

impl Source for Known {
    const DRIVER: Driver = Driver::Qemu;
    type Event = DomainEvent;
    type Entry = DomainOverview;

    fn entries(&mut self) -> &mut Option<BTreeMap<Uuid, DomainOverview>> {
        &mut self.domains
    }

    async fn look(&mut self, caller: &Caller) -> Result<Vec<DomainEvent>, Error> {
        let driver = domain::Client(caller.clone());
        driver.events_subscribe().await?;
        Ok(self.compare(driver.domains_overview().await?))
    }

    fn learn(&mut self, event: &DomainEvent) -> Result<Uuid, Lost> {
        let (domain, event) = match event {
            DomainEvent::Lifecycle { domain, event, .. } => (domain, event),
            DomainEvent::Lagged { .. } => return Err(Lost),
            event => return Ok(event.domain().map(|domain| domain.uuid).unwrap_or_default()),
        };
        let domains = self.domains.get_or_insert_default();
        let entry = domains.entry(domain.uuid).or_insert_with(|| DomainOverview {
            domain: domain.clone(),
            state: State::Shutoff as i32,
            reason: 0,
            persistent: 0,
        });
        entry.domain = domain.clone();
        match *event {
            DEFINED => entry.persistent = 1,
            UNDEFINED => entry.persistent = 0,
            STARTED | RESUMED => entry.state = State::Running as i32,
            SUSPENDED => entry.state = State::Paused as i32,
            ASLEEP => entry.state = State::Suspended as i32,
            CRASHED => entry.state = State::Crashed as i32,
            STOPPED => {
                entry.state = State::Shutoff as i32;
                entry.domain.id = -1;
            }
            _ => {}
        }
        if entry.persistent == 0 && !runs(entry) {
            domains.remove(&domain.uuid);
        }
        Ok(domain.uuid)
    }

    fn publish(shared: &Shared, event: &DomainEvent) {
        if let DomainEvent::Monitor { .. } = event {
            monitor::publish(shared, event);
        } else if let Some(message) = Message::of(event) {
            events::publish(shared, &message);
        }
    }
}

impl Known {
    /// Takes in how things are now; gives the events that tell the difference.
    pub(crate) fn compare(&mut self, overview: Vec<DomainOverview>) -> Vec<DomainEvent> {
        let now: BTreeMap<Uuid, DomainOverview> =
            overview.into_iter().map(|domain| (domain.domain.uuid, domain)).collect();
        let before = self.domains.replace(now);
        let (Some(before), Some(now)) = (before, &self.domains) else { return Vec::new() };
        let mut events = Vec::new();
        for (uuid, old) in &before {
            changes(Some(old), now.get(uuid), &mut events);
        }
        for (uuid, new) in now {
            if !before.contains_key(uuid) {
                changes(None, Some(new), &mut events);
            }
        }
        events
    }
}

fn changes(old: Option<&DomainOverview>, new: Option<&DomainOverview>, events: &mut Vec<DomainEvent>) {
    let mut tell = |domain: &DomainRef, event, detail| {
        events.push(DomainEvent::Lifecycle { domain: domain.clone(), event, detail });
    };
    let (was, is) = (old.filter(|old| runs(old)), new.filter(|new| runs(new)));
    let same = was.zip(is).is_some_and(|(was, is)| was.domain.id == is.domain.id);
    let off = |domain: &DomainRef| DomainRef { id: -1, ..domain.clone() };
    if let Some(was) = was.filter(|_| !same) {
        tell(&off(&was.domain), STOPPED, stop_detail(new));
    }
    let persistent = |domain: Option<&DomainOverview>| domain.is_some_and(|domain| domain.persistent != 0);
    if let Some(domain) = new.filter(|_| persistent(new) && !persistent(old)) {
        tell(&domain.domain, DEFINED, 0);
    }
    if let Some(is) = is {
        if !same {
            tell(&is.domain, STARTED, 0);
        }
        let before = if same { was.map_or(0, |was| was.state) } else { State::Running as i32 };
        match (State::from_number(before), State::from_number(is.state)) {
            (before, now) if before == now => {}
            (_, State::Running) => tell(&is.domain, RESUMED, 0),
            (_, State::Paused) => tell(&is.domain, SUSPENDED, 0),
            (_, State::Suspended) => tell(&is.domain, ASLEEP, 0),
            (_, State::Crashed) => tell(&is.domain, CRASHED, 0),
            _ => {}
        }
    }
    if let Some(domain) = old.filter(|_| persistent(old) && !persistent(new)) {
        tell(&new.map_or_else(|| off(&domain.domain), |new| new.domain.clone()), UNDEFINED, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(number: u8, id: i32, state: State, persistent: i32) -> DomainOverview {
        let domain = DomainRef { name: format!("d{number}"), uuid: Uuid([number; 16]), id };
        DomainOverview { domain, state: state as i32, reason: 1, persistent }
    }

    fn told(events: &[DomainEvent]) -> Vec<(String, i32)> {
        let one = |event: &DomainEvent| match event {
            DomainEvent::Lifecycle { domain, event, .. } => (domain.name.clone(), *event),
            other => panic!("{other:?}"),
        };
        events.iter().map(one).collect()
    }

    #[test]
    fn the_first_look_tells_nothing() {
        let mut known = Known::default();
        assert!(known.compare(vec![domain(1, 5, State::Running, 1)]).is_empty());
        assert!(known.compare(vec![domain(1, 5, State::Running, 1)]).is_empty());
    }

    #[test]
    fn what_changed_unseen_is_told_in_an_order_that_can_have_been() {
        let mut known = Known::default();
        known.compare(vec![
            domain(1, 5, State::Running, 1),
            domain(2, 6, State::Running, 0),
            domain(3, -1, State::Shutoff, 1),
            domain(4, 7, State::Running, 1),
            domain(5, 8, State::Running, 1),
        ]);
        let events = known.compare(vec![
            domain(1, 5, State::Paused, 1),
            domain(4, 9, State::Running, 1),
            domain(5, -1, State::Shutoff, 1),
            domain(6, 10, State::Paused, 1),
        ]);
        let name = |number: u8| format!("d{number}");
        let expected = [
            (name(1), SUSPENDED),
            (name(2), STOPPED),
            (name(3), UNDEFINED),
            (name(4), STOPPED),
            (name(4), STARTED),
            (name(5), STOPPED),
            (name(6), DEFINED),
            (name(6), STARTED),
            (name(6), SUSPENDED),
        ];
        assert_eq!(told(&events), expected);
    }

    #[test]
    fn what_was_seen_is_not_told_again() {
        let mut known = Known::default();
        known.compare(vec![domain(1, -1, State::Shutoff, 1)]);
        let started = domain(1, 3, State::Running, 1);
        let event = DomainEvent::Lifecycle { domain: started.domain.clone(), event: STARTED, detail: 0 };
        assert_eq!(known.learn(&event), Ok(started.domain.uuid));
        assert!(known.compare(vec![started]).is_empty());
    }
}
