//! The parts of a display that only SPICE has.

use super::super::refusal;
use super::super::schema::{Shape, one_of, place, shape, yes_no};
use super::{GL, complete_password, listen, port_of};
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The channels of the protocol, in the order in which they are printed.
const CHANNELS: &[&str] =
    &["main", "display", "inputs", "cursor", "playback", "record", "smartcard", "usbredir"];

const CHANNEL: Shape = shape(
    "channel",
    &[one_of("name", CHANNELS).required(), one_of("mode", &["any", "secure", "insecure"]).required()],
    &[],
)
.many();

/// The children of a SPICE display.
pub(super) const CHILDREN: &[Shape] = &[
    place("listen"),
    CHANNEL,
    shape("image", &[one_of("compression", &["auto_glz", "auto_lz", "quic", "glz", "lz", "off"])], &[]),
    shape("jpeg", &[one_of("compression", &["auto", "never", "always"])], &[]),
    shape("zlib", &[one_of("compression", &["auto", "never", "always"])], &[]),
    shape("playback", &[one_of("compression", &["on", "off"])], &[]),
    shape("streaming", &[one_of("mode", &["filter", "all", "off"])], &[]),
    shape("mouse", &[one_of("mode", &["server", "client"])], &[]),
    shape("clipboard", &[yes_no("copypaste")], &[]),
    shape("filetransfer", &[yes_no("enable")], &[]),
    GL,
];

/// Ports, channels and listen addresses.
pub(super) fn complete(input: &Element, display: &mut Element) -> Result<(), Error> {
    listen::append(input, display)?;
    complete_ports(input, display)?;
    complete_channels(display);
    if display.attr("defaultMode") == Some("any") {
        display.unset("defaultMode");
    }
    if display.path_attr("gl", "enable").is_none() {
        display.take("gl");
    }
    complete_password(input, display)
}

/// One entry for each channel with a mode of its own, in the order of the table.
fn complete_channels(display: &mut Element) {
    let mut channels: Vec<Element> = Vec::new();
    while let Some(channel) = display.take("channel") {
        channels.retain(|earlier| earlier.attr("name") != channel.attr("name"));
        channels.push(channel);
    }
    channels.retain(|channel| channel.attr("mode") != Some("any"));
    channels.sort_by_key(|channel| CHANNELS.iter().position(|name| Some(*name) == channel.attr("name")));
    for channel in channels {
        display.push(channel);
    }
}

fn complete_ports(input: &Element, display: &mut Element) -> Result<(), Error> {
    let mut port = port_of(input, "port", "spice")?.unwrap_or(0);
    let mut tls = port_of(input, "tlsPort", "spice")?.unwrap_or(0);
    let automatic = input.attr("autoport") == Some("yes") || (port == -1 && tls == -1);
    if automatic {
        port = 0;
        tls = 0;
    }
    let listens_on_port = display
        .child("listen")
        .is_some_and(|listen| matches!(listen.attr("type"), Some("address" | "network")));
    display.unset("port");
    display.unset("tlsPort");
    display.unset("autoport");
    if !listens_on_port {
        return Ok(());
    }
    if port != 0 {
        display.set("port", port.to_string());
    }
    if tls != 0 {
        display.set("tlsPort", tls.to_string());
    }
    if automatic {
        display.set("autoport", "yes");
    } else {
        display.set("autoport", "no");
    }
    Ok(())
}

/// Whether QEMU can serve it on this host.
pub(super) fn check(display: &Element) -> Result<(), Error> {
    if display.attr("tlsPort").is_some() {
        return Err(refusal::unsupported_by_qemu(
            display,
            "its TLS port can't be served, as TLS for SPICE is not set up on this host; remove tlsPort",
        ));
    }
    Ok(())
}
