//! `<sound>`.
