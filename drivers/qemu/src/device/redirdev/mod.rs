//! `<redirdev>`.
