//! The monitor against peers that follow a script, against arbitrary bytes, and against QEMU itself.

mod connection;
mod core;
mod qemu;
