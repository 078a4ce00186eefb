//! `<audio>`.

pub(crate) mod args;
