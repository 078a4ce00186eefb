//! One module per kind of device: its view, its defaults and checks (`complete`), its part of the command line (`args`).
//!
//! What several kinds share stands beside them: tables of elements (`schema`), values (`value`), refusals
//! (`refusal`), addresses (`address`), parts of any device (`common`), storage (`source`) and connections of
//! character devices (`chardev`).

pub(crate) mod address;
pub(crate) mod audio;
pub(crate) mod character;
pub(crate) mod chardev;
pub(crate) mod common;
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
pub(crate) mod siblings;
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

use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// A kind of device.
struct Kind {
    /// The name of its element.
    name: &'static str,
    /// Turns a device as a client wrote it into its canonical form.
    complete: fn(&Element, &Context<'_>) -> Result<Element, Error>,
    /// Whether a complete device suits the guest and QEMU.
    check: fn(&Element, &Context<'_>) -> Result<(), Error>,
}

const fn kind(
    name: &'static str,
    complete: fn(&Element, &Context<'_>) -> Result<Element, Error>,
    check: fn(&Element, &Context<'_>) -> Result<(), Error>,
) -> Kind {
    Kind { name, complete, check }
}

/// A kind of device that suits every guest once it is complete.
fn always(_: &Element, _: &Context<'_>) -> Result<(), Error> {
    Ok(())
}

/// Every kind of device.
const KINDS: &[Kind] = &[
    kind("audio", audio::complete, audio::check),
    kind("channel", character::complete, character::check),
    kind("console", character::complete, character::check),
    kind("controller", controller::complete, controller::check),
    kind("crypto", crypto::complete, crypto::check),
    kind("disk", disk::complete, disk::check),
    kind("filesystem", filesystem::complete, filesystem::check),
    kind("graphics", graphics::complete, graphics::check),
    kind("hostdev", hostdev::complete, hostdev::check),
    kind("hub", hub::complete, always),
    kind("input", input::complete, input::check),
    kind("interface", interface::complete, interface::check),
    kind("iommu", iommu::complete, iommu::check),
    kind("lease", lease::complete, always),
    kind("memballoon", memballoon::complete, always),
    kind("memory", memory::complete, memory::check),
    kind("nvram", nvram::complete, nvram::check),
    kind("panic", panic::complete, panic::check),
    kind("parallel", character::complete, character::check),
    kind("pstore", pstore::complete, always),
    kind("redirdev", redirdev::complete, always),
    kind("redirfilter", redirdev::complete_filter, always),
    kind("rng", rng::complete, always),
    kind("serial", character::complete, character::check),
    kind("shmem", shmem::complete, shmem::check),
    kind("smartcard", smartcard::complete, always),
    kind("sound", sound::complete, always),
    kind("tpm", tpm::complete, tpm::check),
    kind("video", video::complete, video::check),
    kind("vsock", vsock::complete, vsock::check),
    kind("watchdog", watchdog::complete, watchdog::check),
];

fn kind_of(device: &Element) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == device.name)
}

/// The canonical form of any device; `None` for an element that is no device, which libvirt drops.
///
/// A definition is read in two rounds, so that the first fault reported is the one that stock libvirt reports: all
/// devices are completed, then addresses are assigned, then all devices are given to [`check`].
pub(crate) fn complete(input: &Element, context: &Context<'_>) -> Result<Option<Element>, Error> {
    kind_of(input)
        .map(|kind| (kind.complete)(input, context))
        .transpose()
        // A filter without rules says nothing.
        .map(|device| device.filter(|device| device.name != "redirfilter" || !device.children.is_empty()))
}

/// Whether a complete device suits the guest and QEMU.
pub(crate) fn check(device: &Element, context: &Context<'_>) -> Result<(), Error> {
    kind_of(device).map_or(Ok(()), |kind| (kind.check)(device, context))
}
