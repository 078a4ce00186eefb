//! Channels and displays, opened for a client.

use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::Guest;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{domain_open_channel, domain_open_graphics, domain_open_graphics_fd};

pub(super) async fn domain_open_channel(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_open_channel::Arguments,
) -> Result<Descriptor, Error> {
    // Taking it from another client is between clients, and not for this driver to know.
    unsupported_flags(&call, arguments.flags, 1)?;
    let channel = arguments.channel;
    let guest = driver.guest(&arguments.domain)?;
    let opened = guest
        .object
        .run("domain_open_channel", move |guest: &mut Guest| Box::pin(guest.open_channel(channel)));
    opened.await?
}

pub(super) async fn domain_open_graphics(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_open_graphics::Arguments,
) -> Result<(), Error> {
    let domain_open_graphics::Arguments { domain, display, flags, socket } = arguments;
    unsupported_flags(&call, flags, 1)?;
    let socket = socket.into_owned().ok_or_else(|| {
        Error::new(Code::INTERNAL, Origin::RPC, "No FD available at slot 0: no socket came with the call")
    })?;
    let guest = driver.guest(&domain)?;
    let opened = guest.object.run("domain_open_graphics", move |guest: &mut Guest| {
        Box::pin(guest.open_graphics(display, flags, socket))
    });
    opened.await?
}

pub(super) async fn domain_open_graphics_fd(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_open_graphics_fd::Arguments,
) -> Result<Descriptor, Error> {
    let domain_open_graphics_fd::Arguments { domain, display, flags } = arguments;
    unsupported_flags(&call, flags, 1)?;
    let guest = driver.guest(&domain)?;
    let opened = guest.object.run("domain_open_graphics_fd", move |guest: &mut Guest| {
        Box::pin(guest.open_graphics_fd(display, flags))
    });
    opened.await?
}
