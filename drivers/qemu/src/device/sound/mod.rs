//! `<sound>`.

pub(crate) mod args;

use super::common::{self, VIRTIO_DRIVER};
use super::schema::{Shape, attribute, number, one_of, shape, yes_no};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const SOUND: Shape = shape(
    "sound",
    &[
        one_of("model", &["sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "ich7", "virtio"])
            .required(),
        yes_no("multichannel"),
        attribute("streams", Kind::Number(1, u32::MAX as u64)),
    ],
    &[
        shape("codec", &[attribute("type", Kind::Supported(&["duplex", "micro", "output"])).required()], &[])
            .many(),
        shape("audio", &[number("id").required()], &[]),
        VIRTIO_DRIVER,
    ],
);

/// The canonical form of a sound card.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut sound = SOUND.read(input)?;
    let model = sound.attr("model").unwrap_or_default().to_owned();
    if !matches!(model.as_str(), "ich6" | "ich9") {
        sound
            .children
            .retain(|child| !matches!(child, bulkhead_xml::Node::Element(child) if child.name == "codec"));
    }
    if model != "usb" {
        sound.unset("multichannel");
    }
    if model != "virtio" {
        sound.unset("streams");
    } else if sound.attr("streams").is_none() {
        sound.set("streams", "2");
    }
    let driver = sound.take("driver").filter(|_| model == "virtio");
    common::append(input, &mut sound, common::PLAIN)?;
    sound.children.extend(driver.map(bulkhead_xml::Node::Element));
    Ok(sound)
}
