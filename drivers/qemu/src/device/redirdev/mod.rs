//! `<redirdev>`.

pub(crate) mod args;
