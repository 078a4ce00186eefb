//! `<vsock>`.

pub(crate) mod args;
