//! `<memory>`.
