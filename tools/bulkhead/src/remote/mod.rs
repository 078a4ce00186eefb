//! A stack, or stock libvirt, reached over libvirt's protocol. Nothing here is written per procedure but what is special:
//! the beginning of a connection, events, streams.

mod caller;
mod door;
mod events;
mod link;
mod place;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use caller::{Caller, keep_up};
pub(crate) use door::Failure;
pub(crate) use events::Heard;
pub(crate) use link::Told;
pub(crate) use place::{Place, run_folder};
