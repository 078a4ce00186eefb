//! Whether a definition uses nothing but the features that are covered completely: `listed.txt` says which.

use bulkhead_xml::Element;
use std::collections::BTreeMap;

/// The attributes of one kind of element, each with the values that it may have; no values mean any.
type Attributes = BTreeMap<&'static str, Vec<&'static str>>;

/// The elements that may be used.
pub(crate) struct Listed {
    elements: BTreeMap<&'static str, Attributes>,
    /// Paths below which anything goes.
    open: Vec<&'static str>,
}

impl Listed {
    /// What `listed.txt` says.
    pub(crate) fn new() -> Self {
        let mut listed = Self { elements: BTreeMap::new(), open: Vec::new() };
        for line in include_str!("listed.txt").lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let Some(path) = words.next() else { continue };
            let attributes = words.filter_map(|word| word.strip_prefix('@')).map(|word| {
                let (name, values) = word.split_once('=').unwrap_or((word, ""));
                (name, values.split('|').filter(|value| !value.is_empty()).collect())
            });
            let path = path.strip_suffix("/**").inspect(|path| listed.open.push(path)).unwrap_or(path);
            listed.elements.insert(path, attributes.collect());
        }
        listed
    }

    /// The first thing in a domain that is not listed.
    pub(crate) fn stranger(&self, domain: &Element) -> Option<String> {
        let mut open = vec![(".".to_owned(), domain)];
        while let Some((path, element)) = open.pop() {
            if self.open.contains(&path.as_str()) {
                continue;
            }
            let Some(attributes) = self.elements.get(path.as_str()) else {
                return Some(path);
            };
            for (name, value) in &element.attributes {
                let known = attributes.get(name.as_str()).or_else(|| attributes.get("*"));
                match known {
                    Some(values) if values.is_empty() || values.contains(&value.as_str()) => {}
                    _ => return Some(format!("{path} {name}='{value}'")),
                }
            }
            for child in element.elements() {
                let below = if path == "." { child.name.clone() } else { format!("{path}/{}", child.name) };
                open.push((below, child));
            }
        }
        None
    }
}
