//! `<pstore>`.
