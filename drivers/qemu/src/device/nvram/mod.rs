//! `<nvram>`.
