//! `<memory>`.

pub(crate) mod args;
