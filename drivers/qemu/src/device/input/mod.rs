//! `<input>`.

pub(crate) mod args;
