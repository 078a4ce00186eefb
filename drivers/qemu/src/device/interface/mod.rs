//! `<interface>`.

pub(crate) mod args;
