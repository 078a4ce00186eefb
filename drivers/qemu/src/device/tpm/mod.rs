//! `<tpm>`.

pub(crate) mod args;
