//! `<interface>`.
