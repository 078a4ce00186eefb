//! The host's end of a character device: what serial ports, consoles, channels, redirected USB devices, smart cards,
//! random number sources and TPMs are connected to.

use super::refusal;
use super::schema::{Attribute, Shape, attribute, number, on_off, one_of, shape, text, yes_no};
use super::source::{self, SECLABEL};
use super::value::Kind;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The types of connections.
pub(crate) const TYPES: Kind = Kind::Supported(&[
    "null",
    "vc",
    "pty",
    "dev",
    "file",
    "pipe",
    "stdio",
    "udp",
    "tcp",
    "unix",
    "spicevmc",
    "spiceport",
    "nmdm",
    "qemu-vdagent",
    "dbus",
]);

const RECONNECT: Shape = shape("reconnect", &[yes_no("enabled").required(), number("timeout")], &[]);
const LOG: Shape = shape("log", &[text("file"), on_off("append")], &[]);
const PROTOCOL: Shape =
    shape("protocol", &[attribute("type", Kind::OneOf(&["raw", "telnet", "telnets", "tls"]))], &[]);
const CLIPBOARD: Shape = shape("clipboard", &[yes_no("copypaste").required()], &[]);
const MOUSE: Shape = shape("mouse", &[one_of("mode", &["server", "client"]).required()], &[]);
const MODE: Attribute = attribute("mode", Kind::OneOf(&["connect", "bind"]));

/// What `<source>` of a type of connection holds; types that are not here have none.
const SOURCES: &[(&str, Shape)] = &[
    ("dev", shape("source", &[text("path")], &[SECLABEL])),
    ("pipe", shape("source", &[text("path")], &[SECLABEL])),
    ("file", shape("source", &[text("path"), on_off("append")], &[SECLABEL])),
    ("nmdm", shape("source", &[text("master"), text("slave")], &[])),
    ("udp", shape("source", &[MODE, text("host"), text("service")], &[])),
    ("tcp", shape("source", &[MODE, text("host"), text("service"), yes_no("tls")], &[RECONNECT])),
    ("unix", shape("source", &[MODE, text("path")], &[RECONNECT, SECLABEL])),
    ("spiceport", shape("source", &[text("channel")], &[])),
    ("qemu-vdagent", shape("source", &[], &[CLIPBOARD, MOUSE])),
    ("dbus", shape("source", &[text("channel")], &[])),
];

/// Whether a socket may be left to libvirt to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketPath {
    /// It must be given.
    Given,
    /// It is made up when it is needed.
    Automatic,
}

/// Reads `<source>`, `<log>` and `<protocol>` of `input` for its type of connection and appends them.
pub(crate) fn append(
    input: &Element,
    device: &mut Element,
    kind: &str,
    path: SocketPath,
) -> Result<(), Error> {
    let mut sources = Vec::new();
    if let Some((_, shape)) = SOURCES.iter().find(|(name, _)| *name == kind) {
        for given in input.all("source") {
            sources.push(shape.read(given)?);
        }
    }
    let limit = if kind == "udp" { 2 } else { 1 };
    if sources.len() > limit {
        return Err(refusal::xml(input, format!("a device of type '{kind}' has at most {limit} <source>")));
    }
    match kind {
        "udp" => append_udp(input, device, &sources)?,
        "tcp" => append_tcp(input, device, sources.into_iter().next())?,
        "unix" => append_unix(input, device, sources.into_iter().next(), path)?,
        _ => append_other(input, device, kind, sources.into_iter().next())?,
    }
    if input.path_attr("log", "file").is_some() {
        LOG.read_child(input, device)?;
    }
    if kind == "tcp" {
        let mut protocol = match input.child("protocol") {
            Some(given) => PROTOCOL.read(given)?,
            None => Element::new("protocol"),
        };
        if protocol.attr("type").is_none() {
            protocol.set("type", "raw");
        }
        device.push(protocol);
    }
    Ok(())
}

fn missing(input: &Element, kind: &str, what: &str) -> Error {
    refusal::internal(input, format!("a device of type '{kind}' needs the {what} of its <source>"))
}

fn append_udp(input: &Element, device: &mut Element, sources: &[Element]) -> Result<(), Error> {
    let of_mode = |bind: bool| sources.iter().find(|source| (source.attr("mode") == Some("bind")) == bind);
    let end = |mode: &str, source: &Element| {
        let mut end = Element::new("source").with("mode", mode);
        for name in ["host", "service"] {
            if let Some(value) = source.attr(name) {
                end.set(name, value);
            }
        }
        end
    };
    let Some(connect) = of_mode(false).filter(|source| source.attr("service").is_some()) else {
        return Err(missing(input, "udp", "service"));
    };
    if let Some(bind) = of_mode(true)
        && (bind.attr("host").is_some() || bind.attr("service").is_some())
    {
        device.push(end("bind", bind));
    }
    device.push(end("connect", connect));
    Ok(())
}

fn append_tcp(input: &Element, device: &mut Element, source: Option<Element>) -> Result<(), Error> {
    let Some(mut source) = source else {
        return Err(missing(input, "tcp", "host"));
    };
    for name in ["host", "service"] {
        if source.attr(name).is_none() {
            return Err(missing(input, "tcp", name));
        }
    }
    complete_mode(&mut source);
    check_reconnect(&mut source)?;
    device.push(source);
    Ok(())
}

fn append_unix(
    input: &Element,
    device: &mut Element,
    source: Option<Element>,
    path: SocketPath,
) -> Result<(), Error> {
    let mut source = source.unwrap_or_else(|| Element::new("source"));
    if source.attr("path") == Some("") {
        source.unset("path");
    }
    if source.attr("path").is_none() && path == SocketPath::Given {
        return Err(missing(input, "unix", "path"));
    }
    complete_mode(&mut source);
    check_reconnect(&mut source)?;
    source::complete_labels(&mut source);
    if source.attr("path").is_some() || source.child("reconnect").is_some() {
        device.push(source);
    }
    Ok(())
}

fn complete_mode(source: &mut Element) {
    if source.attr("mode").is_none() {
        source.attributes.insert(0, ("mode".to_owned(), "connect".to_owned()));
    }
}

fn check_reconnect(source: &mut Element) -> Result<(), Error> {
    let bind = source.attr("mode") == Some("bind");
    let Some(reconnect) = source.child("reconnect") else {
        return Ok(());
    };
    if reconnect.attr("enabled") == Some("yes") {
        if reconnect.attr("timeout").is_none() {
            return Err(refusal::missing_attribute(reconnect, "timeout"));
        }
        if bind {
            return Err(refusal::internal(
                source,
                "only a client reconnects; remove <reconnect> or use mode 'connect'",
            ));
        }
    }
    let Some(reconnect) = source.child_mut("reconnect") else {
        return Ok(());
    };
    if reconnect.attr("enabled") == Some("no") {
        reconnect.unset("timeout");
    }
    Ok(())
}

fn append_other(
    input: &Element,
    device: &mut Element,
    kind: &str,
    source: Option<Element>,
) -> Result<(), Error> {
    let mut source = source.unwrap_or_else(|| Element::new("source"));
    source::complete_labels(&mut source);
    let required: &[&str] = match kind {
        "dev" | "file" | "pipe" => &["path"],
        "nmdm" => &["master", "slave"],
        "spiceport" => &["channel"],
        "dbus" if source.attr("channel").is_none() => {
            return Err(refusal::unsupported(
                input,
                "a device of type 'dbus' needs the channel of its <source>",
            ));
        }
        _ => &[],
    };
    for name in required {
        if source.attr(name).is_none_or(str::is_empty) {
            return Err(missing(input, kind, name));
        }
    }
    if !source.attributes.is_empty() || !source.children.is_empty() {
        device.push(source);
    }
    Ok(())
}

/// Whether QEMU can make the connection.
pub(crate) fn check(device: &Element) -> Result<(), Error> {
    match device.path_attr("protocol", "type") {
        Some(protocol @ ("telnets" | "tls")) => Err(refusal::unsupported_by_qemu(
            device,
            format!("QEMU has no connections with protocol '{protocol}'; use 'raw' or 'telnet'"),
        )),
        _ => Ok(()),
    }
}
