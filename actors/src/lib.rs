//! The runtime that a driver process stands on.
//!
//! Owns: a driver's life from its first line ([`driver`]), what it may ask of its broker ([`stack`]), who its clients are
//! ([`clients`]), what it logs ([`logging`]), one task and mailbox for each object ([`object`]), how long a call may wait ([`deadline`]), work that lasts ([`job`]), what readers see
//! ([`snapshot`]), events to subscribers ([`events`]).
//! Never does: anything that only one driver needs.

pub mod clients;
pub mod deadline;
pub mod driver;
pub mod events;
pub mod job;
pub mod logging;
pub mod object;
pub mod snapshot;
pub mod stack;

pub use bulkhead_base::{fault, state};
pub use bulkhead_sandbox::inherited;
