//! `<audio>`.
