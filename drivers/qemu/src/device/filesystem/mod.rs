//! `<filesystem>`.
