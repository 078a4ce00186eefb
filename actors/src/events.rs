//! Events to subscribers. No subscriber can hold the driver back: each has a bounded queue, and is told how many events
//! it missed.

use bulkhead_wire::channel::EventSink;
use std::sync::{Mutex, PoisonError};

/// All subscribers of a driver's events.
#[derive(Debug, Default)]
pub struct Fanout(Mutex<Vec<EventSink>>);

impl Fanout {
    /// Adds a subscriber; it is dropped when its channel has ended. One that subscribes again is no second one.
    pub fn subscribe(&self, sink: EventSink) {
        let mut subscribers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !subscribers.iter().any(|known| known.same_channel(&sink)) {
            subscribers.push(sink);
        }
    }

    /// Sends an event to all. `lagged` makes the event that tells a subscriber how many it missed.
    pub fn publish<E: serde::Serialize>(&self, event: &E, lagged: impl Fn(u64) -> E) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|sink| sink.send(event, &lagged));
    }
}
