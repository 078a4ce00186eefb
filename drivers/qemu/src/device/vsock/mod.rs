//! `<vsock>`.
