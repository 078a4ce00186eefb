//! `<input>`.

use crate::args::builder::{Builder, alias, attr, invalid, switch, unsupported};
use crate::args::json::Object;
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One input device. Those on PS/2 are parts of the machine.
pub(crate) fn build(builder: &mut Builder<'_>, input: &Element) -> Result<(), Error> {
    let kind = attr(input, "type")?;
    if kind == "evdev" {
        return evdev(builder, input);
    }
    let mut object = match input.attr("bus").unwrap_or("ps2") {
        "usb" => {
            let driver = match kind {
                "mouse" => "usb-mouse",
                "tablet" => "usb-tablet",
                "keyboard" => "usb-kbd",
                other => {
                    return Err(unsupported(format!("Input type '{other}' is not one that QEMU has on USB")));
                }
            };
            Object::new().with("driver", driver)
        }
        "virtio" => {
            let base = match kind {
                "passthrough" => "virtio-input-host".to_owned(),
                other => format!("virtio-{other}"),
            };
            virtio::device(&base, input, input.attr("model"))
        }
        _ => return Ok(()),
    };
    object.set("id", alias(input)?);
    if kind == "passthrough" {
        let device = input
            .path_attr("source", "evdev")
            .ok_or_else(|| invalid("A passed-through <input> names no event device"))?;
        object.set("evdev", device);
    }
    builder.address(input, &mut object)?;
    builder.device(&object);
    Ok(())
}

fn evdev(builder: &mut Builder<'_>, input: &Element) -> Result<(), Error> {
    let source = input.child("source").ok_or_else(|| invalid("An <input type='evdev'> has no <source>"))?;
    let mut object = Object::new()
        .with("qom-type", "input-linux")
        .with("id", alias(input)?)
        .with("evdev", attr(source, "dev")?);
    object.set_some("repeat", switch(source, "repeat"));
    if source.attr("grab") == Some("all") {
        object.set("grab_all", true);
    }
    object.set_some("grab-toggle", source.attr("grabToggle"));
    builder.object(&object);
    Ok(())
}
