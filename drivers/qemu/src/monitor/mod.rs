//! The QMP monitor: requests with deadlines, events, and no trust in what QEMU says.
