//! The QMP monitor: requests with deadlines, events, and no trust in what QEMU says.
//!
//! The pure core is `line` (framing and bounds), `message` (what a line means) and `table` (which request
//! a reply belongs to); none of them does I/O or reads the clock. `connection` is the thin shell around them:
//! one task for each connection, which [`Monitor`] handles feed. [`commands`] gives the commands types, and
//! [`agent`] speaks to the guest agent with the same framing.

pub mod agent;
pub mod commands;
mod connection;
mod error;
mod event;
mod line;
mod message;
mod options;
mod table;
#[cfg(test)]
mod tests;
mod transport;

pub use connection::Monitor;
pub use error::{Cause, MonitorError};
pub use event::{
    BalloonChange, BlockIoError, DeviceDeleted, Event, EventKind, GuestPanicked, Notice, PortChange, Reset,
    RtcChange, Shutdown, Timestamp, TrayMoved, Watchdog,
};
pub use message::Version;
pub use options::{Entry, Limits, Options};
pub use transport::{Plain, Transport};
