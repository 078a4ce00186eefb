//! `<graphics>`.

pub(crate) mod args;

mod listen;
mod spice;

use super::refusal;
use super::schema::{Shape, attribute, number, one_of, place, shape, text, yes_no};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const GL: Shape = shape("gl", &[yes_no("enable"), text("rendernode")], &[]);
const AUDIO: Shape = shape("audio", &[number("id")], &[]);

/// Attributes and children of each type. Ports, listen addresses and passwords have rules of their own.
const TYPES: &[(&str, Shape)] = &[
    (
        "vnc",
        shape(
            "graphics",
            &[
                attribute("type", Kind::Text),
                text("port"),
                text("autoport"),
                text("websocket"),
                text("socket"),
                text("listen"),
                text("keymap"),
                one_of("sharePolicy", &["allow-exclusive", "force-shared", "ignore"]),
                yes_no("powerControl"),
                text("passwd"),
                text("passwdValidTo"),
                text("connected"),
            ],
            &[place("listen"), AUDIO],
        ),
    ),
    (
        "spice",
        shape(
            "graphics",
            &[
                attribute("type", Kind::Text),
                text("port"),
                text("tlsPort"),
                text("autoport"),
                text("listen"),
                text("keymap"),
                one_of("defaultMode", &["any", "secure", "insecure"]),
                text("passwd"),
                text("passwdValidTo"),
                text("connected"),
            ],
            spice::CHILDREN,
        ),
    ),
    (
        "sdl",
        shape(
            "graphics",
            &[
                attribute("type", Kind::Text),
                text("display"),
                text("xauth"),
                yes_no("fullscreen").unless("no"),
            ],
            &[shape("gl", &[yes_no("enable")], &[])],
        ),
    ),
    (
        "egl-headless",
        shape("graphics", &[attribute("type", Kind::Text)], &[shape("gl", &[text("rendernode")], &[])]),
    ),
    (
        "dbus",
        shape(
            "graphics",
            &[attribute("type", Kind::Text), text("address"), yes_no("p2p").unless("no")],
            &[GL, AUDIO],
        ),
    ),
];

/// The protocol takes no more.
const LONGEST_VNC_PASSWORD: usize = 8;

/// What the rest of the driver asks about a display.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Element);

impl<'a> View<'a> {
    /// The type (`vnc`, `spice`, ...).
    pub(crate) fn kind(self) -> &'a str {
        self.0.attr("type").unwrap_or_default()
    }
}

/// The canonical form of a display.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let Some(kind) = input.attr("type") else {
        return Err(refusal::missing_attribute(input, "type"));
    };
    if matches!(kind, "rdp" | "desktop") {
        // Other hypervisors have those; kept as it stands until it is refused.
        return Ok(input.clone());
    }
    let Some((_, shape)) = TYPES.iter().find(|(name, _)| *name == kind) else {
        return Err(refusal::value(input, format!("display type '{kind}' is unknown")));
    };
    let mut display = shape.read(input)?;
    match kind {
        "vnc" => complete_vnc(input, &mut display)?,
        "spice" => spice::complete(input, &mut display)?,
        _ => {}
    }
    shape.arrange(&mut display);
    Ok(display)
}

fn complete_vnc(input: &Element, display: &mut Element) -> Result<(), Error> {
    listen::append(input, display)?;
    let listens = display.path_attr("listen", "type");
    if matches!(listens, Some("socket" | "none")) {
        display.unset("port");
        display.unset("autoport");
        display.unset("websocket");
    } else {
        complete_vnc_port(input, display)?;
    }
    complete_password(input, display)
}

fn complete_vnc_port(input: &Element, display: &mut Element) -> Result<(), Error> {
    let port = port_of(input, "port", "vnc")?;
    // -1 asks for any port, as no port does.
    let automatic = match input.attr("autoport") {
        Some("yes") => true,
        Some("no") => false,
        _ => matches!(port, None | Some(-1)),
    };
    let websocket = port_of(input, "websocket", "vnc")?;
    match (automatic, port) {
        (true, _) => display.set("port", "-1"),
        (false, None | Some(0 | -1)) => {
            display.unset("port");
        }
        (false, Some(port)) => display.set("port", port.to_string()),
    }
    display.set("autoport", if automatic { "yes" } else { "no" });
    match websocket {
        None | Some(0) => {
            display.unset("websocket");
        }
        Some(number) => display.set("websocket", number.to_string()),
    }
    Ok(())
}

/// A port of a display, -1 for any.
fn port_of(input: &Element, name: &str, kind: &str) -> Result<Option<i32>, Error> {
    let Some(text) = input.attr(name) else {
        return Ok(None);
    };
    text.trim_start()
        .parse::<i32>()
        .map(Some)
        .map_err(|_| refusal::internal(input, format!("{name} '{text}' of a {kind} display is not a number")))
}

/// Passwords: their length, and until when they hold. They are secret and so printed only on request; here they stay.
fn complete_password(input: &Element, display: &mut Element) -> Result<(), Error> {
    if display.attr("passwd").is_none() {
        display.unset("passwdValidTo");
        display.unset("connected");
    }
    // Words that libvirt does not know say nothing here.
    if display.attr("connected").is_some_and(|action| !matches!(action, "keep" | "disconnect" | "fail")) {
        display.unset("connected");
    }
    if let Some(until) = display.attr("passwdValidTo")
        && !is_date(until)
    {
        return Err(refusal::internal(
            input,
            format!("passwdValidTo '{until}' is not a date like 2030-12-31T23:59:59"),
        ));
    }
    Ok(())
}

/// `YYYY-MM-DDTHH:MM:SS`.
fn is_date(text: &str) -> bool {
    text.len() == 19
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            10 => byte == b'T',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        })
}

/// Whether QEMU can serve it.
pub(crate) fn check(display: &Element, context: &Context<'_>) -> Result<(), Error> {
    match View(display).kind() {
        kind @ ("rdp" | "desktop") => Err(refusal::unsupported_by_qemu(
            display,
            format!("QEMU has no display of type '{kind}'; use 'vnc' or 'spice'"),
        )),
        "vnc" if display.attr("connected").is_some_and(|action| action != "keep") => {
            Err(refusal::unsupported(
                display,
                "what happens to those who are connected when a VNC password changes is 'keep'",
            ))
        }
        // Older hosts allowed more, of which the first eight count: such a guest is not lost for it.
        "vnc" if context.host.told => Ok(()),
        "vnc" => match display.attr("passwd") {
            Some(password) if password.len() > LONGEST_VNC_PASSWORD => Err(refusal::unsupported_by_qemu(
                display,
                format!(
                    "its password has {} characters, but {LONGEST_VNC_PASSWORD} are the most",
                    password.len()
                ),
            )),
            _ => Ok(()),
        },
        "spice" => spice::check(display),
        _ => Ok(()),
    }
}
