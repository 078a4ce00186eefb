//! Tables that say what an element may hold, in the order in which libvirt prints it, and the one reader that
//! works through them. Whatever a table does not name is dropped, as libvirt drops it.

use super::refusal;
use super::value::Kind;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// An attribute that an element may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute {
    name: &'static str,
    kind: Kind,
    required: bool,
    neutral: Option<&'static str>,
}

impl Attribute {
    /// Is dropped when it has this value, which says nothing.
    pub(crate) const fn unless(mut self, value: &'static str) -> Self {
        self.neutral = Some(value);
        self
    }

    /// The element is refused without it.
    pub(crate) const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// An attribute of that name and kind.
pub(crate) const fn attribute(name: &'static str, kind: Kind) -> Attribute {
    Attribute { name, kind, required: false, neutral: None }
}

/// An attribute with free text.
pub(crate) const fn text(name: &'static str) -> Attribute {
    attribute(name, Kind::Text)
}

/// An attribute with one of a few words.
pub(crate) const fn one_of(name: &'static str, words: &'static [&'static str]) -> Attribute {
    attribute(name, Kind::OneOf(words))
}

/// An attribute that is `yes` or `no`.
pub(crate) const fn yes_no(name: &'static str) -> Attribute {
    attribute(name, Kind::OneOf(&["yes", "no"]))
}

/// An attribute that is `on` or `off`.
pub(crate) const fn on_off(name: &'static str) -> Attribute {
    attribute(name, Kind::OneOf(&["on", "off"]))
}

/// An attribute with a number of 32 bits.
pub(crate) const fn number(name: &'static str) -> Attribute {
    attribute(name, Kind::Number(0, u32::MAX as u64))
}

/// An attribute with a number of 32 bits, of which 0 says nothing.
pub(crate) const fn count(name: &'static str) -> Attribute {
    number(name).unless("0")
}

/// What an element may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    name: &'static str,
    attributes: &'static [Attribute],
    children: &'static [Shape],
    content: Option<Kind>,
    many: bool,
    kept_when_empty: bool,
    read_elsewhere: bool,
}

/// An element with these attributes and children.
pub(crate) const fn shape(
    name: &'static str,
    attributes: &'static [Attribute],
    children: &'static [Shape],
) -> Shape {
    Shape {
        name,
        attributes,
        children,
        content: None,
        many: false,
        kept_when_empty: false,
        read_elsewhere: false,
    }
}

/// An element whose presence alone is what it says (`<readonly/>`).
pub(crate) const fn flag(name: &'static str) -> Shape {
    shape(name, &[], &[]).kept()
}

/// An element with text in it.
pub(crate) const fn content(name: &'static str, kind: Kind) -> Shape {
    let mut shape = shape(name, &[], &[]);
    shape.content = Some(kind);
    shape
}

/// The place of a child that the kind of device reads by itself.
pub(crate) const fn place(name: &'static str) -> Shape {
    let mut shape = shape(name, &[], &[]);
    shape.read_elsewhere = true;
    shape
}

impl Shape {
    /// May come more than once.
    pub(crate) const fn many(mut self) -> Self {
        self.many = true;
        self
    }

    /// Is printed even if there is nothing in it.
    pub(crate) const fn kept(mut self) -> Self {
        self.kept_when_empty = true;
        self
    }

    /// The same with attributes.
    pub(crate) const fn with(mut self, attributes: &'static [Attribute]) -> Self {
        self.attributes = attributes;
        self
    }

    /// Takes from the input what the table names, in the table's order and in canonical spelling.
    pub(crate) fn read(&self, input: &Element) -> Result<Element, Error> {
        let mut element = Element::new(self.name);
        element.position = input.position;
        for attribute in self.attributes {
            match input.attr(attribute.name) {
                Some(value) => {
                    let value = attribute.kind.read(value).map_err(|fault| {
                        fault.into_error(&format!(
                            "attribute '{}' of <{}> ({})",
                            attribute.name, input.name, input.position
                        ))
                    })?;
                    if attribute.neutral != Some(value.as_str()) {
                        element.attributes.push((attribute.name.to_owned(), value));
                    }
                }
                None if attribute.required => {
                    return Err(refusal::missing_attribute(input, attribute.name));
                }
                None => {}
            }
        }
        for child in self.children.iter().filter(|child| !child.read_elsewhere) {
            let limit = if child.many { usize::MAX } else { 1 };
            for found in input.all(child.name).take(limit) {
                child.read_into(found, &mut element)?;
            }
        }
        if let Some(kind) = self.content {
            let text = input.text();
            if !text.is_empty() {
                let text = kind
                    .read(&text)
                    .map_err(|fault| fault.into_error(&format!("<{}> ({})", input.name, input.position)))?;
                element.set_text(text);
            }
        }
        Ok(element)
    }

    /// Reads `input` and appends it, unless nothing is left of it.
    pub(crate) fn read_into(&self, input: &Element, parent: &mut Element) -> Result<(), Error> {
        let element = self.read(input)?;
        if self.kept_when_empty || !element.attributes.is_empty() || !element.children.is_empty() {
            parent.push(element);
        }
        Ok(())
    }

    /// Reads the child of this name, if the input has it.
    pub(crate) fn read_child(&self, input: &Element, parent: &mut Element) -> Result<(), Error> {
        match input.child(self.name) {
            Some(child) => self.read_into(child, parent),
            None => Ok(()),
        }
    }

    /// Brings attributes and children that were added later to their places; what the table does not name stays behind.
    pub(crate) fn arrange(&self, element: &mut Element) {
        element.attributes.sort_by_key(|(name, _)| {
            self.attributes.iter().position(|attribute| attribute.name == name).unwrap_or(usize::MAX)
        });
        element.children.sort_by_key(|node| match node {
            bulkhead_xml::Node::Element(child) => {
                self.children.iter().position(|shape| shape.name == child.name).unwrap_or(usize::MAX)
            }
            _ => usize::MAX,
        });
        for shape in self.children.iter().filter(|child| !child.read_elsewhere) {
            for child in element.elements_mut().filter(|child| child.name == shape.name) {
                shape.arrange(child);
            }
        }
    }
}
