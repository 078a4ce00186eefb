//! What an interface may hold, and the parts that only some types of interface keep.

use super::super::common::{ATS, IOMMU, PACKED, PAGE_PER_VQ};
use super::super::refusal;
use super::super::schema::{Shape, attribute, content, number, on_off, one_of, place, shape, text, yes_no};
use super::super::value::Kind;
use super::View;
use crate::domain::context::Context;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;

/// Cards that libvirt has names for.
pub(super) const MODELS: &[&str] = &[
    "netfront",
    "rtl8139",
    "virtio",
    "e1000",
    "e1000e",
    "igb",
    "virtio-transitional",
    "virtio-non-transitional",
    "usb-net",
    "spapr-vlan",
    "lan9118",
    "scm91c111",
    "vlance",
    "vmxnet",
    "vmxnet2",
    "vmxnet3",
    "Am79C970A",
    "82540EM",
    "82545EM",
    "82543GC",
];

/// A number whose faults are the domain's.
const AS_DOMAIN: Kind = Kind::As(Code::XML_ERROR, Origin::DOMAIN, &Kind::Number(0, u32::MAX as u64));

const HOST_OFFLOADS: Shape = shape(
    "host",
    &[
        on_off("csum"),
        on_off("gso"),
        on_off("tso4"),
        on_off("tso6"),
        on_off("ecn"),
        on_off("ufo"),
        on_off("mrg_rxbuf"),
    ],
    &[],
);

const GUEST_OFFLOADS: Shape =
    shape("guest", &[on_off("csum"), on_off("tso4"), on_off("tso6"), on_off("ecn"), on_off("ufo")], &[]);

/// `<driver>` of a virtio interface.
pub(super) const DRIVER: Shape = shape(
    "driver",
    &[
        text("name"),
        one_of("txmode", &["iothread", "timer"]),
        on_off("ioeventfd"),
        on_off("event_idx"),
        number("queues"),
        number("rx_queue_size"),
        number("tx_queue_size"),
        on_off("rss"),
        on_off("rss_hash_report"),
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
    &[HOST_OFFLOADS, GUEST_OFFLOADS],
);

/// `<target>`: the tap device.
pub(super) const TARGET: Shape = shape("target", &[text("dev"), yes_no("managed")], &[]);

/// `<ip>` of guest or host.
pub(super) const IP: Shape = shape(
    "ip",
    &[
        attribute("address", Kind::Ip),
        one_of("family", &["ipv4", "ipv6"]),
        attribute("prefix", Kind::Number(0, 128)),
        text("peer"),
    ],
    &[],
)
.many()
.kept();

/// `<route>` of guest or host.
pub(super) const ROUTE: Shape = shape(
    "route",
    &[
        one_of("family", &["ipv4", "ipv6"]),
        text("address"),
        text("netmask"),
        attribute("prefix", Kind::Number(0, 128)),
        text("gateway"),
        number("metric"),
    ],
    &[],
)
.many();

/// `<virtualport>`: how the interface attaches to a switch.
pub(super) const VIRTUALPORT: Shape = shape(
    "virtualport",
    &[attribute(
        "type",
        Kind::As(
            Code::CONFIG_UNSUPPORTED,
            Origin::NONE,
            &Kind::OneOf(&["802.1Qbg", "802.1Qbh", "openvswitch", "midonet"]),
        ),
    )],
    &[shape(
        "parameters",
        &[
            attribute("managerid", Kind::Number(0, 255)),
            attribute("typeid", Kind::AnyBase(0xff_ffff)),
            attribute("typeidversion", Kind::Number(0, 255)),
            attribute("instanceid", Kind::Uuid),
            attribute("interfaceid", Kind::Uuid),
            text("profileid"),
        ],
        &[],
    )],
);

const VLAN: Shape = shape(
    "vlan",
    &[yes_no("trunk")],
    &[shape(
        "tag",
        &[
            attribute("id", Kind::As(Code::XML_ERROR, Origin::NONE, &Kind::Number(0, 4095))).required(),
            one_of("nativeMode", &["tagged", "untagged"]),
        ],
        &[],
    )
    .many()],
);

const INBOUND: Shape =
    shape("inbound", &[number("average"), number("peak"), number("floor"), number("burst")], &[]);
const OUTBOUND: Shape =
    shape("outbound", &[number("average"), number("peak"), number("floor"), number("burst")], &[]);

const PORT_FORWARD: Shape = shape(
    "portForward",
    &[one_of("proto", &["tcp", "udp"]).required(), text("address"), text("dev")],
    &[shape(
        "range",
        &[
            attribute("start", Kind::Number(1, 65535)).required(),
            attribute("end", Kind::Number(1, 65535)),
            attribute("to", Kind::Number(1, 65535)),
            yes_no("exclude"),
        ],
        &[],
    )
    .many()],
)
.many();

const BACKEND: Shape = shape(
    "backend",
    &[one_of("type", &["default", "passt"]).unless("default"), text("tap"), text("vhost"), text("logFile")],
    &[],
);

const FILTER: Shape =
    shape("filterref", &[text("filter")], &[shape("parameter", &[text("name"), text("value")], &[]).many()]);

/// `<interface>`.
pub(super) const INTERFACE: Shape = shape(
    "interface",
    &[
        attribute(
            "type",
            Kind::OneOf(&[
                "user",
                "ethernet",
                "vhostuser",
                "server",
                "client",
                "mcast",
                "udp",
                "network",
                "bridge",
                "internal",
                "direct",
                "hostdev",
                "vdpa",
                "null",
                "vds",
            ]),
        ),
        yes_no("managed"),
        yes_no("trustGuestRxFilters"),
    ],
    &[
        shape(
            "mac",
            &[attribute("address", Kind::Mac), one_of("type", &["generated", "static"]), yes_no("check")],
            &[],
        ),
        place("source"),
        VLAN,
        VIRTUALPORT,
        shape("bandwidth", &[], &[INBOUND, OUTBOUND]),
        shape("port", &[yes_no("isolated")], &[]),
        IP,
        ROUTE,
        PORT_FORWARD,
        shape("script", &[text("path")], &[]),
        shape("downscript", &[text("path")], &[]),
        shape("backenddomain", &[text("name")], &[]),
        place("target"),
        shape("guest", &[text("dev")], &[]),
        shape("model", &[text("type")], &[]),
        DRIVER,
        BACKEND,
        FILTER,
        shape("tune", &[], &[content("sndbuf", AS_DOMAIN)]),
        shape("link", &[attribute("state", Kind::Supported(&["up", "down"]))], &[]),
        shape("mtu", &[attribute("size", AS_DOMAIN).unless("0")], &[]),
        shape(
            "teaming",
            &[
                attribute("type", Kind::Supported(&["persistent", "transient"])).required(),
                text("persistent"),
            ],
            &[],
        ),
        shape(
            "coalesce",
            &[],
            &[shape(
                "rx",
                &[],
                &[shape(
                    "frames",
                    &[attribute(
                        "max",
                        Kind::As(Code::XML_DETAIL, Origin::DOMAIN, &Kind::Number(0, u32::MAX as u64)),
                    )],
                    &[],
                )],
            )],
        ),
    ],
);

/// Drops what a type of interface does not keep and checks what it does.
pub(super) fn complete_parts(
    input: &Element,
    interface: &mut Element,
    kind: &str,
    context: &Context<'_>,
) -> Result<(), Error> {
    if kind != "hostdev" {
        interface.unset("managed");
    }
    let virtio = View(interface).is_virtio();
    if let Some(backend) = interface.child_mut("backend")
        && !virtio
    {
        backend.unset("vhost");
        if backend.attributes.is_empty() {
            interface.take("backend");
        }
    }
    if interface.at("coalesce/rx/frames").is_none_or(|frames| frames.attr("max") == Some("0")) {
        interface.take("coalesce");
    }
    if !matches!(kind, "network" | "bridge" | "ethernet" | "direct") {
        interface.take("filterref");
    }
    complete_bandwidth(input, interface, kind)?;
    complete_vlan(interface)?;
    complete_port(input, interface, context)?;
    complete_addresses(interface);
    if interface.path_attr("filterref", "filter").is_none() {
        interface.take("filterref");
    }
    if let Some(filter) = interface.child_mut("filterref") {
        filter.children.sort_by(|a, b| {
            let name = |node: &bulkhead_xml::Node| match node {
                bulkhead_xml::Node::Element(element) => element.attr("name").map(str::to_owned),
                _ => None,
            };
            name(a).cmp(&name(b))
        });
    }
    for address in interface.all("ip") {
        if address.attr("address").is_none() {
            return Err(refusal::xml(input, "an <ip> needs its address"));
        }
    }
    Ok(())
}

/// Whether the interface is connected by passt.
pub(super) fn is_passt(interface: &Element) -> bool {
    interface.path_attr("backend", "type") == Some("passt")
}

/// Addresses say their family.
pub(super) fn complete_addresses(element: &mut Element) {
    for address in element.elements_mut().filter(|child| child.name == "ip") {
        if address.attr("family").is_none() {
            let family =
                if address.attr("address").is_some_and(|text| text.contains(':')) { "ipv6" } else { "ipv4" };
            address.set("family", family);
        }
        if address.attr("prefix") == Some("0") {
            address.unset("prefix");
        }
        IP.arrange(address);
    }
}

fn complete_bandwidth(input: &Element, interface: &mut Element, kind: &str) -> Result<(), Error> {
    let Some(bandwidth) = interface.child_mut("bandwidth") else {
        return Ok(());
    };
    for direction in bandwidth.elements_mut() {
        for name in ["average", "peak", "floor", "burst"] {
            if direction.attr(name) == Some("0") {
                direction.unset(name);
            }
        }
        let refuse = |code: Code, message: String| {
            Error::new(code, Origin::NONE, format!("<interface> ({}): {message}", input.position))
        };
        if direction.attr("average").is_none() && direction.attr("floor").is_none() {
            return Err(refuse(
                Code::XML_DETAIL,
                format!("<{}> of its bandwidth needs 'average' or 'floor'", direction.name),
            ));
        }
        if direction.attr("floor").is_some() && (direction.name == "outbound" || kind != "network") {
            return Err(refuse(
                Code::CONFIG_UNSUPPORTED,
                "a floor of bandwidth is to be had for inbound traffic of networks only".to_owned(),
            ));
        }
    }
    Ok(())
}

fn complete_vlan(interface: &mut Element) -> Result<(), Error> {
    let place = interface.clone();
    let Some(vlan) = interface.child_mut("vlan") else {
        return Ok(());
    };
    let tags = vlan.all("tag").count();
    let native = vlan.all("tag").filter(|tag| tag.attr("nativeMode").is_some()).count();
    if vlan.attr("trunk") == Some("no") {
        if tags > 1 || native > 0 {
            return Err(refusal::xml_of(
                Origin::NONE,
                &place,
                "a vlan with several tags, or a native one, is a trunk; remove trunk='no'",
            ));
        }
        vlan.unset("trunk");
    }
    if native > 1 {
        return Err(refusal::xml_of(Origin::NONE, &place, "a vlan has one native tag at most"));
    }
    if tags > 1 || native > 0 {
        vlan.set("trunk", "yes");
    }
    Ok(())
}

/// libvirt's number of its network helpers.
const NET: Origin = Origin(11);

/// The parameters that a type of switch port needs; identifiers that are missing are made.
fn complete_port(input: &Element, interface: &mut Element, context: &Context<'_>) -> Result<(), Error> {
    let Some(port) = interface.child_mut("virtualport") else {
        return Ok(());
    };
    let kind = port.attr("type").unwrap_or_default().to_owned();
    let (needed, made): (&[&str], &[&str]) = match kind.as_str() {
        "802.1Qbg" => (&["managerid", "typeid", "typeidversion"], &["instanceid"]),
        "802.1Qbh" => (&["profileid"], &[]),
        "openvswitch" => (&[], &["interfaceid"]),
        "midonet" => (&["interfaceid"], &[]),
        // The type is that of the network, which is not known yet.
        _ if port.child("parameters").is_some() => (&[], &["instanceid", "interfaceid"]),
        _ => return Ok(()),
    };
    for name in needed {
        if port.path_attr("parameters", name).is_none() {
            return Err(refusal::xml_of(
                NET,
                input,
                format!("a <virtualport> of type '{kind}' needs the parameter '{name}'"),
            ));
        }
    }
    for name in made {
        if port.path_attr("parameters", name).is_none() {
            let uuid = context.host.new_uuid();
            port.child_or_insert("parameters").set(name, uuid);
        }
    }
    VIRTUALPORT.arrange(port);
    Ok(())
}
