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

fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_stays_inside_its_value() {
        let mut list = KeyValues::new("file");
        list.set("path", "/a,readonly=off,b").switch("x", true).word("w");
        assert_eq!(String::from(list), "file,path=/a,,readonly=off,,b,x=on,w");
    }
}
