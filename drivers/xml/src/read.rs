//! Reading bytes into a tree, within limits, without recursion.

use crate::tree::{Element, Node, Position};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// What a document may be at most; checked while reading, so that nothing larger is ever held.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the whole document.
    pub total_bytes: usize,
    /// Nesting of elements.
    pub depth: usize,
    /// Elements in the whole document.
    pub elements: usize,
    /// Attributes of one element.
    pub attributes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_bytes: 4 << 20,
            depth: 128,
            elements: 100_000,
            attributes: 256,
        }
    }
}

/// Why a text is not the XML that was asked for. Names line, column and the element being read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}{}", in_element(.element))]
pub struct XmlError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub position: Position,
    /// The innermost element at that place; empty outside of the root element.
    pub element: String,
}

fn in_element(element: &str) -> String {
    if element.is_empty() {
        String::new()
    } else {
        format!(" (in <{element}>)")
    }
}

/// Reads a document. `keep_raw` names the path (`domain/metadata`) of the element whose content is kept byte for byte.
///
/// # Errors
/// Anything that is not one well-formed UTF-8 document without a document type, or exceeds the limits.
pub fn parse(text: &[u8], limits: Limits, keep_raw: &str) -> Result<Element, XmlError> {
    Builder::new(text, limits, keep_raw).run()
}

struct Builder<'a> {
    text: &'a [u8],
    limits: Limits,
    keep_raw: &'a str,
    stack: Vec<Element>,
    root: Option<Element>,
    elements: usize,
    line_starts: Vec<usize>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a [u8], limits: Limits, keep_raw: &'a str) -> Self {
        Self {
            text,
            limits,
            keep_raw,
            stack: Vec::new(),
            root: None,
            elements: 0,
            line_starts: Vec::new(),
        }
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        Position {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(offset.saturating_sub(start) + 1).unwrap_or(u32::MAX),
        }
    }

    fn error(&self, offset: usize, message: impl Into<String>) -> XmlError {
        XmlError {
            message: message.into(),
            position: self.position(offset),
            element: self
                .stack
                .last()
                .map(|element| element.name.clone())
                .unwrap_or_default(),
        }
    }

    fn run(mut self) -> Result<Element, XmlError> {
        if self.text.len() > self.limits.total_bytes {
            return Err(self.error(
                0,
                format!("Document is larger than {} bytes", self.limits.total_bytes),
            ));
        }
        self.line_starts.push(0);
        self.line_starts.extend(
            self.text
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'\n')
                .map(|(index, _)| index + 1),
        );
        let text = std::str::from_utf8(self.text)
            .map_err(|error| self.error(error.valid_up_to(), "Document is not valid UTF-8"))?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_end_names = true;
        loop {
            let offset = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
            let event = reader.read_event().map_err(|error| {
                self.error(
                    usize::try_from(reader.error_position()).unwrap_or(offset),
                    error.to_string(),
                )
            })?;
            match event {
                Event::Start(start) => self.open(&start, offset, &mut reader)?,
                Event::Empty(start) => {
                    let element = self.element(&start, offset)?;
                    self.close(element, offset)?;
                }
                Event::End(_) => match self.stack.pop() {
                    Some(element) => self.close(element, offset)?,
                    None => return Err(self.error(offset, "End tag without a start tag")),
                },
                Event::Text(data) => self.push_text(&data, offset)?,
                Event::CData(data) => self.push_text(&data, offset)?,
                Event::GeneralRef(reference) => {
                    let name: &str = &reference;
                    let character = resolve(name)
                        .ok_or_else(|| self.error(offset, format!("Unknown entity '&{name};'")))?;
                    self.push_text(character.encode_utf8(&mut [0; 4]), offset)?;
                }
                Event::DocType(_) => {
                    return Err(self.error(offset, "A document type declaration is not accepted"));
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if let Some(open) = self.stack.last() {
            let message = format!(
                "Document ends inside <{}>, opened at {}",
                open.name, open.position
            );
            return Err(self.error(self.text.len(), message));
        }
        let missing = self.error(self.text.len(), "Document has no element");
        self.root.ok_or(missing)
    }

    fn open(
        &mut self,
        start: &BytesStart<'_>,
        offset: usize,
        reader: &mut Reader<&[u8]>,
    ) -> Result<(), XmlError> {
        let mut element = self.element(start, offset)?;
        let path_matches = !self.keep_raw.is_empty() && self.path_of(&element.name) == self.keep_raw;
        if path_matches {
            let from = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
            let span = reader
                .read_to_end(start.name())
                .map_err(|error| self.error(offset, error.to_string()))?;
            let (begin, end) = (
                usize::try_from(span.start).unwrap_or(from),
                usize::try_from(span.end).unwrap_or(from),
            );
            let raw = self.text.get(begin..end).unwrap_or_default();
            element
                .children
                .push(Node::Raw(String::from_utf8_lossy(raw).into_owned()));
            return self.close(element, offset);
        }
        if self.stack.len() >= self.limits.depth {
            return Err(self.error(
                offset,
                format!("Elements are nested deeper than {}", self.limits.depth),
            ));
        }
        self.stack.push(element);
        Ok(())
    }

    fn path_of(&self, name: &str) -> String {
        let mut path = String::new();
        for element in &self.stack {
            path.push_str(&element.name);
            path.push('/');
        }
        path + name
    }

    fn element(&mut self, start: &BytesStart<'_>, offset: usize) -> Result<Element, XmlError> {
        self.elements += 1;
        if self.elements > self.limits.elements {
            return Err(self.error(offset, format!("More than {} elements", self.limits.elements)));
        }
        let name = start.name().as_ref().to_owned();
        let mut element = Element {
            name,
            position: self.position(offset),
            ..Element::default()
        };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| self.error(offset, error.to_string()))?;
            if element.attributes.len() >= self.limits.attributes {
                return Err(self.error(offset, format!("More than {} attributes", self.limits.attributes)));
            }
            let key = attribute.key.as_ref().to_owned();
            let raw = attribute.value.into_owned();
            if raw.contains('<') {
                return Err(self.error(offset, format!("Attribute '{key}' contains an unescaped '<'")));
            }
            let value = unescape(&raw)
                .ok_or_else(|| self.error(offset, format!("Attribute '{key}' has an unknown entity")))?;
            element.attributes.push((key, value));
        }
        element.namespace = self.namespace(&element);
        Ok(element)
    }

    fn namespace(&self, element: &Element) -> Option<String> {
        let key = match element.name.split_once(':') {
            Some((prefix, _)) => format!("xmlns:{prefix}"),
            None => "xmlns".to_owned(),
        };
        std::iter::once(element)
            .chain(self.stack.iter().rev())
            .find_map(|scope| scope.attr(&key))
            .map(str::to_owned)
    }

    fn close(&mut self, element: Element, offset: usize) -> Result<(), XmlError> {
        let mut element = element;
        // White space between elements is layout, not content.
        if element.elements().next().is_some() {
            element
                .children
                .retain(|node| !matches!(node, Node::Text(text) if text.trim().is_empty()));
        }
        match self.stack.last_mut() {
            Some(parent) => parent.push(element),
            None if self.root.is_none() => self.root = Some(element),
            None => return Err(self.error(offset, "More than one root element")),
        }
        Ok(())
    }

    fn push_text(&mut self, data: &str, offset: usize) -> Result<(), XmlError> {
        match self.stack.last_mut() {
            Some(parent) => {
                if let Some(Node::Text(text)) = parent.children.last_mut() {
                    text.push_str(data);
                } else {
                    parent.children.push(Node::Text(data.to_owned()));
                }
                Ok(())
            }
            None if data.trim().trim_start_matches('\u{feff}').is_empty() => Ok(()),
            None => Err(self.error(offset, "Text outside of the root element")),
        }
    }
}

fn resolve(name: &str) -> Option<char> {
    let number = |digits: &str, radix| {
        u32::from_str_radix(digits, radix)
            .ok()
            .and_then(char::from_u32)
            .filter(|c| *c != '\0')
    };
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => match name.strip_prefix("#x") {
            Some(hex) => number(hex, 16),
            None => name.strip_prefix('#').and_then(|decimal| number(decimal, 10)),
        },
    }
}

fn unescape(raw: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = rest[at..].find(';')? + at;
        out.push(resolve(&rest[at + 1..end])?);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Some(out)
}
