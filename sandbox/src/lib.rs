//! A profile (data) becomes a confined process.
//!
//! Owns: what each kind of process may do ([`profiles`]), how that is put in force ([`mod@confine`]), what really is
//! ([`Report`]). Never does: starting processes; the trampoline's own exec (`bulkhead-launch`) is the exception.
//! Called by: a driver's first line, and the trampoline in front of each helper.

pub mod ceiling;
pub mod confine;
mod filter;
pub mod group;
pub mod matrix;
pub mod profile;
pub mod profiles;
mod view;

pub use confine::{ConfineError, Report, confine, inherited, landlock_version};
pub use profile::{Access, FileRule, Limits, Place, Profile, SystemCalls};
