//! `<hostdev>`.
