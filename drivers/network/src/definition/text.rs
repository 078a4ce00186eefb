//! Reading what stands in elements and attributes, each kind of fault with its code.

use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, Node};
use std::net::IpAddr;

use super::address;

fn at(element: &Element, message: impl std::fmt::Display) -> String {
    format!("{}: {message}", element.position)
}

/// Content that can't be.
pub(super) fn wrong(element: &Element, message: impl std::fmt::Display) -> Error {
    Error::new(Code::XML_ERROR, Origin::NETWORK, at(element, message))
}

/// Content that can't be, in a record of the name service or the like.
pub(super) fn wrong_detail(element: &Element, message: impl std::fmt::Display) -> Error {
    Error::new(Code::XML_DETAIL, Origin::NETWORK, at(element, message))
}

/// A value that its attribute does not have.
pub(super) fn wrong_value(element: &Element, message: impl std::fmt::Display) -> Error {
    Error::new(Code::XML_ERROR, Origin::XML, at(element, message))
}

/// Something that is known and can't be had here.
pub(super) fn unsupported(element: &Element, message: impl std::fmt::Display) -> Error {
    Error::new(Code::CONFIG_UNSUPPORTED, Origin::NETWORK, at(element, message))
}

/// A fault in what networks share with interfaces.
pub(super) fn shared(code: Code, element: &Element, message: impl std::fmt::Display) -> Error {
    Error::new(code, Origin::NONE, at(element, message))
}

/// An attribute that is there and not empty.
pub(super) fn given<'a>(element: &'a Element, name: &str) -> Option<&'a str> {
    element.attr(name).filter(|value| !value.is_empty())
}

/// The same, to keep.
pub(super) fn owned(element: &Element, name: &str) -> Option<String> {
    given(element, name).map(str::to_owned)
}

/// `yes`, `no`, or nothing.
pub(super) fn yes_no(element: &Element, name: &str) -> Result<Option<bool>, Error> {
    match element.attr(name) {
        None => Ok(None),
        Some("yes") => Ok(Some(true)),
        Some("no") => Ok(Some(false)),
        Some(other) => Err(wrong_value(
            element,
            format!("<{} {name}='{other}'>: it must be 'yes' or 'no'", element.name),
        )),
    }
}

/// A number in the decimal system, if the attribute is there and not empty; an error if it is none.
pub(super) fn number<N: std::str::FromStr>(element: &Element, name: &str) -> Result<Option<N>, ()> {
    match given(element, name) {
        None => Ok(None),
        Some(text) => text.trim_start().trim_start_matches('+').parse().map(Some).map_err(drop),
    }
}

/// The word for a choice.
pub(super) fn word(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// An address. The library that stock asks knows no name of what it could not read.
pub(super) fn address_of(element: &Element, text: &str) -> Result<IpAddr, Error> {
    address::parse(text).ok_or_else(|| {
        shared(
            Code::SYSTEM_ERROR,
            element,
            format!("'{text}' is no address of IPv4 or IPv6; write it in numbers"),
        )
    })
}

/// Refuses control characters wherever they stand in attributes: many become lines of another program's configuration.
pub(super) fn plain(element: &Element) -> Result<(), Error> {
    let mut left = vec![element];
    while let Some(element) = left.pop() {
        for (name, value) in &element.attributes {
            if value.chars().any(char::is_control) {
                let shown = value.escape_debug();
                return Err(wrong(
                    element,
                    format!(
                        "<{} {name}='{shown}'>: leave out line breaks and other control characters",
                        element.name
                    ),
                ));
            }
        }
        left.extend(element.elements());
    }
    Ok(())
}

/// A text without control characters.
pub(super) fn plain_text(element: &Element) -> Result<String, Error> {
    let text = element.text();
    if text.chars().any(char::is_control) {
        let message = format!(
            "<{}>{}</{}>: leave out line breaks and other control characters",
            element.name,
            text.escape_debug(),
            element.name
        );
        return Err(wrong(element, message));
    }
    Ok(text)
}

/// An element that is never written as an empty one: stock closes it on a line of its own.
pub(super) fn opened(mut element: Element, depth: usize) -> Element {
    if element.children.is_empty() {
        element.children.push(Node::Raw(format!("\n{}", "  ".repeat(depth))));
    }
    element
}
