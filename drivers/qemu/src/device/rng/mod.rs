//! `<rng>`.

pub(crate) mod args;
