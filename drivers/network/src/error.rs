//! Errors, with the codes that libvirt's clients tell apart.

use bulkhead_wire::error::{Code, Error, Origin};
use std::io;

/// An error of this driver.
pub(crate) fn error(code: Code, message: impl Into<String>) -> Error {
    Error::new(code, Origin::NETWORK, message)
}

/// A call at the wrong time.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    error(Code::OPERATION_INVALID, message)
}

/// Something that is known and can't be had.
pub(crate) fn unsupported(message: impl Into<String>) -> Error {
    error(Code::CONFIG_UNSUPPORTED, message)
}

/// What the system refused, about something.
pub(crate) fn system(what: impl std::fmt::Display, cause: &io::Error) -> Error {
    Error::system(Origin::NETWORK, what, cause)
}

/// Flags that the call does not know.
pub(crate) fn no_flags(flags: u32, known: u32) -> Result<(), Error> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(error(Code::INVALID_ARG, format!("Flags {unknown:#x} are not known to this call"))),
    }
}
