//! Where in the document a refusal points: each names its element, and this adds the line where it does not say it.

use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Position};

/// The refusal with the place of the element that it names first (`<memory>: ...`), or of the document's root.
pub(super) fn located(error: Error, document: &Element) -> Error {
    if error.message.contains("(line ") || error.message.starts_with("line ") {
        return error;
    }
    let message = match named(&error.message).and_then(|name| find(document, name, &error.message)) {
        Some(position) => format!("{} ({position})", error.message),
        None => format!("{} (in <{}>, {})", error.message, document.name, document.position),
    };
    Error { message, ..error }
}

/// The refusal of a device's part, with the device and its place before it.
pub(super) fn of_device(device: &Element, error: &Error) -> Error {
    // What the driver added itself stands nowhere.
    let place = if device.position == Position::default() {
        String::new()
    } else {
        format!(" ({})", device.position)
    };
    Error { message: format!("<{}>{place}: {}", device.name, error.message), ..error.clone() }
}

/// The first name in angle brackets.
fn named(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once('<')?;
    let end = rest.find([' ', '>', '/'])?;
    rest.get(..end).filter(|name| !name.is_empty())
}

/// The one element of that name; of several the one that holds a value which the message quotes.
fn find(document: &Element, name: &str, message: &str) -> Option<Position> {
    let mut open = vec![document];
    let mut found: Vec<&Element> = Vec::new();
    while let Some(element) = open.pop() {
        if element.name == name {
            found.push(element);
        }
        open.extend(element.elements());
    }
    if let [only] = found.as_slice() {
        return Some(only.position);
    }
    let quoted: Vec<&str> = message.split('\'').skip(1).step_by(2).collect();
    let holds = |element: &&&Element| {
        let values = element.attributes.iter().map(|(_, value)| value.as_str());
        values.chain([element.text().trim()]).any(|value| quoted.contains(&value))
    };
    let mut holders = found.iter().filter(holds);
    match (holders.next(), holders.next()) {
        (Some(only), None) => Some(only.position),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_wire::error::{Code, Origin};
    use bulkhead_xml::{Limits, parse};

    fn located_text(message: &str) -> String {
        let document =
            "<domain>\n <memory>lots</memory>\n <vcpupin cpuset='x'/>\n <vcpupin cpuset='1'/>\n</domain>";
        let document = parse(document.as_bytes(), Limits::default(), "").unwrap();
        located(Error::new(Code::XML_ERROR, Origin::XML, message), &document).message
    }

    #[test]
    fn the_line_of_the_named_element_is_added() {
        assert_eq!(located_text("<memory>: no size"), "<memory>: no size (line 2, column 2)");
        assert_eq!(located_text("<vcpupin>: 'x' is no set"), "<vcpupin>: 'x' is no set (line 3, column 2)");
    }

    #[test]
    fn where_several_are_meant_the_document_is_named() {
        assert_eq!(located_text("<vcpupin> twice"), "<vcpupin> twice (in <domain>, line 1, column 1)");
        assert_eq!(located_text("nothing named"), "nothing named (in <domain>, line 1, column 1)");
    }

    #[test]
    fn a_line_that_is_said_stays() {
        assert_eq!(located_text("<disk> (line 7, column 1): no"), "<disk> (line 7, column 1): no");
    }
}
