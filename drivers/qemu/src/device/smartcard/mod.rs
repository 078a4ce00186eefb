//! `<smartcard>`.

pub(crate) mod args;
