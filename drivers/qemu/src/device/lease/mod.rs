//! `<lease>`.
