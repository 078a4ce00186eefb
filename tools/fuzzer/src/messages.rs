//! Messages: bytes that claim to be one.

use bulkhead_wire::control::{FromDriver, Request, Response, ToDriver};
use bulkhead_wire::error::Error;
use bulkhead_wire::frame::{HEADER_BYTES, Header};
use bulkhead_wire::table::{CallInfo, EachCall, each_call};
use bulkhead_wire::types::DomainEvent;
use bulkhead_wire::{codec, remote, xdr};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;

/// Descriptors to travel with a message: as many as the first byte says, four at most.
fn descriptors(count: u8) -> Vec<OwnedFd> {
    (0..count % 5).filter_map(|_| std::fs::File::open("/dev/null").ok().map(OwnedFd::from)).collect()
}

/// Reads a message of that type; what is accepted is written again as it was.
fn private<T: Serialize + DeserializeOwned>(count: u8, bytes: &[u8]) -> bool {
    let Ok(message) = codec::decode::<T>(bytes, descriptors(count)) else { return false };
    let (again, files) = codec::encode(&message).expect("what was decoded can be encoded");
    assert_eq!(files.len(), usize::from(count % 5), "the message has the descriptors that came");
    // With descriptors the order in which they are numbered may be another one.
    if files.is_empty() {
        assert_eq!(again, bytes, "two texts of one message");
    }
    true
}

/// The same in libvirt's encoding, where more may follow.
fn xdr_of<T: Serialize + DeserializeOwned>(count: u8, bytes: &[u8]) -> bool {
    let Ok((message, used)) = xdr::decode::<T>(bytes, descriptors(count)) else { return false };
    let (again, files) = xdr::encode(&message).expect("what was decoded can be encoded");
    // Padding is not looked at, and text ends at its first zero byte.
    assert!(again.len() <= used && used <= bytes.len(), "{} bytes were {used}", again.len());
    let (message, all) = xdr::decode::<T>(&again, files).expect("what was encoded can be decoded");
    assert_eq!(all, again.len());
    let (third, _) = xdr::encode(&message).expect("what was decoded can be encoded");
    assert_eq!(third, again, "two texts of one message");
    true
}

/// The header of a frame.
pub fn header(bytes: &[u8]) -> bool {
    let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return false };
    let Ok(header) = Header::from_bytes(bytes) else { return false };
    assert!(header.body_bytes as usize <= codec::BODY_MAX_BYTES);
    assert_eq!(header.to_bytes()[..44], bytes[..44], "two texts of one header");
    true
}

/// What broker, drivers and clients say beside calls: the first byte says how many descriptors come, the second which type.
pub fn message(bytes: &[u8]) -> bool {
    let [count, which, rest @ ..] = bytes else { return false };
    match which % 6 {
        0 => private::<ToDriver>(*count, rest),
        1 => private::<FromDriver>(*count, rest),
        2 => private::<DomainEvent>(*count, rest),
        3 => private::<Error>(*count, rest),
        4 => private::<Request>(*count, rest),
        _ => private::<Response>(*count, rest),
    }
}

/// Feeds the n-th of all arguments and replies.
struct Nth<'a> {
    left: usize,
    seen: usize,
    count: u8,
    bytes: &'a [u8],
    xdr: bool,
    accepted: bool,
}

impl Nth<'_> {
    fn one<T: Serialize + DeserializeOwned>(&mut self) {
        if self.left == self.seen {
            self.accepted = if self.xdr {
                xdr_of::<T>(self.count, self.bytes)
            } else {
                private::<T>(self.count, self.bytes)
            };
        }
        self.seen += 1;
    }
}

impl EachCall for Nth<'_> {
    fn call<A, R>(&mut self, _info: &'static CallInfo)
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.one::<A>();
        self.one::<R>();
    }
}

fn nth(bytes: &[u8], xdr: bool) -> bool {
    let [count, which, rest @ ..] = bytes else { return false };
    let all = 2 * bulkhead_wire::table::TABLES.iter().map(|(_, calls)| calls.len()).sum::<usize>();
    let left = usize::from(*which) % all;
    let mut nth = Nth { left, seen: 0, count: *count, bytes: rest, xdr, accepted: false };
    each_call(&mut nth);
    nth.accepted
}

/// Arguments and replies: the first byte says how many descriptors come, the second whose they are.
pub fn call(bytes: &[u8]) -> bool {
    nth(bytes, false)
}

/// The same in libvirt's encoding.
pub fn xdr(bytes: &[u8]) -> bool {
    nth(bytes, true)
}

/// What a libvirt client sends, and what a driver answers, each put into the other's encoding; the first two bytes are the
/// procedure, the third says which way.
pub fn translate(bytes: &[u8]) -> bool {
    let [high, low, way, rest @ ..] = bytes else { return false };
    let Some(translation) = remote::find(u32::from(u16::from_be_bytes([*high, *low]))) else { return false };
    let translate = if way % 2 == 0 { translation.arguments } else { translation.reply };
    translate(rest, descriptors(way / 2)).is_ok()
}
