//! `<disk>`.
