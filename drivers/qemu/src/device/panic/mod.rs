//! `<panic>`.
