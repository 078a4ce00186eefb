//! A secret's definition: from XML, and back. It never holds the value.

use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::secret::SecretRef;
use bulkhead_xml::{Element, Limits, parse};

/// What secrets are for: number (`virSecretUsageType`), name, the element that names the thing.
const USAGES: [(i32, &str, &str); 6] = [
    (0, "none", ""),
    (1, "volume", "volume"),
    (2, "ceph", "name"),
    (3, "iscsi", "target"),
    (4, "tls", "name"),
    (5, "vtpm", "name"),
];

/// No secret takes more: a document for each of thousands is read at once when the driver starts.
const LIMITS: Limits = Limits { total_bytes: 1 << 20, depth: 16, elements: 256, attributes: 64 };

/// The name of a kind of use.
#[must_use]
pub fn usage_name(number: i32) -> Option<&'static str> {
    USAGES.iter().find(|(known, _, _)| *known == number).map(|(_, name, _)| *name)
}

/// A definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its identity.
    pub uuid: Uuid,
    /// Is it never stored on disk?
    pub ephemeral: bool,
    /// Is its value kept from clients?
    pub private: bool,
    /// Words for people.
    pub description: Option<String>,
    /// `virSecretUsageType`.
    pub usage_type: i32,
    /// The thing that it is for; empty for type 0.
    pub usage_id: String,
}

fn wrong(code: Code, origin: Origin, message: impl Into<String>) -> Error {
    Error::new(code, origin, message)
}

impl Definition {
    /// Reads a definition. One without a uuid gets that of `fresh`. `strict` refuses what the schema does not have.
    ///
    /// # Errors
    /// Text that is no XML, or no secret.
    pub fn read(
        text: &[u8],
        strict: bool,
        fresh: impl FnOnce() -> Result<Uuid, Error>,
    ) -> Result<Self, Error> {
        let root = parse(text, LIMITS, "")
            .map_err(|error| wrong(Code::XML_DETAIL, Origin::SECRET, format!("Secret XML: {error}")))?;
        if root.name != "secret" {
            let message = format!("Secret XML: the root element is <{}>; it must be <secret>", root.name);
            return Err(wrong(Code::XML_ERROR, Origin::XML, message));
        }
        if strict {
            validate(&root)?;
        }
        let flag = |name: &str| match root.attr(name) {
            None | Some("no") => Ok(false),
            Some("yes") => Ok(true),
            Some(other) => {
                let message = format!("Secret XML: {name}='{other}'; it must be 'yes' or 'no'");
                Err(wrong(Code::XML_ERROR, Origin::SECRET, message))
            }
        };
        let (ephemeral, private) = (flag("ephemeral")?, flag("private")?);
        let text = |name: &str| root.child_text(name).filter(|text| !text.is_empty());
        let uuid = match text("uuid") {
            Some(text) => Uuid::parse(&text).ok_or_else(|| {
                wrong(Code::INTERNAL, Origin::SECRET, format!("Secret XML: '{text}' is no uuid"))
            })?,
            None => fresh()?,
        };
        let (usage_type, usage_id) = usage(&root)?;
        Ok(Self { uuid, ephemeral, private, description: text("description"), usage_type, usage_id })
    }

    /// The definition as XML, as libvirt lays it out.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let word = |yes: bool| if yes { "yes" } else { "no" };
        let mut root = Element::new("secret")
            .with("ephemeral", word(self.ephemeral))
            .with("private", word(self.private))
            .with_child(Element::new("uuid").with_text(self.uuid.to_string()));
        if let Some(description) = &self.description {
            root.push(Element::new("description").with_text(description));
        }
        if let Some((_, name, element)) =
            USAGES.iter().find(|(number, _, _)| *number == self.usage_type && *number != 0)
        {
            root.push(
                Element::new("usage")
                    .with("type", *name)
                    .with_child(Element::new(element).with_text(&self.usage_id)),
            );
        }
        root.to_xml()
    }

    /// How clients name it.
    #[must_use]
    pub fn to_ref(&self) -> SecretRef {
        SecretRef { uuid: self.uuid, usage_type: self.usage_type, usage_id: self.usage_id.clone() }
    }
}

fn usage(root: &Element) -> Result<(i32, String), Error> {
    let Some(usage) = root.child("usage") else {
        return Ok((0, String::new()));
    };
    let kind = usage.attr("type").ok_or_else(|| {
        wrong(Code::XML_ERROR, Origin::XML, "Secret XML: <usage> has no type; give it one of the known ones")
    })?;
    let known = USAGES.iter().find(|(_, name, _)| *name == kind).ok_or_else(|| {
        let names: Vec<&str> = USAGES.iter().map(|(_, name, _)| *name).collect();
        let message = format!("Secret XML: <usage type='{kind}'>; the types are {}", names.join(", "));
        wrong(Code::XML_ERROR, Origin::XML, message)
    })?;
    let (number, _, element) = *known;
    if number == 0 {
        return Ok((0, String::new()));
    }
    // Of several <usage> the first has the say, and any may name the thing.
    let named = root.all("usage").find_map(|usage| usage.child_text(element));
    match named.filter(|id| !id.is_empty()) {
        Some(id) => Ok((number, id)),
        None => {
            let message =
                format!("Secret XML: <usage type='{kind}'> names nothing: <{element}> is missing or empty");
            Err(wrong(Code::INTERNAL, Origin::SECRET, message))
        }
    }
}

/// Elements and attributes that the schema has, each at most once.
fn validate(root: &Element) -> Result<(), Error> {
    let refuse =
        |what: String| Err(wrong(Code::XML_INVALID_SCHEMA, Origin::XML, format!("Secret XML: {what}")));
    for (element, attributes, children) in [
        (Some(root), &["ephemeral", "private"][..], &["uuid", "description", "usage"][..]),
        (root.child("usage"), &["type"][..], &["volume", "name", "target"][..]),
    ] {
        let Some(element) = element else { continue };
        if let Some((name, _)) =
            element.attributes.iter().find(|(name, _)| !attributes.contains(&name.as_str()))
        {
            return refuse(format!("<{}> has no attribute '{name}'", element.name));
        }
        for child in element.elements() {
            if !children.contains(&child.name.as_str()) || element.all(&child.name).count() > 1 {
                return refuse(format!("<{}> does not belong there in <{}>", child.name, element.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, strict: bool) -> Result<Definition, Error> {
        Definition::read(text.as_bytes(), strict, || Ok(Uuid([7; 16])))
    }

    #[test]
    fn a_definition_is_written_as_it_was_read() {
        for (kind, element) in
            [("volume", "volume"), ("ceph", "name"), ("iscsi", "target"), ("tls", "name"), ("vtpm", "name")]
        {
            let xml = format!(
                "<secret ephemeral='yes' private='no'>\n  <uuid>07070707-0707-0707-0707-070707070707</uuid>\n  \
                 <description>for &lt;you&gt;</description>\n  <usage type='{kind}'>\n    <{element}>a b</{element}>\n  \
                 </usage>\n</secret>\n"
            );
            assert_eq!(read(&xml, true).unwrap().to_xml(), xml);
        }
    }

    #[test]
    fn each_mistake_has_its_code() {
        for (xml, strict, code, origin) in [
            ("<secret", false, 35, 30),
            ("<sekret/>", false, 27, 5),
            ("<secret ephemeral='maybe'/>", false, 27, 30),
            ("<secret><uuid>zz</uuid></secret>", false, 1, 30),
            ("<secret><usage/></secret>", false, 27, 5),
            ("<secret><usage type='tea'/></secret>", false, 27, 5),
            ("<secret><usage type='tls'/></secret>", false, 1, 30),
            ("<secret><usage type='volume'><volume/></usage></secret>", false, 1, 30),
            ("<secret><bogus/></secret>", true, 92, 5),
            ("<secret other='1'/>", true, 92, 5),
        ] {
            let error = read(xml, strict).unwrap_err();
            assert_eq!((error.code.0, error.origin.0), (code, origin), "{xml}: {error}");
        }
    }
}
