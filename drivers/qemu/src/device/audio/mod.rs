//! `<audio>`.

pub(crate) mod args;

use super::refusal;
use super::schema::{Attribute, Shape, attribute, number, one_of, place, shape, text, yes_no};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const TYPE: Attribute = one_of(
    "type",
    &["none", "alsa", "coreaudio", "dbus", "file", "jack", "oss", "pulseaudio", "pipewire", "sdl", "spice"],
)
.required();
const ID: Attribute = attribute("id", Kind::Number(1, u32::MAX as u64)).required();
const TIMER: Attribute = attribute("timerPeriod", Kind::Number(1, u32::MAX as u64));

const CHILDREN: &[Shape] = &[place("input"), place("output")];

const SETTINGS: Shape = shape(
    "settings",
    &[
        number("frequency"),
        number("channels"),
        one_of("format", &["s8", "u8", "s16", "u16", "s32", "u32", "f32"]),
    ],
    &[],
);

const DIRECTION_CHILDREN: &[Shape] = &[SETTINGS];

/// Declares the attributes of one direction: those of every type and those of one.
macro_rules! direction {
    ($($own:expr),*) => {
        &[
            yes_no("mixingEngine"),
            yes_no("fixedSettings"),
            number("voices"),
            number("bufferLength"),
            $($own),*
        ]
    };
}

/// Attributes of each type, of the device and of its directions.
const TYPES: &[(&str, Shape, &[Attribute])] = &[
    ("alsa", shape("audio", &[ID, TYPE, TIMER], CHILDREN), direction!(text("dev"))),
    ("coreaudio", shape("audio", &[ID, TYPE, TIMER], CHILDREN), direction!(number("bufferCount"))),
    ("file", shape("audio", &[ID, TYPE, TIMER, text("path")], CHILDREN), direction!()),
    (
        "jack",
        shape("audio", &[ID, TYPE, TIMER], CHILDREN),
        direction!(text("serverName"), text("clientName"), text("connectPorts"), yes_no("exactName")),
    ),
    (
        "oss",
        shape(
            "audio",
            &[ID, TYPE, TIMER, yes_no("tryMMap"), yes_no("exclusive"), number("dspPolicy")],
            CHILDREN,
        ),
        direction!(text("dev"), number("bufferCount"), yes_no("tryPoll")),
    ),
    (
        "pulseaudio",
        shape("audio", &[ID, TYPE, TIMER, text("serverName")], CHILDREN),
        direction!(text("name"), text("streamName"), number("latency")),
    ),
    (
        "pipewire",
        shape("audio", &[ID, TYPE, TIMER, text("runtimeDir")], CHILDREN),
        direction!(text("name"), text("streamName"), number("latency")),
    ),
    (
        "sdl",
        shape(
            "audio",
            &[ID, TYPE, TIMER, one_of("driver", &["esd", "alsa", "arts", "pulseaudio"])],
            CHILDREN,
        ),
        direction!(number("bufferCount")),
    ),
];

/// A type without attributes of its own.
const PLAIN: Shape = shape("audio", &[ID, TYPE, TIMER], CHILDREN);
const PLAIN_DIRECTION: &[Attribute] = direction!();

/// The canonical form of a host's audio backend.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let kind = input.attr("type").unwrap_or_default();
    let (shape, directions) = TYPES
        .iter()
        .find(|(name, ..)| *name == kind)
        .map_or((PLAIN, PLAIN_DIRECTION), |(_, shape, directions)| (*shape, *directions));
    let mut audio = shape.read(input)?;
    for name in ["input", "output"] {
        let Some(given) = input.child(name) else {
            continue;
        };
        let direction = read_direction(given, name, directions)?;
        if !direction.attributes.is_empty() || !direction.children.is_empty() {
            audio.push(direction);
        }
    }
    Ok(audio)
}

fn read_direction(
    given: &Element,
    name: &'static str,
    attributes: &'static [Attribute],
) -> Result<Element, Error> {
    let mut direction = shape(name, attributes, DIRECTION_CHILDREN).read(given)?;
    for name in ["voices", "bufferLength", "bufferCount", "latency"] {
        if direction.attr(name) == Some("0") {
            direction.unset(name);
        }
    }
    Ok(direction)
}

/// Whether the settings of both directions fit.
pub(crate) fn check(audio: &Element, _context: &Context<'_>) -> Result<(), Error> {
    for direction in audio.elements() {
        let fixed = direction.attr("fixedSettings") == Some("yes");
        if fixed && direction.attr("mixingEngine") == Some("no") {
            return Err(refusal::unsupported(
                audio,
                "fixed settings need the mixing engine; remove mixingEngine='no'",
            ));
        }
        if direction.child("settings").is_some() && !fixed {
            return Err(refusal::unsupported(audio, "<settings> need fixedSettings='yes'"));
        }
    }
    Ok(())
}
