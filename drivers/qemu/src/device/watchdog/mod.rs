//! `<watchdog>`.

pub(crate) mod args;
