//! Writing in libvirt's layout: two blanks a level, `'` around attributes, empty elements closed at once,
//! text on one line with its element.

use crate::tree::{Element, Node};

impl Element {
    /// The text of this element and what is below it, as libvirt lays it out, with a line break at the end.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut out = String::new();
        write_element(self, 0, &mut out);
        out
    }
}

fn write_element(element: &Element, depth: usize, out: &mut String) {
    indent(depth, out);
    out.push('<');
    out.push_str(&element.name);
    for (name, value) in &element.attributes {
        out.push(' ');
        out.push_str(name);
        out.push_str("='");
        out.push_str(&escape_attribute(value));
        out.push('\'');
    }
    if element.children.is_empty() {
        out.push_str("/>\n");
        return;
    }
    out.push('>');
    let mut inline = true;
    for node in &element.children {
        match node {
            Node::Text(text) => out.push_str(&escape_text(text)),
            Node::Raw(markup) => out.push_str(markup),
            Node::Element(child) => {
                if inline {
                    out.push('\n');
                    inline = false;
                }
                write_element(child, depth + 1, out);
            }
        }
    }
    if !inline {
        indent(depth, out);
    }
    out.push_str("</");
    out.push_str(&element.name);
    out.push_str(">\n");
}

fn indent(depth: usize, out: &mut String) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

/// Escapes what may not stand in an attribute between single quotes.
#[must_use]
pub fn escape_attribute(value: &str) -> String {
    escape_text(value)
}

/// Escapes what may not stand in text; control characters that XML can't carry are dropped.
#[must_use]
pub fn escape_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' => out.push(character),
            control if control < ' ' => {}
            other => out.push(other),
        }
    }
    out
}
