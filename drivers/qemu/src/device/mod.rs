//! One module per kind of device: its view, its defaults and checks (`complete`), its part of the command line (`args`).
//!
//! What several kinds share stands beside them: tables of elements ([`schema`]), values ([`value`]), refusals
//! ([`refusal`]), addresses ([`address`]), parts of any device ([`common`]), storage ([`source`]) and connections of
//! character devices ([`chardev`]).

pub(crate) mod address;
pub(crate) mod audio;
pub(crate) mod character;
pub(crate) mod chardev;
pub(crate) mod common;
pub(crate) mod context;
pub(crate) mod controller;
pub(crate) mod crypto;
pub(crate) mod disk;
pub(crate) mod filesystem;
pub(crate) mod graphics;
pub(crate) mod hostdev;
pub(crate) mod hub;
pub(crate) mod input;
pub(crate) mod interface;
pub(crate) mod iommu;
pub(crate) mod lease;
pub(crate) mod memballoon;
pub(crate) mod memory;
pub(crate) mod nvram;
pub(crate) mod panic;
pub(crate) mod pstore;
pub(crate) mod redirdev;
pub(crate) mod refusal;
pub(crate) mod rng;
pub(crate) mod schema;
pub(crate) mod shmem;
pub(crate) mod smartcard;
pub(crate) mod sound;
pub(crate) mod source;
pub(crate) mod tpm;
pub(crate) mod value;
pub(crate) mod video;
pub(crate) mod vsock;
pub(crate) mod watchdog;

#[cfg(test)]
mod tests;

use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use context::Context;

/// Turns a device as a client wrote it into its canonical form.
type Complete = fn(&Element, &Context) -> Result<Element, Error>;

/// Every kind of device, by the name of its element.
const KINDS: &[(&str, Complete)] = &[
    ("audio", audio::complete),
    ("channel", character::complete),
    ("console", character::complete),
    ("controller", controller::complete),
    ("crypto", crypto::complete),
    ("disk", disk::complete),
    ("filesystem", filesystem::complete),
    ("graphics", graphics::complete),
    ("hostdev", hostdev::complete),
    ("hub", hub::complete),
    ("input", input::complete),
    ("interface", interface::complete),
    ("iommu", iommu::complete),
    ("lease", lease::complete),
    ("memballoon", memballoon::complete),
    ("memory", memory::complete),
    ("nvram", nvram::complete),
    ("panic", panic::complete),
    ("parallel", character::complete),
    ("pstore", pstore::complete),
    ("redirdev", redirdev::complete),
    ("redirfilter", redirdev::complete_filter),
    ("rng", rng::complete),
    ("serial", character::complete),
    ("shmem", shmem::complete),
    ("smartcard", smartcard::complete),
    ("sound", sound::complete),
    ("tpm", tpm::complete),
    ("video", video::complete),
    ("vsock", vsock::complete),
    ("watchdog", watchdog::complete),
];

/// The canonical form of any device; `None` for an element that is no device, which libvirt drops.
pub(crate) fn complete(input: &Element, context: &Context) -> Result<Option<Element>, Error> {
    KINDS
        .iter()
        .find(|(name, _)| *name == input.name)
        .map(|(_, complete)| complete(input, context))
        .transpose()
}
