//! `<watchdog>`.

use crate::args::builder::{Builder, alias, attr};
use crate::args::json::Object;
use crate::args::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// All watchdogs and what happens when one bites.
pub(crate) fn build(builder: &mut Builder<'_>) -> Result<(), Error> {
    let watchdogs: Vec<&Element> = builder.devices("watchdog").collect();
    for watchdog in &watchdogs {
        let model = attr(watchdog, "model")?;
        if model == "itco" {
            // A part of the chipset, which is off until it is told otherwise.
            let mut list = KeyValues::empty();
            list.switch("ICH9-LPC.noreboot", false);
            builder.option("-global", list)?;
            continue;
        }
        one(builder, watchdog)?;
    }
    let Some(first) = watchdogs.first() else {
        return Ok(());
    };
    builder.option("-watchdog-action", KeyValues::new(action(first)))
}

/// What QEMU does when it bites.
pub(crate) fn action(watchdog: &Element) -> &str {
    match watchdog.attr("action").unwrap_or("reset") {
        // QEMU stops the guest; the dump is taken from outside.
        "dump" => "pause",
        other => other,
    }
}

/// One watchdog that is a device of its own.
pub(crate) fn one(builder: &mut Builder<'_>, watchdog: &Element) -> Result<(), Error> {
    let mut object = Object::new().with("driver", attr(watchdog, "model")?).with("id", alias(watchdog)?);
    builder.address(watchdog, &mut object)?;
    builder.device(&object);
    Ok(())
}
