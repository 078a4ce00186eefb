//! `<pstore>`.

pub(crate) mod args;
