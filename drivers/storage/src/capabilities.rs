//! What pools of each type may be made of.

use crate::pool::kind::{KINDS, Kind};
use bulkhead_xml::Element;

/// As XML, in libvirt's layout.
pub(crate) fn to_xml() -> String {
    let mut root = Element::new("storagepoolCapabilities");
    for kind in KINDS {
        root.push(pool(kind));
    }
    root.to_xml()
}

fn pool(kind: &Kind) -> Element {
    let supported = if kind.driven { "yes" } else { "no" };
    let mut pool = Element::new("pool").with("type", kind.name).with("supported", supported);
    let groups = [
        ("poolOptions", "sourceFormatType", kind.default_format, kind.formats),
        ("volOptions", "targetFormatType", kind.default_volume_format, kind.volume_formats),
    ];
    for (group, name, default, formats) in groups {
        let Some(default) = default.filter(|_| !formats.is_empty()) else { continue };
        let mut values = Element::new("enum").with("name", name);
        for format in formats {
            values.push(Element::new("value").with_text(*format));
        }
        let default = Element::new("defaultFormat").with("type", default);
        pool.push(Element::new(group).with_child(default).with_child(values));
    }
    pool
}
