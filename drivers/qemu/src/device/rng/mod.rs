//! `<rng>`.

pub(crate) mod args;

use super::chardev::{self, SocketPath};
use super::common::{self, VIRTIO_DRIVER};
use super::refusal;
use super::schema::{Shape, attribute, count, one_of, place, shape};
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const RNG: Shape = shape(
    "rng",
    &[one_of("model", &["virtio", "virtio-transitional", "virtio-non-transitional"]).required()],
    &[shape("rate", &[count("bytes"), count("period")], &[]), place("backend"), VIRTIO_DRIVER],
);

const BACKEND: Shape = shape("backend", &[one_of("model", &["random", "egd", "builtin"]).required()], &[]);

/// The canonical form of a random number device.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut rng = RNG.read(input)?;
    if rng.path_attr("rate", "bytes").is_none() {
        rng.take("rate");
    }
    if input.all("backend").count() != 1 {
        return Err(refusal::xml(input, "it needs one <backend>"));
    }
    if let Some(given) = input.child("backend") {
        let backend = complete_backend(given)?;
        rng.push(backend);
    }
    RNG.arrange(&mut rng);
    common::append(input, &mut rng, common::PLAIN)?;
    Ok(rng)
}

fn complete_backend(input: &Element) -> Result<Element, Error> {
    let mut backend = BACKEND.read(input)?;
    match backend.attr("model") {
        Some("random") => {
            let file = input.text();
            // The same source that libvirt opens by default.
            backend.set_text(if file.is_empty() { "/dev/random".to_owned() } else { file });
        }
        Some("egd") => {
            const CONNECTION: Shape = shape("backend", &[attribute("type", chardev::TYPES)], &[]);
            let kind = CONNECTION.read(input)?.unset("type");
            let Some(kind) = kind else {
                return Err(refusal::xml(input, "an entropy daemon needs the type of its connection"));
            };
            chardev::append(input, &mut backend, &kind, SocketPath::Given)?;
            backend.set("type", kind);
        }
        _ => {}
    }
    Ok(backend)
}
