//! Where a display listens: `<listen>` and the older attributes that say the same.

use super::super::refusal;
use super::super::schema::{Shape, one_of, shape, text};
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const LISTEN: Shape = shape(
    "listen",
    &[
        one_of("type", &["address", "network", "socket", "none"]).required(),
        text("address"),
        text("network"),
        text("socket"),
    ],
    &[],
);

/// Reads the places to listen at, appends one `<listen>` at least, and repeats the first in the older attributes.
pub(super) fn append(input: &Element, display: &mut Element) -> Result<(), Error> {
    let kind = input.attr("type").unwrap_or_default();
    let address = input.attr("listen").filter(|address| !address.is_empty());
    let socket = input.attr("socket").filter(|socket| kind == "vnc" && !is_made_up(socket));
    let mut places = Vec::new();
    for given in input.all("listen") {
        places.push(read(input, given, kind)?);
    }
    match places.first() {
        Some(first) => check_agreement(input, first, address, socket)?,
        None => places.push(match (socket, address) {
            (Some(socket), _) => Element::new("listen").with("type", "socket").with("socket", socket),
            (None, Some(address)) => Element::new("listen").with("type", "address").with("address", address),
            (None, None) if kind == "spice" && asks_for_no_port(input) => {
                Element::new("listen").with("type", "none")
            }
            (None, None) => Element::new("listen").with("type", "address"),
        }),
    }
    if let (Some(socket), Some(first)) = (socket, places.first_mut())
        && first.attr("type") != Some("socket")
    {
        *first = Element::new("listen").with("type", "socket").with("socket", socket);
    }
    display.unset("listen");
    display.unset("socket");
    if let Some(first) = places.first() {
        match first.attr("type") {
            Some("address") => {
                if let Some(address) = first.attr("address") {
                    display.set("listen", address);
                }
            }
            Some("socket") if kind == "vnc" => {
                if let Some(socket) = first.attr("socket") {
                    display.set("socket", socket);
                }
            }
            _ => {}
        }
    }
    for place in places {
        display.push(place);
    }
    Ok(())
}

/// Sockets in this folder were made up for an earlier run of a guest.
fn is_made_up(socket: &str) -> bool {
    socket.starts_with("/var/lib/libvirt/qemu/")
}

/// Whether nothing says that the display shall be reached over the network.
fn asks_for_no_port(input: &Element) -> bool {
    input.attr("autoport") != Some("yes")
        && ["port", "tlsPort"].iter().all(|name| input.attr(name).is_none_or(|port| port.trim() == "0"))
}

fn read(input: &Element, given: &Element, kind: &str) -> Result<Element, Error> {
    let mut place = LISTEN.read(given)?;
    let listens = place.attr("type").unwrap_or_default().to_owned();
    for name in ["address", "network", "socket"] {
        if place.attr(name) == Some("") || name != listens {
            if name == "address" && listens == "network" {
                continue;
            }
            place.unset(name);
        }
    }
    match listens.as_str() {
        "network" => {
            place.unset("address");
            if place.attr("network").is_none() {
                return Err(refusal::xml(input, "<listen type='network'> needs the network's name"));
            }
        }
        "none" if kind != "spice" && kind != "vnc" => {
            return Err(refusal::unsupported(
                input,
                format!("a display of type '{kind}' can't listen nowhere"),
            ));
        }
        _ => {}
    }
    Ok(place)
}

fn check_agreement(
    input: &Element,
    first: &Element,
    address: Option<&str>,
    socket: Option<&str>,
) -> Result<(), Error> {
    for (name, older, own, kind) in
        [("listen", address, "address", "address"), ("socket", socket, "socket", "socket")]
    {
        let Some(older) = older else {
            continue;
        };
        if first.attr("type") == Some(kind)
            && let Some(found) = first.attr(own)
            && found != older
        {
            return Err(refusal::unsupported(
                input,
                format!(
                    "its attribute '{name}' says '{older}', its first <listen> '{found}'; make them equal"
                ),
            ));
        }
    }
    Ok(())
}
