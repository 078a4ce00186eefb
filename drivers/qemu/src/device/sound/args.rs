//! `<sound>`: cards of the guest.

use crate::args::builder::{Builder, alias, attr, number_attr, switch, unsupported};
use crate::args::json::Object;
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One card with its codecs.
pub(crate) fn build(builder: &mut Builder<'_>, sound: &Element) -> Result<(), Error> {
    let name = alias(sound)?;
    let model = attr(sound, "model")?;
    let hda = matches!(model, "ich6" | "ich7" | "ich9");
    let mut object = match model {
        // The machine's own.
        "pcspk" => return Ok(()),
        "ich6" => Object::new().with("driver", "intel-hda"),
        "ich9" => Object::new().with("driver", "ich9-intel-hda"),
        "ac97" => Object::new().with("driver", "AC97"),
        "es1370" => Object::new().with("driver", "ES1370"),
        "sb16" => Object::new().with("driver", "sb16"),
        "usb" => Object::new().with("driver", "usb-audio"),
        "virtio" => virtio::device("virtio-sound", sound, None),
        other => {
            return Err(unsupported(format!("Sound model '{other}' is not one that QEMU has")));
        }
    };
    object.set("id", name);
    let audio = audio_of(builder, sound);
    if !hda {
        object.set_some("audiodev", audio.as_deref());
    }
    if model == "usb" {
        object.set_some("multi", switch(sound, "multichannel"));
    }
    if model == "virtio" {
        object.set("streams", number_attr(sound, "streams")?.unwrap_or(2));
    }
    builder.address(sound, &mut object)?;
    builder.device(&object);
    if !hda {
        return Ok(());
    }
    let own = Element::new("codec").with("type", "duplex");
    let mut codecs: Vec<&Element> = sound.all("codec").collect();
    if codecs.is_empty() {
        codecs.push(&own);
    }
    for (number, codec) in (0_u64..).zip(codecs) {
        let mut object = Object::new()
            .with("driver", format!("hda-{}", codec.attr("type").unwrap_or("duplex")))
            .with("id", format!("{name}-codec{number}"))
            .with("bus", format!("{name}.0"))
            .with("cad", number);
        object.set_some("audiodev", audio.as_deref());
        builder.device(&object);
    }
    Ok(())
}

/// The backend on the host: the one that is named, else the first.
fn audio_of(builder: &Builder<'_>, sound: &Element) -> Option<String> {
    let id = match sound.path_attr("audio", "id") {
        Some(id) => id,
        None => builder.devices("audio").next()?.attr("id")?,
    };
    Some(format!("audio{id}"))
}
