//! `<sound>`.

pub(crate) mod args;
