//! Documents in a form in which two can be compared.

use bulkhead_xml::{Element, Limits, Node, parse};
use std::collections::BTreeMap;

/// Whether a text is an identifier that either side made up.
fn is_made_up(text: &str, input: &str) -> bool {
    let uuid = text.len() == 36 && text.matches('-').count() == 4;
    let mac = text.len() == 17 && text.starts_with("52:54:00:");
    (uuid || mac) && !input.contains(&text.to_lowercase())
}

/// A tree in which made-up identifiers, white space, and the order of attributes and unlike children do not count.
fn canonical(element: &Element, input: &str) -> String {
    let word = |text: &str| {
        if is_made_up(text.trim(), input) { "MADE-UP".to_owned() } else { text.trim().to_owned() }
    };
    let mut attributes: Vec<String> = element
        .attributes
        .iter()
        .filter(|(name, _)| !name.starts_with("xmlns"))
        .map(|(name, value)| format!("{name}={}", word(value)))
        .collect();
    attributes.sort();
    let mut children: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for child in element.elements() {
        children
            .entry(child.name.rsplit(':').next().unwrap_or_default())
            .or_default()
            .push(canonical(child, input));
    }
    for (name, group) in &mut children {
        if matches!(*name, "feature" | "timer" | "vcpupin" | "iothreadpin" | "page" | "event") {
            group.sort();
        }
    }
    let local = element.name.rsplit(':').next().unwrap_or_default();
    let name = format!("{{{}}}{local}", element.namespace.as_deref().unwrap_or_default());
    format!("<{name} {attributes:?} {:?} {children:?}>", word(&element.text()))
}

/// The canonical text of a domain; `input` is what it was made of, in lower case.
pub(crate) fn tree(xml: &str, input: &str) -> String {
    let mut root = parse(xml.as_bytes(), Limits::default(), "").unwrap();
    root.children.retain(|node| !matches!(node, Node::Text(_)));
    canonical(&root, input)
}
