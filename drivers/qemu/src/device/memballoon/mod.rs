//! `<memballoon>`.

pub(crate) mod args;
