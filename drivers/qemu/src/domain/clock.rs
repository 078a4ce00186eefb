//! `<clock>` and its timers.

use super::context::Context;
use super::refuse;
use crate::device::schema::{Shape, attribute, number, one_of, shape, text, yes_no};
use crate::device::value::Kind;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const CLOCK: Shape = shape(
    "clock",
    &[
        one_of("offset", &["utc", "localtime", "variable", "timezone", "absolute"]),
        text("timezone"),
        text("adjustment"),
        one_of("basis", &["utc", "localtime"]),
        attribute("start", Kind::Number(0, u64::MAX)),
    ],
    &[shape(
        "timer",
        &[
            one_of(
                "name",
                &["platform", "pit", "rtc", "hpet", "tsc", "kvmclock", "hypervclock", "armvtimer"],
            )
            .required(),
            yes_no("present"),
            one_of("tickpolicy", &["delay", "catchup", "merge", "discard"]),
            one_of("track", &["boot", "guest", "wall", "realtime"]),
            attribute("frequency", Kind::Number(0, u64::MAX)),
            one_of("mode", &["auto", "native", "emulate", "paravirt", "smpsafe"]),
        ],
        &[shape("catchup", &[number("threshold"), number("slew"), number("limit")], &[])],
    )
    .many()],
);

/// The clock in canonical form.
pub(super) fn complete(input: &Element, context: &Context) -> Result<Element, Error> {
    let empty = Element::new("clock");
    let mut clock = CLOCK.read(input.child("clock").unwrap_or(&empty))?;
    let offset = clock.attr("offset").unwrap_or("utc").to_owned();
    clock.set("offset", offset.as_str());
    match offset.as_str() {
        "utc" | "localtime" => {
            clock.unset("timezone");
            clock.unset("basis");
            clock.unset("start");
            match clock.attr("adjustment").map(str::to_owned) {
                Some(adjustment) if adjustment == "reset" => {}
                Some(adjustment) => {
                    // A fixed adjustment makes it variable, with this as its basis.
                    number_of(&adjustment)?;
                    clock.set("offset", "variable");
                    clock.set("basis", offset.as_str());
                }
                None => {}
            }
        }
        "variable" => {
            clock.unset("timezone");
            clock.unset("start");
            let adjustment = clock.attr("adjustment").unwrap_or("0").to_owned();
            clock.set("adjustment", number_of(&adjustment)?.to_string());
            if clock.attr("basis").is_none() {
                clock.set("basis", "utc");
            }
        }
        "timezone" => {
            clock.unset("adjustment");
            clock.unset("basis");
            clock.unset("start");
            if clock.attr("timezone").is_none() {
                return Err(refuse::xml("<clock>: offset 'timezone' needs the attribute 'timezone'"));
            }
        }
        _ => {
            clock.unset("timezone");
            clock.unset("adjustment");
            clock.unset("basis");
            if clock.attr("start").is_none() {
                return Err(refuse::value("<clock>: offset 'absolute' needs the attribute 'start'"));
            }
        }
    }
    complete_timers(clock, context)
}

fn number_of(text: &str) -> Result<i64, Error> {
    text.trim_start()
        .parse()
        .map_err(|_| refuse::value(format!("<clock>: adjustment '{text}' is neither a number nor 'reset'")))
}

fn complete_timers(mut clock: Element, context: &Context) -> Result<Element, Error> {
    for timer in clock.elements() {
        let name = timer.attr("name").unwrap_or_default();
        let fits = match name {
            "kvmclock" | "hypervclock" | "pit" | "hpet" | "tsc" => context.is_x86(),
            "armvtimer" => context.is_arm(),
            "platform" => false,
            _ => true,
        };
        if !fits {
            return Err(refuse::unsupported_by_qemu(format!(
                "Timer '{name}' is not for a guest of architecture '{}', machine type '{}' and type '{}'",
                context.arch, context.machine, context.virt_type
            )));
        }
    }
    CLOCK.arrange(&mut clock);
    Ok(clock)
}
