//! `<nvram>`.

pub(crate) mod args;
