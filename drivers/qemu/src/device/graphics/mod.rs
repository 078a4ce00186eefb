//! `<graphics>`.
