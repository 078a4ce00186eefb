//! `<interface>`.

use crate::args::Purpose;
use crate::args::builder::{Builder, alias, attr, invalid, number_attr, switch, unsupported};
use crate::args::json::Object;
use crate::args::option::KeyValues;
use crate::args::virtio;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Most queues of one interface that QEMU takes.
const MOST_QUEUES: u64 = 1024;

/// The backend and the device of one interface.
pub(crate) fn build(builder: &mut Builder<'_>, interface: &Element) -> Result<(), Error> {
    if !builder.launches() {
        return native(builder, interface);
    }
    let name = alias(interface)?;
    let kind = attr(interface, "type")?;
    if kind == "hostdev" {
        return crate::device::hostdev::args::pci(builder, interface);
    }
    let queues = match interface.child("driver") {
        Some(driver) => number_attr(driver, "queues")?.unwrap_or(1).clamp(1, MOST_QUEUES),
        None => 1,
    };
    let virtio = is_virtio(model(interface));
    let queues = if virtio { queues } else { 1 };
    let id = format!("host{name}");
    let backend = match kind {
        "user" => user(interface, &id)?,
        "ethernet" | "network" | "bridge" | "direct" => tap(builder, interface, name, &id, queues, virtio)?,
        "vhostuser" => vhost_user(builder, interface, name, &id, queues)?,
        "vdpa" => {
            let number = builder.descriptor(Purpose::Vdpa { alias: name.to_owned() });
            Object::new()
                .with("type", "vhost-vdpa")
                .with("vhostdev", format!("/proc/self/fd/{number}"))
                .with("id", id.as_str())
        }
        "mcast" | "server" | "client" | "udp" => socket(interface, kind, &id)?,
        other => {
            return Err(unsupported(format!("Interface type '{other}' is not one that QEMU has")));
        }
    };
    builder.json("-netdev", &backend);
    device(builder, interface, &id, queues, true)
}

/// The form of `domainXMLToNative`: all interfaces are taps without settings of the host's side.
fn native(builder: &mut Builder<'_>, interface: &Element) -> Result<(), Error> {
    let name = alias(interface)?;
    let id = format!("host{name}");
    let number = builder.descriptor(Purpose::Tap { alias: name.to_owned(), queue: 0 });
    let backend = Object::new().with("type", "tap").with("fd", number.to_string()).with("id", id.as_str());
    builder.json("-netdev", &backend);
    device(builder, interface, &id, 1, false)
}

fn model(interface: &Element) -> &str {
    interface.path_attr("model", "type").unwrap_or("rtl8139")
}

fn is_virtio(model: &str) -> bool {
    matches!(model, "virtio" | "virtio-transitional" | "virtio-non-transitional")
}

fn device(
    builder: &mut Builder<'_>,
    interface: &Element,
    backend: &str,
    queues: u64,
    whole: bool,
) -> Result<(), Error> {
    let name = alias(interface)?;
    let model = model(interface);
    let mac = interface.path_attr("mac", "address");
    if matches!(model, "lan9118" | "smc91c111") && interface.child("address").is_none() {
        // Parts of their boards, which only the oldest option can fill.
        let mut list = KeyValues::new("nic");
        list.set_some("macaddr", mac).set("netdev", backend).set("model", model).set("id", name);
        return builder.option("-net", list);
    }
    let mut object = if is_virtio(model) {
        if whole {
            virtio::device("virtio-net", interface, Some(model))
        } else {
            Object::new().with("driver", virtio::name("virtio-net", interface, Some(model)))
        }
    } else {
        Object::new().with("driver", model)
    };
    if whole && is_virtio(model) {
        virtio_options(builder, interface, queues, &mut object)?;
    }
    object.set("netdev", backend).set("id", name).set_some("mac", mac);
    object.set_some("bootindex", builder.boot.of(interface));
    if whole {
        if is_virtio(model)
            && let Some(mtu) = interface.child("mtu")
        {
            object.set_some("host_mtu", number_attr(mtu, "size")?);
        }
        Builder::rom(interface, &mut object);
        if interface.path_attr("teaming", "type") == Some("persistent") {
            object.set("failover", true);
        }
    }
    builder.address(interface, &mut object)?;
    builder.device(&object);
    Ok(())
}

fn virtio_options(
    builder: &Builder<'_>,
    interface: &Element,
    queues: u64,
    object: &mut Object,
) -> Result<(), Error> {
    let Some(driver) = interface.child("driver") else {
        return Ok(());
    };
    match driver.attr("txmode") {
        Some("iothread") => {
            object.set("tx", "bh");
        }
        Some("timer") => {
            object.set("tx", "timer");
        }
        _ => {}
    }
    object
        .set_some("ioeventfd", switch(driver, "ioeventfd"))
        .set_some("event_idx", switch(driver, "event_idx"));
    for (side, words) in [
        (
            "host",
            [
                ("csum", "csum"),
                ("gso", "gso"),
                ("tso4", "host_tso4"),
                ("tso6", "host_tso6"),
                ("ecn", "host_ecn"),
                ("ufo", "host_ufo"),
                ("mrg_rxbuf", "mrg_rxbuf"),
            ],
        ),
        (
            "guest",
            [
                ("csum", "guest_csum"),
                ("tso4", "guest_tso4"),
                ("tso6", "guest_tso6"),
                ("ecn", "guest_ecn"),
                ("ufo", "guest_ufo"),
                ("", ""),
                ("", ""),
            ],
        ),
    ] {
        let Some(offloads) = driver.child(side) else {
            continue;
        };
        for (attribute, property) in words.into_iter().filter(|(attribute, _)| !attribute.is_empty()) {
            object.set_some(property, switch(offloads, attribute));
        }
    }
    if queues > 1 {
        // Two for each queue, one for configuration, one for control.
        object.set("mq", true).set("vectors", 2 * queues + 2);
    }
    object
        .set_some("rx_queue_size", number_attr(driver, "rx_queue_size")?)
        .set_some("tx_queue_size", number_attr(driver, "tx_queue_size")?);
    if let Some(rss) = switch(driver, "rss") {
        builder.require("virtio-net-pci", "rss", "Receive-side scaling")?;
        object.set("rss", rss);
    }
    if let Some(report) = switch(driver, "rss_hash_report") {
        object.set("hash", report);
    }
    Ok(())
}

fn numbers(builder: &mut Builder<'_>, queues: u64, purpose: impl Fn(u32) -> Purpose) -> String {
    (0..u32::try_from(queues).unwrap_or(1))
        .map(|queue| builder.descriptor(purpose(queue)).to_string())
        .collect::<Vec<_>>()
        .join(":")
}

fn tap(
    builder: &mut Builder<'_>,
    interface: &Element,
    name: &str,
    id: &str,
    queues: u64,
    virtio: bool,
) -> Result<Object, Error> {
    let fds = numbers(builder, queues, |queue| Purpose::Tap { alias: name.to_owned(), queue });
    let driver = interface.child("driver");
    let wanted = driver.and_then(|driver| driver.attr("name"));
    if wanted == Some("vhost") && !builder.paths.vhost_net {
        return Err(unsupported(format!(
            "Interface {name} wants vhost, but /dev/vhost-net can't be had; load the kernel's module vhost_net or take the driver away"
        )));
    }
    let vhost = match wanted {
        Some("vhost") => true,
        Some("qemu") => false,
        _ => virtio && builder.paths.vhost_net && builder.root.attr("type") == Some("kvm"),
    };
    let mut object = Object::new().with("type", "tap").with(if queues > 1 { "fds" } else { "fd" }, fds);
    if vhost {
        let fds = numbers(builder, queues, |queue| Purpose::VhostNet { alias: name.to_owned(), queue });
        object.set("vhost", true).set(if queues > 1 { "vhostfds" } else { "vhostfd" }, fds);
    }
    if let Some(tune) = interface.at("tune/sndbuf") {
        object.set("sndbuf", crate::args::builder::number_text(tune)?);
    }
    object.set("id", id);
    Ok(object)
}

fn user(interface: &Element, id: &str) -> Result<Object, Error> {
    let mut object = Object::new().with("type", "user");
    for ip in interface.all("ip") {
        let address = attr(ip, "address")?;
        match ip.attr("family") {
            Some("ipv6") => {
                object.set("ipv6-prefix", address);
                object.set_some("ipv6-prefixlen", number_attr(ip, "prefix")?);
            }
            _ => {
                let prefix = number_attr(ip, "prefix")?.unwrap_or(24);
                object.set("net", format!("{address}/{prefix}"));
            }
        }
    }
    object.set("id", id);
    Ok(object)
}

fn vhost_user(
    builder: &mut Builder<'_>,
    interface: &Element,
    name: &str,
    id: &str,
    queues: u64,
) -> Result<Object, Error> {
    let source =
        interface.child("source").ok_or_else(|| invalid(format!("Interface {name} has no <source>")))?;
    let chardev = format!("char{name}");
    let mut list = KeyValues::new("socket");
    list.set("id", &chardev);
    let reconnect = source.child("reconnect").filter(|reconnect| switch(reconnect, "enabled") == Some(true));
    let server = source.attr("mode") == Some("server");
    if reconnect.is_none() {
        let number = builder.descriptor(Purpose::Character { alias: name.to_owned() });
        list.set("fd", number);
    } else {
        list.set("path", attr(source, "path")?);
    }
    if server {
        list.switch("server", true);
    }
    if let Some(reconnect) = reconnect {
        crate::device::character::args::reconnect(builder, reconnect, &mut list)?;
    }
    builder.option("-chardev", list)?;
    let mut object = Object::new().with("type", "vhost-user").with("chardev", chardev);
    if queues > 1 {
        object.set("queues", queues);
    }
    object.set("id", id);
    Ok(object)
}

fn socket(interface: &Element, kind: &str, id: &str) -> Result<Object, Error> {
    let source = interface.child("source").ok_or_else(|| invalid("A socket interface has no <source>"))?;
    let place = |element: &Element| -> Result<String, Error> {
        Ok(format!("{}:{}", element.attr("address").unwrap_or_default(), attr(element, "port")?))
    };
    let mut object = Object::new().with("type", "socket");
    match kind {
        "mcast" => object.set("mcast", place(source)?),
        "server" => object.set("listen", place(source)?),
        "client" => object.set("connect", place(source)?),
        _ => {
            let local = source.child("local").ok_or_else(|| invalid("A UDP interface has no <local>"))?;
            object.set("udp", place(source)?).set("localaddr", place(local)?)
        }
    };
    object.set("id", id);
    Ok(object)
}
