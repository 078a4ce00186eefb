//! A file descriptor as an ordinary field of a message.
//!
//! While a message is encoded its descriptors are moved to the side; the bytes hold only their positions.
//! Encoding and decoding do not await, so the side table can be a thread's own.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a descriptor is called in serde's model: encodings in which it leaves no trace know it by this name.
pub const NAME: &str = "Descriptor";

/// A descriptor's position among those of its message.
#[derive(Deserialize)]
#[serde(rename = "Descriptor")]
struct Position(u8);

/// Descriptors of one frame at most, both ways.
pub const DESCRIPTORS_MAX: usize = 64;

thread_local! {
    static OUT: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
    static IN: RefCell<Vec<Option<OwnedFd>>> = const { RefCell::new(Vec::new()) };
}

/// An open file that is handed over with a message.
///
/// Encoding takes the file out of the message through a shared reference, hence the cell; a descriptor is moved
/// between tasks but never shared.
pub struct Descriptor(Cell<Option<OwnedFd>>);

impl std::fmt::Debug for Descriptor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Descriptor(..)")
    }
}

impl Descriptor {
    /// Wraps an open file.
    #[must_use]
    pub fn new(file: OwnedFd) -> Self {
        Self(Cell::new(Some(file)))
    }

    /// The open file; `None` if the message was encoded already.
    #[must_use]
    pub fn into_owned(self) -> Option<OwnedFd> {
        self.0.into_inner()
    }

    /// Runs a function on the file without giving it away.
    pub fn inspect<R>(&mut self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        self.0.get_mut().as_ref().map(|file| look(file.as_fd()))
    }
}

/// What a decoder says of a message whose descriptor is missing.
pub(crate) const MISSING: &str = "message names a descriptor that did not come";

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let file = self.0.take().ok_or_else(|| serde::ser::Error::custom("descriptor was sent already"))?;
        let index = OUT.with_borrow_mut(|out| {
            out.push(file);
            out.len() - 1
        });
        let index = u8::try_from(index).map_err(serde::ser::Error::custom)?;
        if usize::from(index) >= DESCRIPTORS_MAX {
            return Err(serde::ser::Error::custom("too many descriptors in one message"));
        }
        serializer.serialize_newtype_struct(NAME, &index)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Position(index) = Position::deserialize(deserializer)?;
        let file = IN.with_borrow_mut(|files| files.get_mut(usize::from(index)).and_then(Option::take));
        file.map(Self::new).ok_or_else(|| serde::de::Error::custom(MISSING))
    }
}

/// Runs an encoder and returns what it put aside.
pub(crate) fn collecting<R>(encode: impl FnOnce() -> R) -> (R, Vec<OwnedFd>) {
    OUT.with_borrow_mut(Vec::clear);
    let result = encode();
    (result, OUT.take())
}

/// Runs a decoder that may take from `files`; returns also how many it took.
pub fn supplying<R>(files: Vec<OwnedFd>, decode: impl FnOnce() -> R) -> (R, usize) {
    let carried = files.len();
    IN.set(files.into_iter().map(Some).collect());
    let result = decode();
    let left = IN.take().into_iter().flatten().count();
    (result, carried - left)
}
