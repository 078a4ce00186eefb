//! Character devices: `<serial>`, `<parallel>`, `<console>`, `<channel>`.

pub(crate) mod args;
