//! `<graphics>`.

use crate::args::builder::{Builder, attr, invalid, switch, unsupported};
use crate::args::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The first port of each protocol, which a guest shows that is not started.
const FIRST_VNC_PORT: i64 = 5900;
const SPICE_PORT: i64 = 5901;
const SPICE_TLS_PORT: i64 = 5902;
const LOCALHOST: &str = "127.0.0.1";

/// One display.
pub(crate) fn build(builder: &mut Builder<'_>, graphics: &Element) -> Result<(), Error> {
    match attr(graphics, "type")? {
        "vnc" => vnc(builder, graphics),
        "spice" => spice(builder, graphics),
        "sdl" => {
            let mut list = KeyValues::new("sdl");
            if let Some(on) = graphics.child("gl").and_then(|gl| switch(gl, "enable")) {
                list.switch("gl", on);
            }
            builder.option("-display", list)?;
            if switch(graphics, "fullscreen") == Some(true) {
                builder.flag("-full-screen");
            }
            Ok(())
        }
        "egl-headless" => {
            let mut list = KeyValues::new("egl-headless");
            list.set_some("rendernode", graphics.path_attr("gl", "rendernode"));
            builder.option("-display", list)
        }
        "dbus" => {
            let mut list = KeyValues::new("dbus");
            if switch(graphics, "p2p") == Some(true) {
                list.switch("p2p", true);
            } else {
                match graphics.attr("address") {
                    Some(address) => list.set("addr", address),
                    None => list.set("addr", format!("unix:path={}", builder.paths.bus)),
                };
            }
            if let Some(gl) = graphics.child("gl") {
                if let Some(on) = switch(gl, "enable") {
                    list.switch("gl", on);
                }
                list.set_some("rendernode", gl.attr("rendernode"));
            }
            if let Some(audio) = graphics.path_attr("audio", "id") {
                list.set("audiodev", format!("audio{audio}"));
            }
            builder.option("-display", list)
        }
        other => Err(unsupported(format!("Graphics type '{other}' is not one that QEMU has"))),
    }
}

/// A socket's path; without one it lies in the guest's folder.
fn socket_path(builder: &Builder<'_>, listen: &Element, name: &str) -> String {
    match listen.attr("socket") {
        Some(path) => path.to_owned(),
        None => format!("{}/{name}.sock", builder.paths.guest),
    }
}

fn port(graphics: &Element, name: &str) -> Result<i64, Error> {
    match graphics.attr(name) {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| invalid(format!("'{text}' is not a port"))),
    }
}

/// The address to listen at; one that is to be worked out is the local host.
fn address<'a>(graphics: &'a Element, listen: &'a Element) -> &'a str {
    listen.attr("address").or_else(|| graphics.attr("listen")).unwrap_or(LOCALHOST)
}

fn vnc(builder: &mut Builder<'_>, graphics: &Element) -> Result<(), Error> {
    let own = Element::new("listen").with("type", "address");
    let listen = graphics.child("listen").unwrap_or(&own);
    let mut list = match listen.attr("type") {
        // It is told later where to listen: it may not make a socket.
        Some("socket") if builder.launches() => KeyValues::new("none"),
        Some("socket") => {
            let path = socket_path(builder, listen, "vnc");
            KeyValues::empty().with("vnc", format!("unix:{path}"))
        }
        Some("none") => KeyValues::new("none"),
        _ => {
            let host = address(graphics, listen);
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let number = port(graphics, "port")?;
            let number = if number > 0 { number } else { FIRST_VNC_PORT };
            let mut list = KeyValues::new(&format!("{host}:{}", number - FIRST_VNC_PORT));
            match port(graphics, "websocket")? {
                0 => {}
                websocket => {
                    list.set("websocket", websocket);
                }
            }
            list
        }
    };
    list.set_some("share", graphics.attr("sharePolicy"));
    if graphics.attr("passwd").is_some() {
        list.switch("password", true);
    }
    if let Some(on) = switch(graphics, "powerControl") {
        list.switch("power-control", on);
    }
    if let Some(audio) = audio_of(builder, graphics) {
        list.set("audiodev", audio);
    }
    builder.option("-vnc", list)?;
    keymap(builder, graphics)
}

fn keymap(builder: &mut Builder<'_>, graphics: &Element) -> Result<(), Error> {
    match graphics.attr("keymap") {
        Some(keymap) => builder.option("-k", KeyValues::new(keymap)),
        None => Ok(()),
    }
}

/// The audio backend that a VNC client hears.
fn audio_of(builder: &Builder<'_>, graphics: &Element) -> Option<String> {
    let id = match graphics.path_attr("audio", "id") {
        Some(id) => id,
        None => builder.devices("audio").next()?.attr("id")?,
    };
    Some(format!("audio{id}"))
}

fn spice(builder: &mut Builder<'_>, graphics: &Element) -> Result<(), Error> {
    let own = Element::new("listen").with("type", "address");
    let listen = graphics.child("listen").unwrap_or(&own);
    let gl = graphics.child("gl").filter(|gl| switch(gl, "enable") == Some(true));
    let mut list = KeyValues::empty();
    let mut tls = false;
    match listen.attr("type") {
        Some("socket") => {
            list.switch("unix", true).set("addr", socket_path(builder, listen, "spice"));
        }
        Some("none") => {
            list.set("port", 0);
        }
        _ => tls = spice_ports(graphics, listen, &mut list)?,
    }
    if let Some(mode) = graphics.path_attr("mouse", "mode") {
        list.switch("agent-mouse", mode == "client");
    }
    if graphics.attr("passwd").is_none() {
        list.switch("disable-ticketing", true);
    }
    if tls {
        list.set("x509-dir", builder.paths.certificates.as_str());
    }
    channels(graphics, tls, &mut list)?;
    for (element, attribute, property) in [
        ("image", "compression", "image-compression"),
        ("jpeg", "compression", "jpeg-wan-compression"),
        ("zlib", "compression", "zlib-glz-wan-compression"),
        ("playback", "compression", "playback-compression"),
        ("streaming", "mode", "streaming-video"),
    ] {
        list.set_some(property, graphics.path_attr(element, attribute));
    }
    if graphics.child("clipboard").and_then(|clip| switch(clip, "copypaste")) == Some(false) {
        list.switch("disable-copy-paste", true);
    }
    if graphics.child("filetransfer").and_then(|files| switch(files, "enable")) == Some(false) {
        list.switch("disable-agent-file-xfer", true);
    }
    if let Some(gl) = gl {
        list.switch("gl", true);
        list.set_some("rendernode", gl.attr("rendernode"));
    }
    list.switch("seamless-migration", true);
    builder.option("-spice", list)?;
    keymap(builder, graphics)
}

/// The ports; whether there is a TLS one.
fn spice_ports(graphics: &Element, listen: &Element, list: &mut KeyValues) -> Result<bool, Error> {
    let (plain, tls) = (port(graphics, "port")?, port(graphics, "tlsPort")?);
    let automatic = switch(graphics, "autoport") == Some(true);
    let mode = graphics.attr("defaultMode");
    let channel = |wanted: &str| graphics.all("channel").any(|channel| channel.attr("mode") == Some(wanted));
    let pick = |given: i64, wanted: bool, automatic: i64| {
        if given > 0 {
            given
        } else if given == -1 || wanted {
            automatic
        } else {
            0
        }
    };
    let secure = mode == Some("secure") || channel("secure");
    let plain = pick(plain, automatic && mode != Some("secure"), SPICE_PORT);
    let tls = pick(tls, automatic && secure, SPICE_TLS_PORT);
    if plain > 0 || tls <= 0 {
        list.set("port", plain);
    }
    if tls > 0 {
        list.set("tls-port", tls);
    }
    if plain > 0 || tls > 0 {
        list.set("addr", address(graphics, listen));
    }
    Ok(tls > 0)
}

fn channels(graphics: &Element, tls: bool, list: &mut KeyValues) -> Result<(), Error> {
    match graphics.attr("defaultMode") {
        Some("secure") if tls => {
            list.set("tls-channel", "default");
        }
        Some("insecure") => {
            list.set("plaintext-channel", "default");
        }
        _ => {}
    }
    for channel in graphics.all("channel") {
        let name = attr(channel, "name")?;
        match channel.attr("mode") {
            Some("secure") if tls => {
                list.set("tls-channel", name);
            }
            Some("insecure") => {
                list.set("plaintext-channel", name);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether QEMU must be told to show nothing.
pub(crate) fn is_headless(builder: &Builder<'_>) -> bool {
    builder.devices("graphics").next().is_none()
}
