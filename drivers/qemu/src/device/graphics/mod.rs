//! `<graphics>`.

pub(crate) mod args;
