//! The whole state of a stack, for its owner.

use super::{Alive, Stack};
use crate::helpers::Running;
use crate::launcher::process;
use crate::supervisor::Phase;
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::{DriverStatus, HelperStatus, StackStatus};

impl Stack {
    pub(super) fn status(&self) -> StackStatus {
        let now = self.now();
        let driver = |(driver, life): (Driver, &crate::supervisor::Life)| {
            let alive = self.alive.get(&driver);
            DriverStatus {
                name: driver.name().to_owned(),
                pid: alive.map(|alive| alive.pid),
                state: life.phase.label().to_owned(),
                incarnation: life.incarnation,
                restarts: life.deaths,
                uptime_ms: match life.phase {
                    Phase::Ready { since } => {
                        u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX)
                    }
                    _ => 0,
                },
                memory_kib: alive.map_or(0, |alive| process::resident_kib(alive.pid)),
                confinement: alive.map(|alive| alive.in_force.clone()).unwrap_or_default(),
                confinement_missing: alive.map(|alive| alive.missing.clone()).unwrap_or_default(),
                reason: match &life.phase {
                    Phase::Held { reason } => Some(reason.clone()),
                    _ => life.last_end.clone(),
                },
                busy: alive.map(Alive::busy).unwrap_or_default(),
                set_aside: self.set_aside(driver).into_iter().map(|(_, object)| object).collect(),
            }
        };
        let helper = |helper: &Running| HelperStatus {
            key: helper.record.key.clone(),
            class: helper.record.class.clone(),
            owner: helper.record.owner.clone(),
            pid: helper.record.pid,
            memory_kib: process::resident_kib(helper.record.pid),
            confinement: helper.record.confinement.clone(),
        };
        StackStatus {
            mode: self.config.mode.name().to_owned(),
            root: self.root.path.display().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            drivers: self.supervisor.lives().map(driver).collect(),
            helpers: self.helpers.values().map(helper).collect(),
        }
    }
}
