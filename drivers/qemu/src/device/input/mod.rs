//! `<input>`.
