//! `<video>`.
