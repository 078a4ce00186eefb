//! From bytes to text: byte order marks, declared encodings, characters that XML does not have.

use std::borrow::Cow;

/// Encodings that a declaration may name. The bytes must be UTF-8 in any case, as they are for libvirt, whose clients
/// hand over text that is UTF-8 already and forget the declaration in it.
const KNOWN: &[&str] = &[
    "utf-8",
    "utf8",
    "utf-16",
    "utf-16le",
    "utf-16be",
    "us-ascii",
    "ascii",
    "iso-8859-1",
    "iso-8859-15",
    "iso-latin-1",
    "latin1",
    "windows-1252",
];

/// Why bytes are no text, and at which of them that is found.
pub(crate) struct Fault {
    pub(crate) offset: usize,
    pub(crate) message: String,
}

fn fault(offset: usize, message: impl Into<String>) -> Fault {
    Fault { offset, message: message.into() }
}

/// The text of a document.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => Cow::Owned(utf16(rest, u16::from_le_bytes)?),
        [0xfe, 0xff, rest @ ..] => Cow::Owned(utf16(rest, u16::from_be_bytes)?),
        _ => {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            let text = std::str::from_utf8(bytes).map_err(|error| {
                fault(error.valid_up_to(), "Document is not valid UTF-8; convert it to UTF-8")
            })?;
            Cow::Borrowed(text)
        }
    };
    if let Some(name) = declared(&text)
        && !KNOWN.contains(&name.to_ascii_lowercase().as_str())
    {
        return Err(fault(0, format!("Encoding '{name}' is not supported; use UTF-8")));
    }
    match text.char_indices().find(|(_, character)| !is_allowed(*character)) {
        Some((offset, character)) => {
            Err(fault(offset, format!("Character U+{:04X} can't be in XML; remove it", u32::from(character))))
        }
        None => Ok(text),
    }
}

fn utf16(bytes: &[u8], number: fn([u8; 2]) -> u16) -> Result<String, Fault> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(fault(bytes.len(), "Document ends within a UTF-16 character"));
    }
    char::decode_utf16(pairs.iter().map(|pair| number(*pair)))
        .collect::<Result<String, _>>()
        .map_err(|_| fault(0, "Document is not valid UTF-16; convert it to UTF-8"))
}

/// The encoding that the XML declaration names.
fn declared(text: &str) -> Option<&str> {
    let declaration = text.strip_prefix("<?xml")?.split_once("?>")?.0;
    let (_, after) = declaration.split_once("encoding")?;
    let after = after.trim_start().strip_prefix('=')?.trim_start();
    let quote = after.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    after.get(1..)?.split(quote).next()
}

/// Whether XML 1.0 has the character.
pub(crate) fn is_allowed(character: char) -> bool {
    match character {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        other => other >= ' ',
    }
}

/// Whether a word can be the name of an element or attribute.
pub(crate) fn is_name(word: &str) -> bool {
    let first = |c: char| c.is_alphabetic() || c == '_' || c == ':';
    let later =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | '\u{b7}') || !c.is_ascii();
    word.starts_with(first) && word.chars().all(later)
}
