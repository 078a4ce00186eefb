//! `<video>`.

pub(crate) mod args;
