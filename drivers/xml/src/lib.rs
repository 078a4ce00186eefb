//! XML as an ordered tree: what every driver stands on when it reads and writes libvirt's XML.
//!
//! Owns: reading bytes into [`Element`]s within [`Limits`], positions for error messages, writing in libvirt's
//! own layout. Never does: I/O, knowing any element's meaning.

mod encoding;
pub mod metadata;
mod read;
mod tree;
mod write;

pub use read::{Limits, XmlError, parse};
pub use tree::{Element, Node, Position};
pub use write::{escape_attribute, escape_text};
