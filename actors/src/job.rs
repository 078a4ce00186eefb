//! Work that lasts: readers see how far it has come without waiting for it, and it hears that somebody wants it to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One piece of lasting work on an object. It is listed from its first step to its last by
/// [`Object::run_job`](crate::object::Object::run_job).
#[derive(Debug)]
pub struct Job {
    operation: &'static str,
    began: Instant,
    processed_bytes: AtomicU64,
    total_bytes: AtomicU64,
    canceled: watch::Sender<bool>,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is done (`domain_managed_save`).
    pub operation: &'static str,
    /// For how long already.
    pub elapsed: Duration,
    /// Bytes done; never more than `total_bytes`.
    pub processed_bytes: u64,
    /// Bytes in all; 0 until it is known.
    pub total_bytes: u64,
}

impl Job {
    /// A job that begins now.
    #[must_use]
    pub fn new(operation: &'static str) -> Self {
        Self {
            operation,
            began: Instant::now(),
            processed_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            canceled: watch::Sender::new(false),
        }
    }

    /// Says how far it has come.
    pub fn report(&self, processed_bytes: u64, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
        self.processed_bytes.store(processed_bytes, Ordering::Relaxed);
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let total_bytes = self.total_bytes.load(Ordering::Relaxed);
        Progress {
            operation: self.operation,
            elapsed: self.began.elapsed(),
            // The two numbers are read one after the other, while the work goes on.
            processed_bytes: self.processed_bytes.load(Ordering::Relaxed).min(total_bytes),
            total_bytes,
        }
    }

    /// Wants it to end. The work decides where it can; its caller is told what became of it.
    pub fn cancel(&self) {
        self.canceled.send_replace(true);
    }

    /// Does somebody want it to end?
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        *self.canceled.borrow()
    }

    /// Waits until somebody wants it to end.
    pub async fn canceled(&self) {
        // The sender lives as long as this job, so that waiting can't fail.
        let _ = self.canceled.subscribe().wait_for(|canceled| *canceled).await;
    }
}
