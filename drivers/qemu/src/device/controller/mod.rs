//! `<controller>`.
