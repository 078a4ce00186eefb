//! What pool and volume XML have in common.

use crate::error::{error, wrong_frame, wrong_xml};
use crate::protocol::{Moment, Permissions, Status};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, Limits, parse};

/// Reads a document whose root must have that name.
pub(crate) fn read(text: &str, root: &str) -> Result<Element, Error> {
    let element = parse(text.as_bytes(), Limits::default(), "")
        .map_err(|fault| error(Code::XML_DETAIL, fault.to_string()))?;
    if element.name != root {
        return Err(wrong_frame(format!("The root element is <{}>, not <{root}>", element.name)));
    }
    Ok(element)
}

/// A text that is not empty.
pub(crate) fn text_of(parent: &Element, name: &str) -> Option<String> {
    parent.child_text(name).filter(|text| !text.is_empty())
}

/// A size: a number with its unit, bytes unless another one is named.
pub(crate) fn bytes_of(element: &Element) -> Result<u64, Error> {
    let (text, name) = (element.text(), &element.name);
    let number: u64 =
        text.trim().parse().map_err(|_| wrong_xml(format!("<{name}> holds no number of bytes: '{text}'")))?;
    let unit = element.attr("unit").unwrap_or("bytes");
    let factor = factor(unit).ok_or_else(|| {
        error(Code::INVALID_ARG, format!("'{unit}' of <{name}> is no unit; try KiB, MiB or GiB"))
    })?;
    number.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| {
        Error::new(Code::OVERFLOW, Origin::NONE, format!("<{name}> of {number} {unit} is too much"))
    })
}

/// Bytes of a unit: `K` and `KiB` are 1024, `KB` is 1000.
fn factor(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "" | "b" | "byte" | "bytes") {
        return Some(1);
    }
    let (letter, rest) = lower.split_at_checked(1)?;
    let power = "kmgtpe".find(letter).and_then(|power| u32::try_from(power + 1).ok())?;
    let base: u64 = match rest {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return None,
    };
    base.checked_pow(power)
}

/// `<permissions>` of a target, with its label.
pub(crate) fn permissions_of(target: Option<&Element>) -> Result<(Permissions, Option<String>), Error> {
    let Some(element) = target.and_then(|target| target.child("permissions")) else {
        return Ok((Permissions::default(), None));
    };
    let mode = match text_of(element, "mode") {
        Some(text) => {
            let mode = u32::from_str_radix(text.trim(), 8).ok().filter(|mode| *mode <= 0o7777);
            Some(mode.ok_or_else(|| wrong_xml(format!("<mode> is no octal mode of a file: '{text}'")))?)
        }
        None => None,
    };
    let permissions = Permissions { mode, owner: id_of(element, "owner")?, group: id_of(element, "group")? };
    Ok((permissions, text_of(element, "label")))
}

/// A user's or group's number; -1 is as if there were none.
fn id_of(element: &Element, name: &str) -> Result<Option<u32>, Error> {
    let Some(text) = text_of(element, name) else { return Ok(None) };
    let wrong = || wrong_xml(format!("<{name}> holds no number: '{text}'"));
    let number: i64 = text.trim().parse().map_err(|_| wrong())?;
    match number {
        -1 => Ok(None),
        number => {
            let id = u32::try_from(number).map_err(|_| wrong())?;
            Ok((id != u32::MAX).then_some(id))
        }
    }
}

/// An element with a text in it.
pub(crate) fn leaf(name: &str, text: impl Into<String>) -> Element {
    Element::new(name).with_text(text)
}

/// An element with a size in it.
pub(crate) fn size(name: &str, bytes: u64) -> Element {
    leaf(name, bytes.to_string()).with("unit", "bytes")
}

/// `<permissions>` of what was found.
pub(crate) fn permissions(given: Permissions, label: Option<&str>) -> Option<Element> {
    let mut element = Element::new("permissions");
    if let Some(mode) = given.mode {
        element.push(leaf("mode", format!("0{mode:o}")));
    }
    for (name, id) in [("owner", given.owner), ("group", given.group)] {
        if let Some(id) = id {
            element.push(leaf(name, id.to_string()));
        }
    }
    if let Some(label) = label {
        element.push(leaf("label", label));
    }
    (!element.children.is_empty()).then_some(element)
}

/// Owner, group and mode of what was found.
pub(crate) fn found(status: &Status) -> Permissions {
    Permissions { mode: Some(status.mode), owner: Some(status.owner), group: Some(status.group) }
}

/// `<timestamps>` of a file.
pub(crate) fn timestamps(status: &Status) -> Element {
    let moment = |name: &str, (seconds, nanoseconds): Moment| match nanoseconds {
        0 => leaf(name, seconds.to_string()),
        _ => leaf(name, format!("{seconds}.{nanoseconds:09}")),
    };
    Element::new("timestamps")
        .with_child(moment("atime", status.accessed))
        .with_child(moment("mtime", status.modified))
        .with_child(moment("ctime", status.changed))
        // What stock tells where it does not know it.
        .with_child(moment("btime", (0, 0)))
}

/// A path without doubled or trailing slashes.
pub(crate) fn clean_path(path: &str) -> String {
    let joined: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let joined = joined.join("/");
    if path.starts_with('/') { format!("/{joined}") } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let bytes = |text: &str| bytes_of(&read(text, "capacity").unwrap());
        assert_eq!(bytes("<capacity>1</capacity>").unwrap(), 1);
        assert_eq!(bytes("<capacity unit='k'>2</capacity>").unwrap(), 2048);
        assert_eq!(bytes("<capacity unit='KB'>2</capacity>").unwrap(), 2000);
        assert_eq!(bytes("<capacity unit='GiB'>2</capacity>").unwrap(), 2 << 30);
        assert_eq!(bytes("<capacity>-1</capacity>").unwrap_err().code, Code::XML_ERROR);
        assert_eq!(bytes("<capacity unit='EiB'>99</capacity>").unwrap_err().code, Code::OVERFLOW);
        assert_eq!(bytes("<capacity unit='cows'>1</capacity>").unwrap_err().code, Code::INVALID_ARG);
    }

    #[test]
    fn paths_are_cleaned_by_their_text_alone() {
        for (path, clean) in [("///a//b/", "/a/b"), ("a/", "a"), ("/", "/"), ("/a/../b", "/a/../b")] {
            assert_eq!(clean_path(path), clean);
        }
    }
}
