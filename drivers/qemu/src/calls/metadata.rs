//! Title, description, elements of others, and the name.

use super::processors::side;
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::Guest;
use crate::guest::amend::{CONFIG, LIVE, place};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{domain_get_metadata, domain_rename, domain_set_metadata};
use bulkhead_xml::Element;
use bulkhead_xml::metadata::{bare, elements, keyed, metadata, with_element};

/// `virDomainMetadataType`.
const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;

fn wrong(code: Code, domain: &str, why: &str) -> Error {
    Error::new(code, Origin::DOMAIN, format!("Domain '{domain}': {why}"))
}

pub(super) async fn domain_get_metadata(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_metadata::Arguments,
) -> Result<String, Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let view = driver.guest(&arguments.domain)?.view.get();
    let root = side(&view, arguments.flags)?;
    let found = match (arguments.kind, &arguments.uri) {
        (DESCRIPTION, _) => root.child_text("description"),
        (TITLE, _) => root.child_text("title"),
        (ELEMENT, Some(uri)) => {
            let elements = elements(root);
            elements.iter().find(|element| element.namespace.as_ref() == Some(uri)).map(bare)
        }
        (ELEMENT, None) => {
            return Err(wrong(Code::INVALID_ARG, &view.name, "name the namespace of the metadata"));
        }
        (kind, _) => {
            return Err(wrong(
                Code::INVALID_ARG,
                &view.name,
                &format!("there is no metadata of kind {kind}"),
            ));
        }
    };
    found.ok_or_else(|| wrong(Code::NO_DOMAIN_METADATA, &view.name, "it has no such metadata"))
}

/// Sets or removes an element of a namespace.
fn set_element(root: &mut Element, uri: &str, element: Option<&Element>) {
    let content = with_element(root, uri, element);
    root.take("metadata");
    if let Some(content) = content {
        place(root, metadata(content));
    }
}

pub(super) async fn domain_set_metadata(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_metadata::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, LIVE | CONFIG)?;
    let domain_set_metadata::Arguments { domain, kind, metadata: given, key, uri, flags } = arguments;
    let guest = driver.guest(&domain)?;
    let refuse = |why: &str| wrong(Code::INVALID_ARG, &domain.name, why);
    let text = given.filter(|text| !text.is_empty());
    let element = match kind {
        DESCRIPTION => None,
        TITLE if text.as_ref().is_some_and(|text| text.contains('\n')) => {
            return Err(refuse("its title can't hold a line break; use the description"));
        }
        TITLE => None,
        ELEMENT if uri.is_none() => return Err(refuse("name the namespace of the metadata")),
        ELEMENT => match &text {
            None => None,
            Some(text) => {
                let element = keyed(text, &key.unwrap_or_default(), uri.as_deref().unwrap_or_default())
                    .map_err(|error| wrong(Code::XML_DETAIL, &domain.name, &format!("metadata: {error}")))?;
                let element =
                    element.ok_or_else(|| refuse("metadata need a key, which becomes their prefix"))?;
                Some(element)
            }
        },
        kind => return Err(refuse(&format!("there is no metadata of kind {kind}"))),
    };
    let edit = move |root: &mut Element| {
        let name = if kind == TITLE { "title" } else { "description" };
        match (kind, &text) {
            (ELEMENT, _) => set_element(root, uri.as_deref().unwrap_or_default(), element.as_ref()),
            (_, Some(text)) => place(root, Element::new(name).with_text(text.clone())),
            (_, None) => drop(root.take(name)),
        }
        Ok(())
    };
    guest
        .object
        .run("domain_set_metadata", move |guest: &mut Guest| {
            Box::pin(async move { guest.amend(guest.sides(flags)?, edit).await })
        })
        .await?
}

pub(super) async fn domain_rename(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_rename::Arguments,
) -> Result<i32, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.guest(&arguments.domain)?;
    let view = guest.view.get();
    let invalid = |why: &str| {
        let message = format!("Domain '{}': {why}", view.name);
        Error::new(Code::OPERATION_INVALID, Origin::QEMU, message)
    };
    let new = arguments.new_name.unwrap_or_default();
    if view.live.is_some() {
        return Err(invalid("cannot rename a domain that runs; shut it down first"));
    }
    if new == view.name {
        return Err(Error { origin: Origin::DOMAIN, ..invalid("it has that name already") });
    }
    if new.is_empty() || new.contains('/') || new.contains('\n') || new == "." || new == ".." {
        let message = format!("Domain '{}': '{new}' can't be the name of a domain and its files", view.name);
        return Err(Error::new(Code::XML_ERROR, Origin::QEMU, message));
    }
    let environment = &driver.environment;
    environment.reserve(&new, view.uuid)?;
    let wanted = new.clone();
    let renamed = guest
        .object
        .run("domain_rename", move |guest: &mut Guest| Box::pin(guest.rename(wanted)))
        .await
        .and_then(std::convert::identity);
    environment.release(if renamed.is_ok() { &view.name } else { &new });
    renamed.map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::amend::tree;
    use bulkhead_xml::{Limits, parse};

    #[test]
    fn elements_of_others_are_set_found_and_removed_and_the_rest_stays() {
        let mut root =
            tree("<domain><name>a</name><metadata><o:os xmlns:o='http://o/'><o:id>7</o:id></o:os></metadata></domain>")
                .unwrap();
        let mut own = parse(b"<k:a xmlns:k='http://x/'>1 &lt; 2</k:a>", Limits::default(), "").unwrap();
        set_element(&mut root, "http://x/", Some(&own));
        let again = tree(&root.to_xml()).unwrap();
        let found = |root: &Element, uri: &str| {
            elements(root).iter().find(|element| element.namespace.as_deref() == Some(uri)).map(bare)
        };
        assert_eq!(found(&again, "http://x/").as_deref(), Some("<a>1 &lt; 2</a>"));
        assert!(found(&again, "http://o/").unwrap().contains("<o:id"));
        own.set_text("3");
        set_element(&mut root, "http://x/", Some(&own));
        assert_eq!(found(&root, "http://x/").as_deref(), Some("<a>3</a>"));
        set_element(&mut root, "http://x/", None);
        assert_eq!(found(&root, "http://x/"), None);
        set_element(&mut root, "http://o/", None);
        assert!(root.child("metadata").is_none());
    }
}
