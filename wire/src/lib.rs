//! The one definition of every message that crosses a process boundary.

pub mod error;
