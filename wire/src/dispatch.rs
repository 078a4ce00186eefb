//! Between a frame and a server's method: decoding arguments, encoding replies. Used by the expanded tables.

use crate::codec;
use crate::error::{Code, Error, Origin};
use crate::table::{CallContext, CallInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use zeroize::Zeroize;

/// An encoded reply with its descriptors, or the error that is sent instead.
pub type Answer = Pin<Box<dyn Future<Output = Result<(Vec<u8>, Vec<OwnedFd>), Error>> + Send>>;

/// Decodes the arguments of a call, and wipes what they were decoded from if they are sensitive.
///
/// # Errors
/// Arguments that are larger than the table allows, or not those of this call.
pub fn arguments<T: DeserializeOwned>(
    call: &CallContext,
    mut body: Vec<u8>,
    files: Vec<OwnedFd>,
) -> Result<T, Error> {
    let read = read(call, &body, files);
    if call.info.sensitive {
        body.zeroize();
    }
    read
}

fn read<T: DeserializeOwned>(call: &CallContext, body: &[u8], files: Vec<OwnedFd>) -> Result<T, Error> {
    let name = call.info.name;
    if body.len() > call.info.body_max_bytes as usize {
        let message = format!(
            "{name}: arguments of {} bytes, at most {} are allowed",
            body.len(),
            call.info.body_max_bytes
        );
        return Err(Error::new(Code::RPC, Origin::RPC, message));
    }
    codec::decode(body, files).map_err(|error| Error::new(Code::RPC, Origin::RPC, format!("{name}: {error}")))
}

/// Encodes the reply of a call.
///
/// # Errors
/// A reply larger than a frame.
pub fn reply<T: Serialize>(info: &CallInfo, reply: &T) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
    codec::encode(reply)
        .map_err(|error| Error::new(Code::RPC, Origin::RPC, format!("{}: {error}", info.name)))
}
