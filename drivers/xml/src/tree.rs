//! The tree itself and its accessors.

use std::fmt;

/// Where something stood in the text it was read from; lines and columns count from 1, 0 means "made by us".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in bytes, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// One child of an element.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A nested element.
    Element(Element),
    /// Character data with entities resolved.
    Text(String),
    /// Markup kept byte for byte (the content of `<metadata>`), written back as it is.
    Raw(String),
}

/// An element with its attributes and children in document order. Equality ignores positions.
#[derive(Debug, Clone, Default)]
pub struct Element {
    /// The name as written, with its prefix if it has one (`qemu:commandline`).
    pub name: String,
    /// The namespace that the prefix (or the default declaration) stands for.
    pub namespace: Option<String>,
    /// Attributes in document order, namespace declarations among them.
    pub attributes: Vec<(String, String)>,
    /// Children in document order.
    pub children: Vec<Node>,
    /// Where the element began.
    pub position: Position,
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.namespace == other.namespace
            && self.attributes == other.attributes
            && self.children == other.children
    }
}

impl Element {
    /// An element without attributes or children.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds an attribute; for building trees in one expression.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a text child; for building trees in one expression.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.children.push(Node::Text(text.into()));
        self
    }

    /// Adds a child element; for building trees in one expression.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Self {
        self.push(child);
        self
    }

    /// The value of an attribute.
    #[must_use]
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets an attribute, keeping its place if it is there already.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.attributes.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.attributes.push((name.to_owned(), value)),
        }
    }

    /// Removes an attribute and returns its value.
    pub fn unset(&mut self, name: &str) -> Option<String> {
        let index = self.attributes.iter().position(|(key, _)| key == name)?;
        Some(self.attributes.remove(index).1)
    }

    /// Appends a child element.
    pub fn push(&mut self, child: Element) {
        self.children.push(Node::Element(child));
    }

    /// All child elements, in document order.
    pub fn elements(&self) -> impl DoubleEndedIterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// All child elements, mutable, in document order.
    pub fn elements_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Element> {
        self.children.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The child elements of one name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Element> {
        self.elements().filter(move |element| element.name == name)
    }

    /// The first child element of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.elements().find(|element| element.name == name)
    }

    /// The first child element of that name, mutable.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Element> {
        self.elements_mut().find(|element| element.name == name)
    }

    /// The first child of that name, made (at the end) if there is none.
    pub fn child_or_insert(&mut self, name: &str) -> &mut Element {
        let found = self.children.iter().position(|node| matches!(node, Node::Element(e) if e.name == name));
        let index = found.unwrap_or_else(|| {
            self.push(Element::new(name));
            self.children.len() - 1
        });
        match &mut self.children[index] {
            Node::Element(element) => element,
            _ => unreachable!("the index was that of an element"),
        }
    }

    /// Removes the first child element of that name and returns it.
    pub fn take(&mut self, name: &str) -> Option<Element> {
        let index =
            self.children.iter().position(|node| matches!(node, Node::Element(e) if e.name == name))?;
        match self.children.remove(index) {
            Node::Element(element) => Some(element),
            _ => None,
        }
    }

    /// Follows a path of child names (`os/type`), the first of each.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Element> {
        path.split('/').try_fold(self, |element, name| element.child(name))
    }

    /// The attribute of the element at a path: `path_attr("os/type", "arch")`.
    #[must_use]
    pub fn path_attr(&self, path: &str, attribute: &str) -> Option<&str> {
        self.at(path)?.attr(attribute)
    }

    /// The text children joined, untouched.
    #[must_use]
    pub fn text(&self) -> String {
        self.children
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The text of the first child element of that name.
    #[must_use]
    pub fn child_text(&self, name: &str) -> Option<String> {
        self.child(name).map(Element::text)
    }

    /// Replaces all children by one text.
    pub fn set_text(&mut self, text: impl Into<String>) {
        self.children = vec![Node::Text(text.into())];
    }
}
