//! What passes through to QEMU: `<qemu:commandline>`, `<qemu:capabilities>`, `<qemu:override>`, `<qemu:deprecation>`.

use super::refuse;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// The namespace of these elements.
pub(super) const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// The elements of the namespace in canonical form, with the prefix that libvirt uses.
pub(super) fn complete(root: &Element) -> Result<Vec<Element>, Error> {
    let mut found = Vec::new();
    let of = |name: &'static str| {
        root.elements().find(move |child| local(child) == name && child.namespace.as_deref() == Some(QEMU))
    };
    if let Some(given) = of("commandline") {
        let mut line = Element::new("qemu:commandline");
        for arg in children(given, "arg") {
            let value = arg.attr("value").ok_or_else(|| refuse::internal("<qemu:arg> has no 'value'"))?;
            line.push(Element::new("qemu:arg").with("value", value));
        }
        for env in children(given, "env") {
            line.push(environment(env)?);
        }
        found.push(line);
    }
    if let Some(given) = of("capabilities") {
        let mut capabilities = Element::new("qemu:capabilities");
        for (name, full) in [("add", "qemu:add"), ("del", "qemu:del")] {
            for change in children(given, name) {
                let capability = change
                    .attr("capability")
                    .ok_or_else(|| refuse::internal(format!("<{full}> has no 'capability'")))?;
                capabilities.push(Element::new(full).with("capability", capability));
            }
        }
        found.push(capabilities);
    }
    if let Some(given) = of("override") {
        let mut all = Element::new("qemu:override");
        for device in children(given, "device") {
            let alias = device.attr("alias").ok_or_else(|| refuse::xml("<qemu:device> has no 'alias'"))?;
            let mut frontend = Element::new("qemu:frontend");
            for property in children(device, "frontend").flat_map(|f| children(f, "property")) {
                let mut kept = Element::new("qemu:property");
                for name in ["name", "type", "value"] {
                    if let Some(value) = property.attr(name) {
                        kept.set(name, value);
                    }
                }
                frontend.push(kept);
            }
            let device = Element::new("qemu:device").with("alias", alias);
            all.push(device.with_child(frontend));
        }
        found.push(all);
    }
    if let Some(given) = of("deprecation")
        && let Some(behavior) = given.attr("behavior")
    {
        found.push(Element::new("qemu:deprecation").with("behavior", behavior));
    }
    found.iter_mut().for_each(claim);
    found.retain(|element| !element.children.is_empty() || !element.attributes.is_empty());
    Ok(found)
}

/// Says of an element and all below it that they are in the namespace, as reading them again would.
fn claim(element: &mut Element) {
    element.namespace = Some(QEMU.to_owned());
    // Three levels at most, as they are built above.
    element.elements_mut().for_each(claim);
}

fn local(element: &Element) -> &str {
    element.name.rsplit(':').next().unwrap_or_default()
}

fn children<'a>(parent: &'a Element, name: &'a str) -> impl Iterator<Item = &'a Element> {
    parent.elements().filter(move |child| local(child) == name && child.namespace.as_deref() == Some(QEMU))
}

fn environment(env: &Element) -> Result<Element, Error> {
    let bad = |message: &str| Error::new(Code::INTERNAL, Origin::QEMU, format!("<qemu:env>: {message}"));
    let name = env.attr("name").unwrap_or_default();
    if name.is_empty() {
        return Err(bad("a variable has no name"));
    }
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts {
        return Err(bad("a variable's name begins with neither letter nor underscore"));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(bad("a variable's name holds other than letters, digits and underscores"));
    }
    let mut kept = Element::new("qemu:env").with("name", name);
    if let Some(value) = env.attr("value") {
        kept.set("value", value);
    }
    Ok(kept)
}
