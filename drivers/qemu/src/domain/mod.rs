//! Domain XML: reading, completing with libvirt's defaults, checking, addresses, aliases, writing.
//!
//! A definition is a normalised tree: what libvirt would print, element by element, in its order. Owns: everything
//! of a domain that is not one device's own business. Never does: I/O, running guests.

pub mod context;
pub mod host;

pub use host::Host;

use bulkhead_xml::Element;

/// What a document is read for; some checks belong to one purpose alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To keep a definition.
    Define,
    /// To start a guest that is not kept.
    Create,
    /// To show the command line.
    Native,
}

/// A complete definition of a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The tree, as libvirt prints an inactive domain with its secrets.
    pub root: Element,
}
