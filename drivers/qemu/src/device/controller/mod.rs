//! `<controller>`.

pub(crate) mod args;
