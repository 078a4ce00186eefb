//! Options in QEMU's older form, `name,key=value,...`: a comma in a value is doubled, so that no value can
//! become another property.

use std::fmt::Display;

/// One `key=value` list.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyValues(String);

impl KeyValues {
    /// A list whose first word has no key (`socket,id=...`).
    pub(crate) fn new(first: &str) -> Self {
        Self(escape(first))
    }

    /// A list that begins with a key.
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.separate();
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&escape(&value.to_string()));
        self
    }

    pub(crate) fn set_some(&mut self, key: &str, value: Option<impl Display>) -> &mut Self {
        if let Some(value) = value {
            self.set(key, value);
        }
        self
    }

    /// `on` or `off`.
    pub(crate) fn switch(&mut self, key: &str, value: bool) -> &mut Self {
        self.set(key, if value { "on" } else { "off" })
    }

    /// A word without a value.
    pub(crate) fn word(&mut self, word: &str) -> &mut Self {
        self.separate();
        self.0.push_str(&escape(word));
        self
    }

    /// `on` or `off`, in place of an earlier value of the same key.
    pub(crate) fn replace_switch(&mut self, key: &str, value: bool) -> &mut Self {
        let kept: Vec<&str> = words(&self.0)
            .filter(|word| word.split_once('=').is_none_or(|(found, _)| found != key))
            .collect();
        self.0 = kept.join(",");
        self.switch(key, value)
    }

    /// Appends all of `other`.
    pub(crate) fn append(&mut self, other: &Self) -> &mut Self {
        if !other.0.is_empty() {
            self.separate();
            self.0.push_str(&other.0);
        }
        self
    }

    pub(crate) fn with(mut self, key: &str, value: impl Display) -> Self {
        self.set(key, value);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn separate(&mut self) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
    }
}

impl From<KeyValues> for String {
    fn from(value: KeyValues) -> Self {
        value.0
    }
}

/// The keys and values of a list, from its text; a word without a value is a key alone.
pub(crate) fn read(list: &str) -> Vec<(String, String)> {
    let part = |word: &str| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.replace(",,", ","), value.replace(",,", ","))
    };
    words(list).map(part).collect()
}

/// The words of a list, with their doubled commas.
fn words(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(list).filter(|list| !list.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let mut at = 0;
        while let Some(comma) = text[at..].find(',') {
            let comma = at + comma;
            if text[comma + 1..].starts_with(',') {
                at = comma + 2;
            } else {
                rest = Some(&text[comma + 1..]);
                return Some(&text[..comma]);
            }
        }
        rest = None;
        Some(text)
    })
}

fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_switch_wins() {
        let mut list = KeyValues::new("m,odel");
        list.switch("a", true).set("v", "x,a=on").switch("b", true);
        list.replace_switch("a", false);
        assert_eq!(String::from(list), "m,,odel,v=x,,a=on,b=on,a=off");
    }

    #[test]
    fn a_comma_stays_inside_its_value() {
        let mut list = KeyValues::new("file");
        list.set("path", "/a,readonly=off,b").switch("x", true).word("w");
        assert_eq!(String::from(list), "file,path=/a,,readonly=off,,b,x=on,w");
    }
}
