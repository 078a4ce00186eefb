//! `<disk>`.

pub(crate) mod args;
