//! The errors with which whole definitions are refused, by libvirt's code and domain.

use bulkhead_wire::error::{Code, Error, Origin};

/// No name is given.
pub(super) const NO_NAME: Code = Code(21);

/// The document says something wrong.
pub(super) fn xml(message: impl Into<String>) -> Error {
    Error::new(Code::XML_ERROR, Origin::DOMAIN, message)
}

/// A value that the XML reader refuses.
pub(super) fn value(message: impl Into<String>) -> Error {
    Error::new(Code::XML_ERROR, Origin::XML, message)
}

/// Parts of the document that do not fit each other, found late.
pub(super) fn detail(message: impl Into<String>) -> Error {
    Error::new(Code::XML_DETAIL, Origin::DOMAIN, message)
}

/// Domain XML knows it, but not in this combination.
pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(Code::CONFIG_UNSUPPORTED, Origin::DOMAIN, message)
}

/// QEMU guests can't have it.
pub(super) fn unsupported_by_qemu(message: impl Into<String>) -> Error {
    Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message)
}

/// There is no place for a device in a guest that runs.
pub(super) fn no_place(message: impl Into<String>) -> Error {
    Error::new(Code::OPERATION_FAILED, Origin::DOMAIN, message)
}

/// A fault that libvirt reports as its own, though the document is to blame.
pub(super) fn internal(message: impl Into<String>) -> Error {
    Error::new(Code::INTERNAL, Origin::DOMAIN, message)
}
