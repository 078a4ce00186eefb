//! What the level above stands on when it touches a disk: [`state`] files that survive a crash, and [`fault`] points,
//! all of which stand in [`points`].
//!
//! Never does: channels, processes, anything asynchronous.

pub mod fault;
pub mod points;
pub mod state;
