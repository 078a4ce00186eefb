//! `<smartcard>`.
