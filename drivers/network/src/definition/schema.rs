//! The schema, for those who ask that nothing unknown passes: elements, attributes, and how often each may stand.

use super::address::parse;
use crate::name::Mac;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Uuid;
use bulkhead_xml::Element;

/// What an attribute's value must be.
#[derive(Debug, Clone, Copy)]
enum Is {
    Any,
    /// One of these words.
    Of(&'static [&'static str]),
    Number,
    /// A number of 16 bits.
    Short,
    Address,
    Ipv4,
    Mac,
    Uuid,
    /// The name of an interface.
    Device,
    /// A name of the name service.
    Dns,
    Prefix,
}

/// An attribute: its name, whether it must be there, its value.
type Attribute = (&'static str, bool, Is);
/// A child: its name, and whether it may stand more than once.
type Child = (&'static str, bool);

/// An element: its path, with `*` for any beginning; its attributes and children.
struct Rule {
    path: &'static str,
    attributes: &'static [Attribute],
    children: &'static [Child],
}

const YES_NO: Is = Is::Of(&["yes", "no"]);
const fn rule(path: &'static str, attributes: &'static [Attribute], children: &'static [Child]) -> Rule {
    Rule { path, attributes, children }
}

#[rustfmt::skip]
const RULES: &[Rule] = &[
    rule("network", &[("connections", false, Is::Number), ("ipv6", false, YES_NO), ("trustGuestRxFilters", false, YES_NO)],
        &[("name", false), ("title", false), ("description", false), ("metadata", false), ("uuid", false), ("bridge", false),
          ("mtu", false), ("mac", false), ("forward", false), ("virtualport", false), ("portgroup", true), ("domain", false),
          ("dns", false), ("bandwidth", false), ("vlan", false), ("port", false), ("ip", true), ("route", true)]),
    rule("network/name", &[], &[]),
    rule("network/uuid", &[], &[]),
    rule("network/title", &[], &[]),
    rule("network/description", &[], &[]),
    rule("network/bridge", &[("name", false, Is::Device), ("zone", false, Is::Device), ("stp", false, Is::Of(&["on", "off"])),
        ("delay", false, Is::Number), ("macTableManager", false, Is::Of(&["kernel", "libvirt"]))], &[]),
    rule("network/mtu", &[("size", true, Is::Short)], &[]),
    rule("network/mac", &[("address", true, Is::Mac)], &[]),
    rule("network/port", &[("isolated", false, YES_NO)], &[]),
    rule("network/domain", &[("name", true, Is::Dns), ("localOnly", false, YES_NO), ("register", false, YES_NO)], &[]),
    rule("network/forward", &[("dev", false, Is::Device), ("managed", false, YES_NO),
        ("mode", false, Is::Of(&["nat", "route", "open", "bridge", "passthrough", "private", "vepa", "hostdev"]))],
        &[("interface", true), ("address", true), ("pf", false), ("driver", false), ("nat", false)]),
    rule("network/forward/interface", &[("dev", true, Is::Device), ("connections", false, Is::Number)], &[]),
    rule("network/forward/address", &[("type", true, Is::Of(&["pci"])), ("domain", false, Is::Any), ("bus", false, Is::Any),
        ("slot", false, Is::Any), ("function", false, Is::Any), ("connections", false, Is::Number)], &[]),
    rule("network/forward/pf", &[("dev", true, Is::Device)], &[]),
    rule("network/forward/driver", &[("name", false, Is::Of(&["kvm", "vfio", "xen"])), ("model", false, Is::Any)], &[]),
    rule("network/forward/nat", &[("ipv6", false, YES_NO)], &[("address", false), ("port", false)]),
    rule("network/forward/nat/address", &[("start", true, Is::Ipv4), ("end", true, Is::Ipv4)], &[]),
    rule("network/forward/nat/port", &[("start", true, Is::Short), ("end", true, Is::Short)], &[]),
    rule("network/portgroup", &[("name", true, Is::Device), ("default", false, YES_NO), ("trustGuestRxFilters", false, YES_NO)],
        &[("virtualport", false), ("bandwidth", false), ("vlan", false)]),
    rule("*/virtualport", &[("type", false, Is::Of(&["802.1Qbg", "802.1Qbh", "openvswitch", "midonet"]))], &[("parameters", false)]),
    rule("*/virtualport/parameters", &[("managerid", false, Is::Any), ("typeid", false, Is::Any), ("typeidversion", false, Is::Any),
        ("instanceid", false, Is::Uuid), ("profileid", false, Is::Any), ("interfaceid", false, Is::Uuid)], &[]),
    rule("*/bandwidth", &[], &[("inbound", false), ("outbound", false)]),
    rule("*/bandwidth/inbound", &[("average", false, Is::Number), ("peak", false, Is::Number), ("burst", false, Is::Number),
        ("floor", false, Is::Number)], &[]),
    rule("*/bandwidth/outbound", &[("average", true, Is::Number), ("peak", false, Is::Number), ("burst", false, Is::Number)], &[]),
    rule("*/vlan", &[("trunk", false, Is::Of(&["yes"]))], &[("tag", true)]),
    rule("*/vlan/tag", &[("id", true, Is::Short), ("nativeMode", false, Is::Of(&["tagged", "untagged"]))], &[]),
    rule("network/dns", &[("enable", false, YES_NO), ("forwardPlainNames", false, YES_NO)],
        &[("forwarder", true), ("txt", true), ("srv", true), ("host", true)]),
    rule("network/dns/forwarder", &[("addr", false, Is::Address), ("domain", false, Is::Dns)], &[]),
    rule("network/dns/txt", &[("name", true, Is::Dns), ("value", true, Is::Any)], &[]),
    rule("network/dns/srv", &[("service", true, Is::Any), ("protocol", true, Is::Any), ("domain", false, Is::Dns),
        ("target", false, Is::Any), ("port", false, Is::Short), ("priority", false, Is::Short), ("weight", false, Is::Short)], &[]),
    rule("network/dns/host", &[("ip", true, Is::Address)], &[("hostname", true)]),
    rule("network/dns/host/hostname", &[], &[]),
    rule("network/ip", &[("address", false, Is::Address), ("netmask", false, Is::Ipv4), ("prefix", false, Is::Prefix),
        ("family", false, Is::Of(&["ipv4", "ipv6"])), ("localPtr", false, YES_NO)], &[("tftp", false), ("dhcp", false)]),
    rule("network/ip/tftp", &[("root", true, Is::Any)], &[]),
    rule("network/ip/dhcp", &[], &[("range", true), ("host", true), ("bootp", false)]),
    rule("network/ip/dhcp/range", &[("start", true, Is::Address), ("end", true, Is::Address)], &[("lease", false)]),
    rule("network/ip/dhcp/host", &[("mac", false, Is::Mac), ("id", false, Is::Any), ("name", false, Is::Any),
        ("ip", true, Is::Address)], &[("lease", false)]),
    rule("network/ip/dhcp/bootp", &[("file", true, Is::Any), ("server", false, Is::Any)], &[]),
    rule("*/lease", &[("expiry", true, Is::Number), ("unit", false, Is::Of(&["seconds", "minutes", "hours"]))], &[]),
    rule("network/route", &[("family", false, Is::Of(&["ipv4", "ipv6"])), ("address", true, Is::Address), ("netmask", false, Is::Ipv4),
        ("prefix", false, Is::Prefix), ("gateway", true, Is::Address), ("metric", false, Is::Number)], &[]),
];

impl Is {
    fn accepts(self, value: &str) -> bool {
        let letters = |extra: &str| {
            let fits = |letter: char| letter.is_ascii_alphanumeric() || extra.contains(letter);
            !value.is_empty() && value.chars().all(fits)
        };
        match self {
            Self::Any => true,
            Self::Of(words) => words.contains(&value),
            Self::Number => value.parse::<u64>().is_ok(),
            Self::Short => value.parse::<u16>().is_ok(),
            Self::Address => parse(value).is_some(),
            Self::Ipv4 => parse(value).is_some_and(|address| address.is_ipv4()),
            Self::Mac => Mac::read(value).is_some_and(|mac| !mac.is_group()),
            Self::Uuid => Uuid::parse(value).is_some(),
            Self::Device => letters("_.-\\:/%"),
            Self::Dns => letters("_.-"),
            Self::Prefix => value.parse::<u8>().is_ok_and(|prefix| prefix <= 128),
        }
    }
}

/// Checks a document against the schema.
pub(super) fn check(root: &Element) -> Result<(), Error> {
    let mut left = vec![(root, "network".to_owned())];
    while let Some((element, path)) = left.pop() {
        let refuse = |what: String| {
            let message = format!("Network XML: {}: {what}", element.position);
            Err(Error::new(Code::XML_INVALID_SCHEMA, Origin::XML, message))
        };
        // What others keep here, and options for dnsmasq, are their own business.
        if path == "network/metadata" || element.name.contains(':') {
            continue;
        }
        let found = RULES.iter().find(|rule| match rule.path.strip_prefix('*') {
            Some(end) => path.ends_with(end),
            None => rule.path == path,
        });
        let Some(rule) = found else {
            return refuse(format!("<{}> is not known there", element.name));
        };
        for (name, value) in &element.attributes {
            if name == "xmlns" || name.starts_with("xmlns:") {
                continue;
            }
            match rule.attributes.iter().find(|(known, ..)| known == name) {
                None => return refuse(format!("<{}> has no attribute '{name}'", element.name)),
                Some((_, _, kind)) if !kind.accepts(value) => {
                    return refuse(format!("<{} {name}='{}'> can't be", element.name, value.escape_debug()));
                }
                Some(_) => {}
            }
        }
        if let Some((name, ..)) =
            rule.attributes.iter().find(|(name, needed, _)| *needed && element.attr(name).is_none())
        {
            return refuse(format!("<{}> lacks its attribute '{name}'", element.name));
        }
        for child in element.elements() {
            let known = rule.children.iter().find(|(name, _)| *name == child.name);
            match known {
                None if !child.name.contains(':') => {
                    return refuse(format!("<{}> does not belong into <{}>", child.name, element.name));
                }
                Some((name, false)) if element.all(name).count() > 1 => {
                    return refuse(format!("<{name}> stands more than once in <{}>", element.name));
                }
                _ => left.push((child, format!("{path}/{}", child.name))),
            }
        }
    }
    Ok(())
}
