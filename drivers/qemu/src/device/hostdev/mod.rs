//! `<hostdev>`.

pub(crate) mod args;
