//! `<memballoon>`.
