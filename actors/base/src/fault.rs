//! Named points in the code at which a fault can be made to happen, in the release build too.
//!
//! Off, a point costs one relaxed load. Only a stack that was opened with faults arms any; its drivers' logs then tell of each
//! point that is reached. What each point means stands in [`crate::points`].

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What happens when a rule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// The process ends at once, as if by `kill -9`.
    Crash,
    /// The thread stops for ever: the process hangs.
    Hang,
}

/// A rule: the n-th time that the point is reached, this happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The point's name (`definition.before_rename`).
    pub point: String,
    /// Which time, from 1; 0 is every time.
    pub nth: u32,
    /// What happens.
    pub effect: Effect,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static RULES: Mutex<Vec<(Rule, u32)>> = Mutex::new(Vec::new());

/// Arms these rules; counting begins anew.
pub fn arm(rules: Vec<Rule>) {
    ARMED.store(!rules.is_empty(), Ordering::Relaxed);
    *RULES.lock().unwrap_or_else(PoisonError::into_inner) = rules.into_iter().map(|rule| (rule, 0)).collect();
}

/// A point of the code: `subject.moment`.
pub fn point(subject: &str, moment: &str) {
    if ARMED.load(Ordering::Relaxed) {
        reached(subject, moment);
    }
}

#[cold]
fn reached(subject: &str, moment: &str) {
    tracing::info!("fault point {subject}.{moment}");
    let mut rules = RULES.lock().unwrap_or_else(PoisonError::into_inner);
    let fires = rules.iter_mut().find_map(|(rule, hits)| {
        let named = rule.point.split_once('.') == Some((subject, moment));
        *hits += u32::from(named);
        (named && (rule.nth == 0 || *hits == rule.nth)).then_some(rule.effect)
    });
    drop(rules);
    match fires {
        None => {}
        Some(Effect::Crash) => {
            tracing::warn!(subject, moment, "fault: crash");
            std::process::abort();
        }
        Some(Effect::Hang) => {
            tracing::warn!(subject, moment, "fault: hang");
            loop {
                std::thread::park();
            }
        }
    }
}
