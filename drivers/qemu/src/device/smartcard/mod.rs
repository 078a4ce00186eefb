//! `<smartcard>`.

pub(crate) mod args;

use super::chardev::{self, SocketPath};
use super::common;
use super::refusal;
use super::schema::{Shape, attribute, content, one_of, shape};
use super::value::Kind;
use crate::domain::context::Context;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const SMARTCARD: Shape = shape(
    "smartcard",
    &[
        one_of("mode", &["host", "host-certificates", "passthrough"]).required(),
        attribute("type", chardev::TYPES),
    ],
    &[],
);

const CERTIFICATES: Shape =
    shape("smartcard", &[], &[content("certificate", Kind::Text).many(), content("database", Kind::Text)]);

/// The canonical form of a smart card.
pub(crate) fn complete(input: &Element, _context: &Context<'_>) -> Result<Element, Error> {
    let mut card = SMARTCARD.read(input)?;
    match card.attr("mode").unwrap_or_default() {
        "host-certificates" => {
            card.unset("type");
            let certificates = CERTIFICATES.read(input)?;
            if certificates.all("certificate").count() != 3 {
                return Err(refusal::xml(input, "mode 'host-certificates' needs three <certificate>"));
            }
            if let Some(folder) = certificates.child_text("database")
                && !folder.starts_with('/')
            {
                return Err(refusal::xml(input, format!("database '{folder}' is not an absolute path")));
            }
            card.children = certificates.children;
        }
        "passthrough" => {
            let Some(kind) = card.attr("type").map(str::to_owned) else {
                return Err(refusal::xml(input, "mode 'passthrough' needs the type of its connection"));
            };
            chardev::append(input, &mut card, &kind, SocketPath::Given)?;
        }
        _ => {
            card.unset("type");
        }
    }
    common::append(input, &mut card, common::PLAIN)?;
    if card.path_attr("address", "type").is_some_and(|kind| !matches!(kind, "ccid" | "unassigned")) {
        return Err(refusal::unsupported(input, "a smart card needs an address of type 'ccid'"));
    }
    Ok(card)
}
