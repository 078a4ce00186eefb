//! `<hub>`.

pub(crate) mod args;
