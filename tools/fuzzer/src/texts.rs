//! Texts: XML that anybody wrote, and what is kept on disk.

use bulkhead_qemu::capabilities::Capabilities;
use bulkhead_qemu::domain::host::CountedIdentifiers;
use bulkhead_qemu::domain::{Definition, Host, Purpose};
use bulkhead_xml::{Element, Limits, parse};
use std::sync::{Arc, LazyLock};

/// The same elements with the same attributes. Space between elements that text stands among is not kept.
fn same(one: &Element, other: &Element) -> bool {
    one.name == other.name
        && one.attributes == other.attributes
        && one.elements().count() == other.elements().count()
        && one.elements().zip(other.elements()).all(|(one, other)| same(one, other))
}

/// XML: what is read is written so that it is read as the same.
pub fn xml(bytes: &[u8]) -> bool {
    let Ok(tree) = parse(bytes, Limits::default(), "metadata") else { return false };
    let text = tree.to_xml();
    let again = parse(text.as_bytes(), Limits::default(), "metadata").expect("what was written can be read");
    assert!(same(&tree, &again), "read again, it is another tree: {text}");
    true
}

static HOST: LazyLock<Host> = LazyLock::new(|| Host::qemu_10_0(Arc::new(CountedIdentifiers::default())));

/// A domain's definition.
pub fn domain(bytes: &[u8]) -> bool {
    let Ok(definition) = Definition::read(bytes, &HOST, Purpose::Define) else { return false };
    assert!(!definition.name().is_empty() && !definition.uuid().is_empty());
    let text = definition.to_xml(true);
    Definition::read(text.as_bytes(), &HOST, Purpose::Define)
        .expect("a definition that was kept can be read again");
    true
}

/// The file in which a QEMU's capabilities are kept.
pub fn capabilities(bytes: &[u8]) -> bool {
    let Ok(capabilities) = serde_json::from_slice::<Capabilities>(bytes) else { return false };
    let text = serde_json::to_vec(&capabilities).expect("what was read can be written");
    let again: Capabilities = serde_json::from_slice(&text).expect("and read again");
    assert_eq!(again, capabilities);
    true
}
