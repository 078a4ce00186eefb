//! `<panic>`.

pub(crate) mod args;
