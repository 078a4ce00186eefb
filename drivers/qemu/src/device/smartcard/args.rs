//! `<smartcard>`.

use crate::args::builder::{Builder, alias, invalid, unsupported};
use crate::args::json::Object;
use crate::device::character;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Where the host's certificates are if the definition does not say.
const DATABASE: &str = "/etc/pki/nssdb";

/// The card in its reader.
pub(crate) fn build(builder: &mut Builder<'_>, card: &Element) -> Result<(), Error> {
    let mut object = Object::new();
    match card.attr("mode") {
        Some("host") => {
            object.set("driver", "ccid-card-emulated").set("backend", "nss-emulated");
        }
        Some("host-certificates") => {
            object.set("driver", "ccid-card-emulated").set("backend", "certificates");
            let names: Vec<String> = card.all("certificate").map(Element::text).collect();
            for (number, name) in (1..=3).zip(&names) {
                if name.contains(',') {
                    return Err(invalid(format!("Certificate name '{name}' has a comma")));
                }
                object.set(&format!("cert{number}"), name.as_str());
            }
            let database = card.child_text("database").unwrap_or_else(|| DATABASE.to_owned());
            object.set("db", database);
        }
        Some("passthrough") => {
            let chardev = character::args::backend(builder, card)?;
            object.set("driver", "ccid-card-passthru").set("chardev", chardev);
        }
        other => {
            return Err(unsupported(format!(
                "Smartcard mode '{}' is not one that QEMU has",
                other.unwrap_or_default()
            )));
        }
    }
    object.set("id", alias(card)?);
    builder.address(card, &mut object)?;
    if card.child("address").is_none() {
        object.set("bus", "ccid0.0");
    }
    builder.device(&object);
    Ok(())
}
