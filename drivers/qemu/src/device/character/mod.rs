//! Character devices: `<serial>`, `<parallel>`, `<console>`, `<channel>`.
