//! `<crypto>`.
