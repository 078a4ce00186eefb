//! What the owner of a connection may choose.

use std::time::Duration;

/// In which state a connection is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nobody has spoken on it yet: QEMU's greeting is the first thing to be read.
    Fresh,
    /// A previous owner has died: half a line, half a request and stale replies may be under way, and the
    /// capabilities may or may not have been negotiated.
    Adopted,
}

/// How much QEMU may say and how much may be asked of it; what exceeds them closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest line in bytes.
    pub line: usize,
    /// Longest greeting in bytes.
    pub greeting: usize,
    /// Longest event in bytes. Events wait in a queue, so their size times its length is what a reader that
    /// lags costs.
    pub event: usize,
    /// Deepest nesting of arrays and objects in a line; at most 127, where the JSON parser ends.
    pub nesting: usize,
    /// Most values in a line: a parsed value takes many times the room of its text.
    pub values: usize,
    /// Most requests without a reply, those whose deadline has passed included.
    pub pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: 16 << 20,
            greeting: 64 << 10,
            event: 64 << 10,
            nesting: 64,
            values: 1 << 18,
            pending: 64,
        }
    }
}

/// How to attach to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// In which state the connection is.
    pub entry: Entry,
    /// The bounds.
    pub limits: Limits,
    /// How long greeting and negotiation may take together.
    pub handshake: Duration,
}

impl Options {
    /// The default bounds and ten seconds for the handshake.
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        Self { entry, limits: Limits::default(), handshake: Duration::from_secs(10) }
    }
}
