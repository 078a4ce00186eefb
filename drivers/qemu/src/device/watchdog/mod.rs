//! `<watchdog>`.
