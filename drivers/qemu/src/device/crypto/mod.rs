//! `<crypto>`.

pub(crate) mod args;
