//! `<tpm>`.

use crate::args::Purpose;
use crate::args::builder::{Builder, alias, attr, invalid, unsupported};
use crate::args::json::Object;
use crate::args::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The backend and the device.
pub(crate) fn build(builder: &mut Builder<'_>, tpm: &Element) -> Result<(), Error> {
    let name = alias(tpm)?;
    let backend = tpm.child("backend").ok_or_else(|| invalid(format!("{name} has no <backend>")))?;
    let id = format!("tpm-{name}");
    match backend.attr("type") {
        Some("emulator") => {
            let mut list;
            if builder.launches() {
                let number = builder.descriptor(Purpose::Tpm { alias: name.to_owned() });
                list = KeyValues::new("socket");
                list.set("id", "chrtpm").set("fd", number);
            } else {
                list = KeyValues::new("null");
                list.set("id", "chrtpm");
            }
            builder.option("-chardev", list)?;
        }
        Some("external") => {
            let source = backend.child("source").ok_or_else(|| invalid(format!("{name} has no <source>")))?;
            let mut list = KeyValues::new("socket");
            list.set("id", "chrtpm");
            if builder.launches() {
                let number = builder.descriptor(Purpose::Tpm { alias: name.to_owned() });
                list.set("fd", number);
            } else {
                list.set("path", attr(source, "path")?);
            }
            builder.option("-chardev", list)?;
        }
        Some("passthrough") => {
            let path = backend.path_attr("device", "path").unwrap_or("/dev/tpm0");
            let list = KeyValues::new("passthrough").with("id", &id).with("path", path);
            builder.option("-tpmdev", list)?;
            return device(builder, tpm, name, &id);
        }
        other => {
            return Err(unsupported(format!(
                "TPM backend '{}' is not one that QEMU has",
                other.unwrap_or_default()
            )));
        }
    }
    let list = KeyValues::new("emulator").with("id", &id).with("chardev", "chrtpm");
    builder.option("-tpmdev", list)?;
    device(builder, tpm, name, &id)
}

fn device(builder: &mut Builder<'_>, tpm: &Element, name: &str, id: &str) -> Result<(), Error> {
    let model = attr(tpm, "model")?;
    let driver = if model == "tpm-tis" && !builder.is_x86() { "tpm-tis-device" } else { model };
    let mut object = Object::new().with("driver", driver).with("tpmdev", id).with("id", name);
    builder.address(tpm, &mut object)?;
    builder.device(&object);
    Ok(())
}
