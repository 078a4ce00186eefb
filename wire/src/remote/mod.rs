//! libvirt's RPC as its clients speak it: frames, errors, and the tables' public calls in its encoding.
//!
//! Nothing here is written per procedure: a [`Translation`] is made by the tables' macro for each call, from the same types.

pub mod absent;
mod error;
mod frame;
mod names;
#[cfg(feature = "link")]
mod socket;

pub use error::NetworkError;
pub use frame::{
    FRAME_MAX_BYTES, FRAME_MIN_BYTES, FrameError, HEADER_BYTES, Header, Kind, PREFIX_BYTES, Status, frame,
};
pub use names::{QEMU as QEMU_NAMES, REMOTE as REMOTE_NAMES, origin_of};
#[cfg(feature = "link")]
pub use socket::{Incoming, Reader, Writer, split};

use crate::codec;
use crate::error::{Code, Error, Origin};
use crate::table::{CallInfo, domain, network, secret, storage};
use crate::xdr;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;

/// Programs: what a frame's procedure number belongs to.
pub mod program {
    /// libvirt's API.
    pub const REMOTE: u32 = 0x2000_8086;
    /// What only QEMU has.
    pub const QEMU: u32 = 0x2000_8087;
    /// Signs of life.
    pub const KEEPALIVE: u32 = 0x6b65_6570;
    /// The daemon itself.
    pub const ADMIN: u32 = 0x0690_0690;
}

/// Most descriptors that travel with one frame.
pub const DESCRIPTORS_MAX: usize = 32;

/// A message with what travels beside it.
pub type Encoded = (Vec<u8>, Vec<OwnedFd>);

/// A call of a table, between libvirt's encoding and ours.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// The call.
    pub info: &'static CallInfo,
    /// Arguments as a client sent them, for the channel to the driver.
    pub arguments: fn(&[u8], Vec<OwnedFd>) -> Result<Encoded, Error>,
    /// A driver's reply, for the client.
    pub reply: fn(&[u8], Vec<OwnedFd>) -> Result<Encoded, Error>,
}

/// The public call of that number in libvirt's `remote` program.
#[must_use]
pub fn find(procedure: u32) -> Option<&'static Translation> {
    let tables = [domain::TRANSLATIONS, network::TRANSLATIONS, storage::TRANSLATIONS, secret::TRANSLATIONS];
    tables.into_iter().flatten().find(|translation| translation.info.remote == Some(procedure))
}

/// The public call of that number in libvirt's `qemu` program.
#[must_use]
pub fn find_qemu(procedure: u32) -> Option<&'static Translation> {
    domain::TRANSLATIONS.iter().find(|translation| translation.info.qemu == Some(procedure))
}

/// The error for bytes that are not the arguments of their procedure.
#[must_use]
pub fn undecodable() -> Error {
    Error::new(Code::RPC, Origin::RPC, "Unable to decode message payload")
}

/// The error for a call that needs a descriptor and brings none.
fn no_descriptor() -> Error {
    Error::new(Code::INTERNAL, Origin::RPC, "No FD available at slot 0: no descriptor came with the call")
}

pub(crate) fn arguments<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    files: Vec<OwnedFd>,
) -> Result<Encoded, Error> {
    // Bytes left over are ignored, as libvirt's own peers do it.
    let (message, _) = xdr::decode::<T>(bytes, files)
        .map_err(|error| if error.is_missing_descriptor() { no_descriptor() } else { undecodable() })?;
    codec::encode(&message).map_err(|error| Error::new(Code::RPC, Origin::RPC, error.to_string()))
}

pub(crate) fn reply<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    files: Vec<OwnedFd>,
) -> Result<Encoded, Error> {
    let failed = |error: String| {
        Error::new(Code::RPC, Origin::RPC, format!("Unable to encode message payload: {error}"))
    };
    let message = codec::decode::<T>(bytes, files).map_err(|error| failed(error.to_string()))?;
    xdr::encode(&message).map_err(|error| failed(error.to_string()))
}
