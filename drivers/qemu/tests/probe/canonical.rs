//! Command lines in a form in which two can be compared: options with their properties in any order, descriptors, keys
//! and identifiers that somebody made up left out.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Options whose value is one text.
const FREE_TEXT: [&str; 7] = ["-append", "-kernel", "-initrd", "-dtb", "-bios", "-uuid", "-incoming"];
/// Options whose order says something.
const ORDERED: [&str; 9] =
    ["-device", "-blockdev", "-drive", "-chardev", "-netdev", "-numa", "-serial", "-fw_cfg", "-smbios"];
const PRIVATE: [&str; 8] = ["fd", "fds", "vhostfd", "vhostfds", "tapfd", "tapfds", "data", "iv"];

/// What is compared.
#[derive(Debug, PartialEq)]
pub(crate) struct Canonical {
    environment: BTreeSet<String>,
    program: String,
    ordered: Vec<String>,
    others: Vec<String>,
}

impl Canonical {
    /// From the words of a command line and the identifiers that the input gave.
    pub(crate) fn new(words: &[String], given: &BTreeSet<String>) -> Self {
        let mut numbers = BTreeMap::new();
        let words: Vec<String> =
            words.iter().map(|word| without_made_up(word, given, &mut numbers)).collect();
        let is_variable = |word: &&String| {
            word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
            })
        };
        let environment =
            words.iter().take_while(is_variable).filter(|word| !word.starts_with("PATH=")).cloned().collect();
        let mut rest = words.iter().skip_while(is_variable).peekable();
        let program = rest.next().cloned().unwrap_or_default();
        let (mut ordered, mut others) = (Vec::new(), Vec::new());
        while let Some(name) = rest.next() {
            let takes =
                rest.peek().is_some_and(|next| !next.starts_with('-') || FREE_TEXT.contains(&name.as_str()));
            let value = if takes { rest.next().cloned().unwrap_or_default() } else { String::new() };
            let text = format!("{name} {}", properties(name, &value));
            if ORDERED.contains(&name.as_str()) {
                ordered.push(text);
            } else {
                others.push(text);
            }
        }
        others.sort();
        Self { environment, program, ordered, others }
    }

    /// The first difference, for a person.
    pub(crate) fn difference(&self, other: &Self) -> String {
        let lists = [(&self.ordered, &other.ordered), (&self.others, &other.others)];
        for (ours, theirs) in lists {
            let first = ours.iter().zip(theirs).find(|(one, two)| one != two);
            if let Some((one, two)) = first {
                return format!("{one}\n    instead of {two}");
            }
            if ours.len() != theirs.len() {
                return format!("{} options instead of {}", ours.len(), theirs.len());
            }
        }
        format!("{:?} instead of {:?}", self.environment, other.environment)
    }
}

fn properties(name: &str, value: &str) -> String {
    if let Ok(Value::Object(members)) = serde_json::from_str(value) {
        let members: BTreeMap<String, Value> = members
            .into_iter()
            .map(|(key, member)| {
                let private = PRIVATE.contains(&key.as_str());
                (key, if private { Value::from("X") } else { member })
            })
            .collect();
        if members.get("id") == Some(&Value::from("masterKey0")) {
            return "masterKey0".to_owned();
        }
        return format!("{members:?}");
    }
    if FREE_TEXT.contains(&name) || value.contains(",,") {
        return value.to_owned();
    }
    if value.contains("id=charmonitor") {
        return "charmonitor".to_owned();
    }
    let mut words: Vec<String> = value
        .split(',')
        .map(|word| match word.split_once('=') {
            Some((key, _)) if PRIVATE.contains(&key) => format!("{key}=X"),
            Some(("base", date)) if name == "-rtc" && date.contains('T') => "base=DATE".to_owned(),
            _ => word.to_owned(),
        })
        .collect();
    words.sort();
    words.join(",")
}

/// Replaces UUIDs and MAC addresses that the input did not give by their number of appearance.
fn without_made_up(text: &str, given: &BTreeSet<String>, numbers: &mut BTreeMap<String, usize>) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut inside_word = false;
    while let Some(first) = rest.chars().next() {
        let found = if inside_word { None } else { identifier(rest) };
        if let Some((length, plain)) = found {
            if given.contains(&plain) {
                out.push_str(&rest[..length]);
            } else {
                let next = numbers.len() + 1;
                let number = numbers.entry(plain).or_insert(next);
                out.push_str(&format!("ID-{number}"));
            }
            rest = &rest[length..];
            inside_word = true;
            continue;
        }
        inside_word = first.is_ascii_alphanumeric();
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// The length of the UUID or MAC address that a text begins with, and its plain form.
fn identifier(text: &str) -> Option<(usize, String)> {
    let groups = |sizes: &[usize], separator: u8| -> Option<usize> {
        let bytes = text.as_bytes();
        let mut at = 0;
        for (index, size) in sizes.iter().enumerate() {
            if index > 0 {
                if bytes.get(at) != Some(&separator) {
                    return None;
                }
                at += 1;
            }
            let end = at + size;
            if !bytes.get(at..end)?.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            at = end;
        }
        (!bytes.get(at).is_some_and(u8::is_ascii_alphanumeric)).then_some(at)
    };
    if let Some(length) = groups(&[8, 4, 4, 4, 12], b'-') {
        return Some((length, text[..length].replace('-', "").to_lowercase()));
    }
    let length = groups(&[2; 6], b':').filter(|_| text.starts_with("52:54:00"))?;
    Some((length, text[..length].to_lowercase()))
}

/// The words of a line that was quoted for a shell.
pub(crate) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if !quoted => match letters.next() {
                Some('\n') | None => {}
                Some(other) => word.get_or_insert_default().push(other),
            },
            ' ' | '\n' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}
