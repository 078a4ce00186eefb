//! Reading bytes into a tree, within limits, without recursion.

use crate::encoding;
use crate::tree::{Element, Node, Position};
use quick_xml::Reader;
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesStart, Event};
use std::borrow::Cow;

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
        Self { total_bytes: 4 << 20, depth: 255, elements: 100_000, attributes: 256 }
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
        " (outside of the root element)".to_owned()
    } else {
        format!(" (in <{element}>)")
    }
}

/// Reads a document. `keep_raw` names the path (`domain/metadata`) of the element whose content is kept byte for byte.
///
/// # Errors
/// Anything that is not one well-formed UTF-8 document without a document type, or exceeds the limits.
pub fn parse(text: &[u8], limits: Limits, keep_raw: &str) -> Result<Element, XmlError> {
    if text.len() > limits.total_bytes {
        let message = format!("Document is larger than {} bytes", limits.total_bytes);
        return Err(at_byte(text, encoding::Fault { offset: limits.total_bytes, message }));
    }
    let decoded = encoding::decode(text).map_err(|fault| at_byte(text, fault))?;
    Builder::new(&decoded, limits, keep_raw).run()
}

/// The place of a fault in bytes that are no text, with the element that was begun before it.
fn at_byte(bytes: &[u8], fault: encoding::Fault) -> XmlError {
    let before = bytes.get(..fault.offset).unwrap_or(bytes);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    let element = before.rsplit(|byte| *byte == b'<').find_map(|tag| {
        let tag = tag.get(..tag.len().min(SHOWN_OF_NAME)).unwrap_or_default();
        tag_name(&String::from_utf8_lossy(tag))
    });
    let element = element.filter(|_| before.contains(&b'<')).unwrap_or_default();
    XmlError {
        message: fault.message,
        position: Position {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        },
        element,
    }
}

/// How much of a name that stands in a broken tag is shown.
const SHOWN_OF_NAME: usize = 64;

/// The name with which the inside of a tag begins.
fn tag_name(tag: &str) -> Option<String> {
    let name: String = tag
        .chars()
        .take_while(|c| c.is_alphanumeric() || matches!(c, ':' | '_' | '-' | '.'))
        .take(SHOWN_OF_NAME)
        .collect();
    (!name.is_empty()).then_some(name)
}

struct Builder<'a> {
    text: &'a str,
    limits: Limits,
    keep_raw: &'a str,
    stack: Vec<Element>,
    root: Option<Element>,
    elements: usize,
    line_starts: Vec<usize>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, limits: Limits, keep_raw: &'a str) -> Self {
        Self { text, limits, keep_raw, stack: Vec::new(), root: None, elements: 0, line_starts: Vec::new() }
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
            element: self.stack.last().map(|element| element.name.clone()).unwrap_or_default(),
        }
    }

    /// A fault in the tag that begins at `offset`; the element is the one that the tag would have opened.
    fn error_in_tag(&self, offset: usize, message: impl Into<String>) -> XmlError {
        let tag = self.text.get(offset..).and_then(|rest| rest.strip_prefix('<'));
        let mut error = self.error(offset, message);
        if let Some(name) = tag.and_then(tag_name) {
            error.element = name;
        }
        error
    }

    fn run(mut self) -> Result<Element, XmlError> {
        self.line_starts.push(0);
        self.line_starts.extend(
            self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1),
        );
        let mut reader = Reader::from_str(self.text);
        reader.config_mut().check_end_names = true;
        reader.config_mut().check_comments = true;
        loop {
            let offset = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
            let event = reader.read_event().map_err(|error| {
                let at = usize::try_from(reader.error_position()).unwrap_or(offset);
                self.error_in_tag(at, error.to_string())
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
                Event::Text(data) => self.push_text(&line_ends(&data), offset)?,
                Event::CData(data) => self.push_text(&line_ends(&data), offset)?,
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
            let message = format!("Document ends inside <{}>, opened at {}", open.name, open.position);
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
            let span =
                reader.read_to_end(start.name()).map_err(|error| self.error(offset, error.to_string()))?;
            let (begin, end) =
                (usize::try_from(span.start).unwrap_or(from), usize::try_from(span.end).unwrap_or(from));
            let raw = self.text.get(begin..end).unwrap_or_default();
            check_raw(raw, self.limits).map_err(|error| self.error(offset, error.message))?;
            if !raw.is_empty() {
                element.children.push(Node::Raw(raw.to_owned()));
            }
            return self.close(element, offset);
        }
        if self.stack.len() >= self.limits.depth {
            return Err(self.error(offset, format!("Elements are nested deeper than {}", self.limits.depth)));
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
            return Err(self.error_in_tag(offset, format!("More than {} elements", self.limits.elements)));
        }
        let name = start.name().as_ref().to_owned();
        if !encoding::is_name(&name) {
            return Err(self.error_in_tag(offset, format!("'{name}' can't be the name of an element")));
        }
        let mut element = Element { name, position: self.position(offset), ..Element::default() };
        for attribute in start.attributes() {
            let attribute =
                attribute.map_err(|error| self.error_in_tag(offset, attribute_fault(start, &error)))?;
            if element.attributes.len() >= self.limits.attributes {
                return Err(
                    self.error_in_tag(offset, format!("More than {} attributes", self.limits.attributes))
                );
            }
            let key = attribute.key.as_ref().to_owned();
            if !encoding::is_name(&key) {
                return Err(self.error_in_tag(offset, format!("'{key}' can't be the name of an attribute")));
            }
            let raw = attribute.value.into_owned();
            if raw.contains('<') {
                return Err(self.error_in_tag(offset, format!("Attribute '{key}' contains an unescaped '<'")));
            }
            let value = unescape(&raw).ok_or_else(|| {
                self.error_in_tag(offset, format!("Attribute '{key}' has an unknown entity"))
            })?;
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
            element.children.retain(|node| !matches!(node, Node::Text(text) if text.trim().is_empty()));
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

/// Line ends are one character, whatever the document was written with; references to them stay what they are.
fn line_ends(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(text)
    }
}

/// What is wrong with an attribute, in terms of its name where it has one.
fn attribute_fault(tag: &BytesStart<'_>, error: &AttrError) -> String {
    let name = |at: usize| tag.get(at..).and_then(tag_name).unwrap_or_default();
    match error {
        AttrError::Duplicated(at, _) => format!("Attribute '{}' is given twice", name(*at)),
        other => format!("An attribute can't be read: {other}"),
    }
}

/// Whether markup that is kept as it is would be read.
fn check_raw(raw: &str, limits: Limits) -> Result<(), XmlError> {
    let document = format!("<metadata>{raw}</metadata>");
    Builder::new(&document, limits, "").run().map(|_| ())
}

fn resolve(name: &str) -> Option<char> {
    let number = |digits: &str, radix| {
        u32::from_str_radix(digits, radix).ok().and_then(char::from_u32).filter(|c| encoding::is_allowed(*c))
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
    // White space written as such is a blank; a reference to it stays what it is.
    let blank = |text: &str| text.replace("\r\n", " ").replace(['\t', '\n', '\r'], " ");
    while let Some(at) = rest.find('&') {
        out.push_str(&blank(&rest[..at]));
        let end = rest[at..].find(';')? + at;
        out.push(resolve(&rest[at + 1..end])?);
        rest = &rest[end + 1..];
    }
    out.push_str(&blank(rest));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Element, XmlError> {
        parse(text.as_ref(), Limits::default(), "domain/metadata")
    }

    fn refused(text: impl AsRef<[u8]>) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn byte_order_marks_and_encodings_are_understood() {
        assert_eq!(read("\u{feff}<a>\u{e9}</a>").unwrap().text(), "\u{e9}");
        let wide: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain("<a>\u{e9}</a>".encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        assert_eq!(read(wide).unwrap().text(), "\u{e9}");
        assert!(read("<?xml version='1.0' encoding='ISO-8859-1'?><a/>").is_ok());
        assert!(refused("<?xml version='1.0' encoding='klingon'?><a/>").contains("klingon"));
        assert!(refused(b"<a><b>\xff</b></a>").contains("(in <b>)"));
    }

    #[test]
    fn characters_that_xml_lacks_are_refused() {
        for text in ["<a>\0</a>", "<a>\u{1}</a>", "<a>&#1;</a>", "<a>&#0;</a>", "<a b='&#8;'/>"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert_eq!(read("<a>&#9;&#xe9;&amp;</a>").unwrap().text(), "\t\u{e9}&");
    }

    #[test]
    fn attributes_are_unique_and_normalised() {
        assert_eq!(
            refused("<a>\n<b c='1' c='2'/></a>"),
            "line 2, column 1: Attribute 'c' is given twice (in <b>)"
        );
        let element = read("<a b='x\ny&#10;z'/>").unwrap();
        assert_eq!(element.attr("b"), Some("x y\nz"));
        assert!(read("<a b='<'/>").is_err());
        assert!(read("<1a/>").is_err());
    }

    #[test]
    fn broken_documents_name_line_and_element() {
        assert!(refused("<a>\n<b>\n</a>").contains("line 3"));
        assert!(refused("<a>\n<b>").contains("<b>"));
        for broken in
            ["<a>\n<b c='1", "<a>\n<b", "<a>\n<b c=1/></a>", "<a>\n<b &/></a>", "<a>\n<b c='&x;'/></a>"]
        {
            let message = refused(broken);
            assert!(message.starts_with("line 2") && message.ends_with("(in <b>)"), "{broken:?}: {message}");
        }
        assert!(refused("text").ends_with("(outside of the root element)"));
        assert!(read("<a/><b/>").is_err());
        assert!(read("").is_err());
        assert!(read("text").is_err());
        assert!(read("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>").is_err());
        assert!(read("<a>&nbsp;</a>").is_err());
    }

    #[test]
    fn limits_hold() {
        let deep = "<a>".repeat(1000);
        assert!(refused(deep).contains("deeper"));
        let many: String = (0..300).map(|n| format!(" a{n}='1'")).collect();
        assert!(refused(format!("<a{many}/>")).contains("attributes"));
        let limits = Limits { elements: 3, ..Limits::default() };
        assert!(parse(b"<a><b/><b/><b/></a>", limits, "").is_err());
    }

    #[test]
    fn metadata_is_kept_as_it_is_but_must_be_well_formed() {
        let kept =
            read("<domain><metadata> <x:y xmlns:x='u'  a=\"1\"/><!-- c --></metadata></domain>").unwrap();
        assert!(kept.to_xml().contains("<metadata> <x:y xmlns:x='u'  a=\"1\"/><!-- c --></metadata>"));
        assert!(read("<domain><metadata><x>&nope;</x></metadata></domain>").is_err());
        assert!(read("<domain><metadata><x a='1' a='2'/></metadata></domain>").is_err());
    }

    #[test]
    fn namespaces_are_resolved() {
        let element = read("<domain xmlns:qemu='u'><qemu:arg value='1'/></domain>").unwrap();
        let child = element.elements().next().unwrap();
        assert_eq!((child.name.as_str(), child.namespace.as_deref()), ("qemu:arg", Some("u")));
    }
}
