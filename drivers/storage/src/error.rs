//! Errors, with the codes that libvirt's clients tell apart.

use bulkhead_wire::error::{Code, Error, Origin};
use std::fmt::Display;

/// An error of this driver.
pub(crate) fn error(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, Origin::STORAGE, message)
}

/// XML that says what can't be.
pub(crate) fn wrong_xml(message: impl Into<String>) -> Error {
    error(Code::XML_ERROR, message)
}

/// XML whose very frame is another one's.
pub(crate) fn wrong_frame(message: impl Into<String>) -> Error {
    Error::new(Code::XML_ERROR, Origin::XML, message)
}

/// Something that is known and can't be had.
pub(crate) fn unsupported(message: impl Into<String>) -> Error {
    error(Code::CONFIG_UNSUPPORTED, message)
}

/// A call at the wrong time.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    error(Code::OPERATION_INVALID, message)
}

/// No volume by that name, key or path.
pub(crate) fn no_volume(by: &str, what: impl Display) -> Error {
    error(
        Code::NO_STORAGE_VOL,
        format!("Storage volume not found: no volume of an active pool has the {by} '{what}'"),
    )
}

/// Flags that the call does not know.
pub(crate) fn no_flags(flags: u32, known: u32) -> Result<(), Error> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(error(Code::INVALID_ARG, format!("Flags {unknown:#x} are not known to this call"))),
    }
}

/// Flags of which one at most may be set.
pub(crate) fn exclusive(flags: u32, pair: u32) -> Result<(), Error> {
    if (flags & pair).count_ones() <= 1 {
        return Ok(());
    }
    Err(error(Code::INVALID_ARG, format!("Flags {pair:#x} exclude one another: overwrite, or do not")))
}
