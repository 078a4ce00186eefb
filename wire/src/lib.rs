//! The one definition of every message that crosses a process boundary.
//!
//! Owns: the [`table`]s of calls, the [`types`] they are made of, the [`error`] they fail with, their encodings, the
//! frames and [`link`]s they travel in, the two ends of a [`channel`]. Never does: anything a driver does.

#[cfg(feature = "link")]
pub mod channel;
pub mod codec;
pub mod control;
pub mod descriptor;
pub mod dispatch;
pub mod error;
pub mod frame;
#[cfg(feature = "link")]
pub mod link;
pub mod remote;
pub mod table;
pub mod types;
pub mod xdr;
