//! What programs keep in `<metadata>`: an element for each namespace.

use crate::{Element, Limits, Node, XmlError, parse};

/// The elements in a root's `<metadata>`, which may be kept as text. What makes no sense holds none.
#[must_use]
pub fn elements(root: &Element) -> Vec<Element> {
    let Some(metadata) = root.child("metadata") else { return Vec::new() };
    // Prefixes that were declared further out hold inside too.
    let mut outer = Element::new("metadata");
    for element in [root, metadata] {
        outer
            .attributes
            .extend(element.attributes.iter().filter(|(name, _)| name.starts_with("xmlns")).cloned());
    }
    for node in &metadata.children {
        outer.children.push(node.clone());
    }
    let read = parse(outer.to_xml().as_bytes(), Limits::default(), "");
    read.map(|metadata| metadata.elements().cloned().collect()).unwrap_or_default()
}

/// A name without its prefix.
#[must_use]
pub fn local(name: &str) -> &str {
    name.split_once(':').map_or(name, |(_, local)| local)
}

/// An element as its owner gave it: without the prefix and the namespace that it is kept under.
#[must_use]
pub fn bare(element: &Element) -> String {
    let mut bare = element.clone();
    let declared = match bare.name.split_once(':') {
        Some((prefix, _)) => format!("xmlns:{prefix}"),
        None => "xmlns".to_owned(),
    };
    bare.name = local(&element.name).to_owned();
    bare.unset(&declared);
    bare.to_xml().trim_end().to_owned()
}

/// Reads an element that is to be kept under a prefix and a namespace. `None` for a prefix that can't be one.
///
/// # Errors
/// Text that is no XML.
pub fn keyed(text: &str, key: &str, uri: &str) -> Result<Option<Element>, XmlError> {
    if key.is_empty() || key.contains([':', ' ', '<', '&', '\'']) {
        return Ok(None);
    }
    let mut element = parse(text.as_bytes(), Limits::default(), "")?;
    element.name = format!("{key}:{}", local(&element.name));
    element.namespace = Some(uri.to_owned());
    element.unset("xmlns");
    element.attributes.insert(0, (format!("xmlns:{key}"), uri.to_owned()));
    Ok(Some(element))
}

/// The content of a root's `<metadata>` with the element of a namespace set or removed; `None` if nothing is left.
#[must_use]
pub fn with_element(root: &Element, uri: &str, element: Option<&Element>) -> Option<String> {
    let mut all = elements(root);
    let at = all.iter().position(|other| other.namespace.as_deref() == Some(uri));
    match (at, element) {
        (Some(at), Some(element)) => {
            if let Some(old) = all.get_mut(at) {
                *old = element.clone();
            }
        }
        (Some(at), None) => drop(all.remove(at)),
        (None, Some(element)) => all.push(element.clone()),
        (None, None) => {}
    }
    if all.is_empty() {
        return None;
    }
    let mut text = String::new();
    for element in all {
        for line in element.to_xml().lines() {
            text.push_str("\n    ");
            text.push_str(line);
        }
    }
    text.push_str("\n  ");
    Some(text)
}

/// A `<metadata>` with that content.
#[must_use]
pub fn metadata(content: String) -> Element {
    let mut metadata = Element::new("metadata");
    metadata.children.push(Node::Raw(content));
    metadata
}
