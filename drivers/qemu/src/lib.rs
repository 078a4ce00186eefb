//! The qemu driver: libvirt's domain XML in, QEMU guests out.
//!
//! The pure half: [`domain`] turns XML into a complete definition and back, [`device`] holds what each kind of
//! device adds to that, [`args`] turns a definition into a command line, [`capabilities`] is what a QEMU binary
//! can do. The other half acts: [`monitor`] speaks QMP, `guest` is a domain's own actor, [`driver`] the driver as a whole,
//! `calls` what it serves, `installed` the host that definitions are read against, `owned` which guests end with which clients, `image` and `probe` what is asked of
//! programs that run no guest.

pub mod args;
mod autostart;
mod base64;
mod calls;
pub mod capabilities;
pub mod device;
mod documents;
pub mod domain;
pub mod driver;
mod guest;
mod image;
mod installed;
pub mod monitor;
mod node;
mod owned;
mod probe;
