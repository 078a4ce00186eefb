//! The decisions of supervision, pure: `step(now, event) -> actions`. No clock, no process, no file.
//!
//! ```text
//!            launch             confined, ready
//!   Down ──────────► Starting ────────────────► Ready ──► Stopping ──► Down
//!    ▲ ▲                │ death, deadline         │ death, missed heartbeat
//!    │ └── Backoff ◄────┴─────────────────────────┤
//!    └──── Held ◄─────────────────────────────────┘ (too many deaths, or by command)
//! ```

use crate::manifest::{Intensity, Manifest};
use bulkhead_wire::table::Driver;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A point in time, since some fixed beginning.
pub type Instant = Duration;

/// Deaths during the adoption of one object before the object is set aside.
const ADOPTION_DEATHS: u32 = 2;
/// First pause before a driver that did not live long is started again; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// A deadline that is seen to have passed so long ago was missed by the broker, not by the driver.
const LATE: Duration = Duration::from_millis(500);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where a driver is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not wanted, or ended in order.
    Down,
    /// Started, not ready yet.
    Starting {
        /// When it must be ready.
        until: Instant,
    },
    /// Serving.
    Ready {
        /// Since when.
        since: Instant,
    },
    /// Asked to leave.
    Stopping {
        /// When it is killed.
        until: Instant,
    },
    /// Killed; its end is awaited.
    Dying,
    /// Waiting to be started again.
    Backoff {
        /// When that is.
        until: Instant,
    },
    /// Out of service until a command brings it back.
    Held {
        /// Why.
        reason: String,
    },
}

impl Phase {
    /// The word that `status` shows.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Starting { .. } => "starting",
            Self::Ready { .. } => "ready",
            Self::Stopping { .. } => "stopping",
            Self::Dying => "ending",
            Self::Backoff { .. } => "backoff",
            Self::Held { .. } => "held",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stack wants this driver.
    Want(Driver),
    /// The driver serves.
    Ready(Driver),
    /// The driver answered a heartbeat.
    Beat(Driver),
    /// The driver begins to adopt an object (or, with `None`, has ended it).
    Adopting(Driver, Option<String>),
    /// The driver's process has ended.
    Ended(Driver, String),
    /// The driver broke the protocol.
    Violation(Driver, String),
    /// Take it out of service.
    Hold(Driver),
    /// Bring it back.
    Release(Driver),
    /// End all.
    Stop,
    /// Only time has passed.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the driver's process.
    Launch(Driver),
    /// End it at once.
    Kill(Driver),
    /// Ask it to leave.
    AskStop(Driver),
    /// Send it a heartbeat.
    Heartbeat(Driver),
    /// It serves now: give it its channels.
    Serve(Driver),
    /// It is out of service: fail calls to it with this reason.
    Held(Driver, String),
    /// Never let it adopt this object again.
    SetAside(Driver, String),
}

/// One driver's life.
#[derive(Debug, Clone)]
pub struct Life {
    /// Where it is.
    pub phase: Phase,
    /// Starts so far.
    pub incarnation: u64,
    /// Unplanned ends so far.
    pub deaths: u64,
    /// Why it ended last.
    pub last_end: Option<String>,
    manifest: &'static Manifest,
    recent: VecDeque<Instant>,
    pause: Duration,
    next_beat: Instant,
    beat_due: Option<Instant>,
    adopting: Option<String>,
    blame: BTreeMap<String, u32>,
    hold_after_end: Option<String>,
}

/// All drivers' lives.
#[derive(Debug, Clone)]
pub struct Supervisor {
    intensity: Intensity,
    lives: BTreeMap<Driver, Life>,
    stopping: bool,
}

impl Supervisor {
    /// Nobody lives yet.
    #[must_use]
    pub fn new(manifests: &'static [Manifest], intensity: Intensity) -> Self {
        let life = |manifest: &'static Manifest| Life {
            phase: Phase::Down,
            incarnation: 0,
            deaths: 0,
            last_end: None,
            manifest,
            recent: VecDeque::new(),
            pause: PAUSE,
            next_beat: Duration::ZERO,
            beat_due: None,
            adopting: None,
            blame: BTreeMap::new(),
            hold_after_end: None,
        };
        let lives = manifests.iter().map(|manifest| (manifest.driver, life(manifest))).collect();
        Self { intensity, lives, stopping: false }
    }

    /// One driver's life.
    #[must_use]
    pub fn life(&self, driver: Driver) -> Option<&Life> {
        self.lives.get(&driver)
    }

    /// All lives.
    pub fn lives(&self) -> impl Iterator<Item = (Driver, &Life)> {
        self.lives.iter().map(|(driver, life)| (*driver, life))
    }

    /// When `step` must be called with `Tick` at the latest.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.lives.values().filter_map(Life::next_wakeup).min()
    }

    /// Decides.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let stopping = self.stopping;
        match event {
            Event::Want(driver) => self.with(driver, |life, _| {
                if life.phase == Phase::Down && !stopping {
                    actions.extend(life.launch(now));
                }
            }),
            Event::Ready(driver) => self.with(driver, |life, _| {
                if matches!(life.phase, Phase::Starting { .. }) {
                    life.phase = Phase::Ready { since: now };
                    life.adopting = None;
                    // Whatever ended earlier incarnations, it was none of the objects.
                    life.blame.clear();
                    life.beat_due = None;
                    life.next_beat = now + life.manifest.heartbeat_every;
                    actions.push(Action::Serve(driver));
                }
            }),
            Event::Beat(driver) => self.with(driver, |life, _| life.beat_due = None),
            Event::Adopting(driver, object) => self.with(driver, |life, _| life.adopting = object),
            Event::Ended(driver, cause) => {
                self.with(driver, |life, intensity| {
                    life.ended(now, cause, intensity, stopping, &mut actions);
                });
            }
            Event::Violation(driver, what) => self.with(driver, |life, _| {
                if life.is_alive() {
                    life.last_end = Some(what);
                    life.phase = Phase::Dying;
                    actions.push(Action::Kill(driver));
                }
            }),
            Event::Hold(driver) => self.with(driver, |life, _| {
                let reason = "by command".to_owned();
                if life.is_alive() {
                    life.hold_after_end = Some(reason);
                    life.phase = Phase::Stopping { until: now + life.manifest.stop_within };
                    actions.push(Action::AskStop(driver));
                } else if life.phase == Phase::Dying {
                    // Its process still is: held once that has ended.
                    life.hold_after_end = Some(reason);
                } else {
                    life.hold(reason, &mut actions);
                }
            }),
            Event::Release(driver) => self.with(driver, |life, _| {
                if matches!(life.phase, Phase::Held { .. }) {
                    life.recent.clear();
                    life.pause = PAUSE;
                    actions.extend(life.launch(now));
                }
            }),
            Event::Stop => {
                self.stopping = true;
                for (driver, life) in &mut self.lives {
                    match life.phase {
                        Phase::Starting { .. } | Phase::Ready { .. } => {
                            life.phase = Phase::Stopping { until: now + life.manifest.stop_within };
                            actions.push(Action::AskStop(*driver));
                        }
                        Phase::Backoff { .. } => life.phase = Phase::Down,
                        _ => {}
                    }
                }
            }
            Event::Tick => {}
        }
        for life in self.lives.values_mut() {
            life.tick(now, &mut actions);
        }
        actions
    }

    fn with(&mut self, driver: Driver, act: impl FnOnce(&mut Life, Intensity)) {
        if let Some(life) = self.lives.get_mut(&driver) {
            act(life, self.intensity);
        }
    }
}

impl Life {
    fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Ready { .. } | Phase::Stopping { .. })
    }

    fn launch(&mut self, now: Instant) -> Option<Action> {
        self.incarnation += 1;
        self.adopting = None;
        self.beat_due = None;
        self.phase = Phase::Starting { until: now + self.manifest.ready_within };
        Some(Action::Launch(self.manifest.driver))
    }

    fn hold(&mut self, reason: String, actions: &mut Vec<Action>) {
        actions.push(Action::Held(self.manifest.driver, reason.clone()));
        self.phase = Phase::Held { reason };
    }

    fn ended(
        &mut self,
        now: Instant,
        cause: String,
        intensity: Intensity,
        stopping: bool,
        actions: &mut Vec<Action>,
    ) {
        let planned = matches!(self.phase, Phase::Stopping { .. });
        let lived = match self.phase {
            Phase::Ready { since } => now.saturating_sub(since),
            _ => Duration::ZERO,
        };
        // A violation or a missed deadline has said why already; the signal that followed says less.
        let cause = if self.phase == Phase::Dying { self.last_end.take().unwrap_or(cause) } else { cause };
        if let Some(reason) = self.hold_after_end.take() {
            self.hold(reason, actions);
            return;
        }
        if planned || stopping {
            self.phase = Phase::Down;
            return;
        }
        self.deaths += 1;
        self.last_end = Some(cause.clone());
        if let Some(object) = self.adopting.take() {
            // The object is to blame, not the driver: it is set aside, and the driver goes on with the rest.
            let deaths = self.blame.entry(object.clone()).or_default();
            *deaths += 1;
            if *deaths >= ADOPTION_DEATHS {
                self.blame.remove(&object);
                actions.push(Action::SetAside(self.manifest.driver, object));
            }
            actions.extend(self.launch(now));
            return;
        }
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|first| now.saturating_sub(*first) > intensity.within) {
            self.recent.pop_front();
        }
        if self.recent.len() >= intensity.deaths {
            let reason = format!(
                "ended {} times within {} s, last: {cause}",
                self.recent.len(),
                intensity.within.as_secs()
            );
            self.hold(reason, actions);
            return;
        }
        if lived >= self.manifest.min_uptime {
            self.pause = PAUSE;
            actions.extend(self.launch(now));
        } else {
            self.phase = Phase::Backoff { until: now + self.pause };
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    fn tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let driver = self.manifest.driver;
        match &self.phase {
            Phase::Starting { until } if now >= *until => {
                self.last_end =
                    Some(format!("was not ready within {} s", self.manifest.ready_within.as_secs()));
                self.phase = Phase::Dying;
                actions.push(Action::Kill(driver));
            }
            Phase::Stopping { until } if now >= *until => {
                // Still planned: its end leads to Down or Held, whatever ended it. Asked once.
                self.phase = Phase::Stopping { until: Duration::MAX };
                actions.push(Action::Kill(driver));
            }
            Phase::Backoff { until } if now >= *until => actions.extend(self.launch(now)),
            Phase::Ready { .. } => {
                let within = self.manifest.heartbeat_within;
                if self.beat_due.is_some_and(|due| now >= due + LATE) {
                    // It was the broker that did not run (its process was stopped): the answer may be there, unread.
                    self.beat_due = Some(now + within);
                } else if self.beat_due.is_some_and(|due| now >= due) {
                    let within = within.as_millis();
                    self.last_end = Some(format!("did not answer a heartbeat within {within} ms"));
                    self.phase = Phase::Dying;
                    actions.push(Action::Kill(driver));
                } else if self.beat_due.is_none() && now >= self.next_beat {
                    self.next_beat = now + self.manifest.heartbeat_every;
                    self.beat_due = Some(now + self.manifest.heartbeat_within);
                    actions.push(Action::Heartbeat(driver));
                }
            }
            _ => {}
        }
    }

    fn next_wakeup(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Starting { until } | Phase::Stopping { until } | Phase::Backoff { until } => Some(*until),
            Phase::Ready { .. } => Some(self.beat_due.unwrap_or(self.next_beat)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::MANIFESTS;
    use proptest::prelude::*;

    const QEMU: Driver = Driver::Qemu;

    fn at(ms: u64) -> Instant {
        Duration::from_millis(ms)
    }

    fn running() -> Supervisor {
        let mut supervisor = Supervisor::new(MANIFESTS, Intensity::default());
        assert_eq!(supervisor.step(at(0), Event::Want(QEMU)), [Action::Launch(QEMU)]);
        assert_eq!(supervisor.step(at(10), Event::Ready(QEMU)), [Action::Serve(QEMU)]);
        supervisor
    }

    fn killed() -> Event {
        Event::Ended(QEMU, "signal 9".to_owned())
    }

    #[test]
    fn a_driver_that_lived_is_started_again_at_once() {
        let mut supervisor = running();
        assert_eq!(supervisor.step(at(5000), killed()), [Action::Launch(QEMU)]);
        assert_eq!(supervisor.life(QEMU).unwrap().incarnation, 2);
    }

    #[test]
    fn a_driver_that_did_not_live_long_is_started_after_a_pause() {
        let mut supervisor = running();
        assert_eq!(supervisor.step(at(20), killed()), []);
        assert_eq!(supervisor.next_wakeup(), Some(at(120)));
        assert_eq!(supervisor.step(at(120), Event::Tick), [Action::Launch(QEMU)]);
    }

    #[test]
    fn five_deaths_in_thirty_seconds_hold_it_and_a_command_brings_it_back() {
        let mut supervisor = running();
        for death in 1..=5 {
            let now = at(death * 2000);
            let actions = supervisor.step(now, killed());
            if death < 5 {
                assert_eq!(actions, [Action::Launch(QEMU)]);
                supervisor.step(now, Event::Ready(QEMU));
            } else {
                assert!(matches!(&actions[..], [Action::Held(QEMU, reason)] if reason.contains("5 times")));
            }
        }
        assert_eq!(supervisor.step(at(60_000), Event::Tick), []);
        assert_eq!(supervisor.step(at(60_000), Event::Release(QEMU)), [Action::Launch(QEMU)]);
    }

    #[test]
    fn deaths_far_apart_do_not_hold_it() {
        let mut supervisor = running();
        for death in 1..=20 {
            let now = at(death * 10_000);
            assert_eq!(supervisor.step(now, killed()), [Action::Launch(QEMU)]);
            supervisor.step(now, Event::Ready(QEMU));
        }
    }

    #[test]
    fn a_hung_driver_is_killed_and_a_slow_one_is_not() {
        let mut supervisor = running();
        assert_eq!(supervisor.step(at(1010), Event::Tick), [Action::Heartbeat(QEMU)]);
        assert_eq!(supervisor.step(at(4009), Event::Tick), []);
        assert_eq!(supervisor.step(at(4009), Event::Beat(QEMU)), [Action::Heartbeat(QEMU)]);
        assert_eq!(supervisor.step(at(7009), Event::Tick), [Action::Kill(QEMU)]);
        assert_eq!(supervisor.step(at(7010), killed()).len(), 0);
        assert!(supervisor.life(QEMU).unwrap().last_end.as_ref().unwrap().contains("heartbeat"));
    }

    #[test]
    fn a_broker_that_was_stopped_itself_blames_no_driver() {
        let mut supervisor = running();
        assert_eq!(supervisor.step(at(1010), Event::Tick), [Action::Heartbeat(QEMU)]);
        assert_eq!(supervisor.step(at(60_000), Event::Tick), []);
        assert_eq!(supervisor.step(at(60_001), Event::Beat(QEMU)), [Action::Heartbeat(QEMU)]);
        assert_eq!(supervisor.step(at(63_001), Event::Tick), [Action::Kill(QEMU)]);
    }

    #[test]
    fn deaths_during_adoption_far_apart_blame_no_object() {
        let mut supervisor = running();
        for _ in 0..4 {
            supervisor.step(at(2000), Event::Adopting(QEMU, Some("domain web".to_owned())));
            assert_eq!(supervisor.step(at(2000), killed()), [Action::Launch(QEMU)]);
            supervisor.step(at(2000), Event::Ready(QEMU));
        }
    }

    #[test]
    fn an_object_whose_adoption_kills_is_set_aside_and_the_driver_is_not_held() {
        let mut supervisor = running();
        for death in 0..2 {
            supervisor.step(at(2000), Event::Adopting(QEMU, Some("domain bad".to_owned())));
            let actions = supervisor.step(at(2000), killed());
            assert!(actions.contains(&Action::Launch(QEMU)));
            assert_eq!(actions.contains(&Action::SetAside(QEMU, "domain bad".to_owned())), death == 1);
        }
    }

    #[test]
    fn stopping_is_not_a_death_and_has_a_deadline() {
        let mut supervisor = running();
        assert_eq!(supervisor.step(at(100), Event::Stop), [Action::AskStop(QEMU)]);
        assert_eq!(supervisor.step(at(3100), Event::Tick), [Action::Kill(QEMU)]);
        assert_eq!(supervisor.step(at(3101), killed()), []);
        assert_eq!(supervisor.life(QEMU).unwrap().deaths, 0);
        assert_eq!(supervisor.next_wakeup(), None);
    }

    proptest! {
        /// Whatever happens in whatever order: a process is launched only when none lives, and time always moves on.
        #[test]
        fn never_two_processes_of_one_driver(events in proptest::collection::vec((0u8..10, 0u64..4000), 1..200)) {
            let mut supervisor = Supervisor::new(MANIFESTS, Intensity::default());
            let mut now = 0;
            let mut alive = false;
            for (kind, pause) in events {
                now += pause;
                let event = match kind {
                    0 => Event::Want(QEMU),
                    1 if alive => Event::Ready(QEMU),
                    2 if alive => Event::Beat(QEMU),
                    3 if alive => { alive = false; killed() }
                    4 if alive => Event::Violation(QEMU, "x".to_owned()),
                    5 => Event::Hold(QEMU),
                    6 => Event::Release(QEMU),
                    7 if alive => Event::Adopting(QEMU, Some("o".to_owned())),
                    _ => Event::Tick,
                };
                for action in supervisor.step(at(now), event) {
                    if action == Action::Launch(QEMU) {
                        prop_assert!(!alive, "launched twice");
                        alive = true;
                    }
                }
            }
        }
    }
}
