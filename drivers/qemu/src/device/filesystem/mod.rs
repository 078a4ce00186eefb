//! `<filesystem>`.

pub(crate) mod args;
