//! `<redirdev>` and `<redirfilter>`.

use crate::args::builder::{Builder, alias, switch};
use crate::args::json::Object;
use crate::device::character;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// One redirected device.
pub(crate) fn build(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let chardev = character::args::backend(builder, device)?;
    let mut object =
        Object::new().with("driver", "usb-redir").with("chardev", chardev).with("id", alias(device)?);
    let filter = builder.devices("redirfilter").next().map(filter);
    object.set_some("filter", filter).set_some("bootindex", builder.boot.of(device));
    builder.address(device, &mut object)?;
    builder.device(&object);
    Ok(())
}

/// Which devices may be redirected: rules of class, vendor, product, version and verdict.
fn filter(rules: &Element) -> String {
    let rules: Vec<String> = rules
        .all("usbdev")
        .map(|rule| {
            let part = |name: &str, width: usize| match rule.attr(name) {
                None | Some("-1") => "-1".to_owned(),
                Some(text) => match crate::args::builder::number(text) {
                    Some(number) => format!("0x{number:0width$X}"),
                    None => "-1".to_owned(),
                },
            };
            let allow = u8::from(switch(rule, "allow") == Some(true));
            format!(
                "{}:{}:{}:{}:{allow}",
                part("class", 2),
                part("vendor", 4),
                part("product", 4),
                version(rule.attr("version"))
            )
        })
        .collect();
    rules.join("|")
}

/// A version `1.10` as the binary-coded decimal that USB has.
fn version(text: Option<&str>) -> String {
    let Some((major, minor)) = text.and_then(|text| text.split_once('.')) else {
        return "-1".to_owned();
    };
    match (major.parse::<u8>(), minor.parse::<u8>()) {
        (Ok(major), Ok(minor)) => format!("0x{major:02}{minor:02}"),
        _ => "-1".to_owned(),
    }
}
