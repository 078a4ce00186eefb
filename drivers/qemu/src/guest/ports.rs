//! A guest's interface at a virtual network: what the network driver is told of it, and what the live definition says then.

use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::network::PortTap;
use bulkhead_xml::{Element, Node};

/// The port that an interface wants; the network driver gives it its identity and its place.
pub(super) fn wanted(interface: &Element, owner: &str, uuid: Uuid) -> String {
    let leaf = |name: &str, text: String| Element::new(name).with_text(text);
    let owner = Element::new("owner")
        .with_child(leaf("name", owner.to_owned()))
        .with_child(leaf("uuid", uuid.to_string()));
    let mut port = Element::new("networkport").with_child(owner);
    if let Some(group) = interface.path_attr("source", "portgroup") {
        port.push(leaf("group", group.to_owned()));
    }
    let mac = interface.path_attr("mac", "address").unwrap_or_default();
    port.push(Element::new("mac").with("address", mac));
    for name in ["virtualport", "bandwidth", "vlan", "port"] {
        port.children.extend(interface.child(name).cloned().map(Node::Element));
    }
    if let Some(trusts) = interface.attr("trustGuestRxFilters") {
        port.push(Element::new("rxfilters").with("trustGuest", trusts));
    }
    port.to_xml()
}

/// Notes in an interface's source where it was plugged in.
pub(super) fn note(interface: &mut Element, opened: &PortTap) {
    if let Some(source) = interface.child_mut("source") {
        source.set("portid", opened.port.to_string());
        source.set("bridge", &opened.bridge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_says_what_its_interface_says() {
        let text = b"<interface type='network'><mac address='52:54:00:00:00:01'/><source network='n' portgroup='g'/>\
            <bandwidth><inbound average='1'/></bandwidth><vlan><tag id='7'/></vlan><port isolated='yes'/></interface>";
        let interface = bulkhead_xml::parse(text, bulkhead_xml::Limits::default(), "").unwrap();
        let port = wanted(&interface, "web <1>", Uuid([7; 16]));
        for part in [
            "<name>web &lt;1&gt;</name>",
            "<group>g</group>",
            "<inbound average='1'/>",
            "<tag id='7'/>",
            "isolated='yes'",
        ] {
            assert!(port.contains(part), "{part}: {port}");
        }
    }
}
