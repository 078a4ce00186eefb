//! Serial, parallel, channel and console devices, and the backends that other kinds share with them.

use crate::args::Purpose;
use crate::args::builder::{Builder, alias, attr, invalid, number_attr, switch, unsupported};
use crate::args::json::Object;
use crate::args::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The backend (`-chardev`) of a device that has `type` and `<source>`; gives its id.
pub(crate) fn backend(builder: &mut Builder<'_>, device: &Element) -> Result<String, Error> {
    let name = alias(device)?.to_owned();
    let id = format!("char{name}");
    let kind = device.attr("type").unwrap_or("pty");
    let source = device.child("source");
    let path = || {
        source
            .and_then(|source| source.attr("path"))
            .ok_or_else(|| invalid(format!("Character device {name} has no path")))
    };
    let mut list;
    match kind {
        "null" | "vc" | "pty" | "stdio" => {
            list = KeyValues::new(kind);
            list.set("id", &id);
        }
        "dev" => {
            list = KeyValues::new(if device.name == "parallel" { "parallel" } else { "serial" });
            list.set("id", &id).set("path", path()?);
        }
        "file" => {
            list = KeyValues::new("file");
            list.set("id", &id);
            let append = source.and_then(|source| switch(source, "append"));
            if builder.launches() {
                let purpose = Purpose::File { alias: name.clone() };
                list.set("path", builder.descriptor_path(purpose, &format!("{name}-source"))?)
                    // Whether the file is emptied is for who opens it.
                    .switch("append", true);
            } else {
                list.set("path", path()?);
                if let Some(append) = append {
                    list.switch("append", append);
                }
            }
        }
        "pipe" => {
            list = KeyValues::new("pipe");
            list.set("id", &id).set("path", path()?);
        }
        "unix" => list = unix(builder, device, &name, &id)?,
        "tcp" => list = tcp(builder, device, &name, &id)?,
        "udp" => list = udp(device, &id),
        "spicevmc" => {
            list = KeyValues::new("spicevmc");
            let name = match device.name.as_str() {
                "smartcard" => "smartcard",
                "redirdev" => "usbredir",
                _ => "vdagent",
            };
            list.set("id", &id).set("name", name);
        }
        "spiceport" | "dbus" => {
            list = KeyValues::new(kind);
            let channel = source
                .and_then(|source| source.attr("channel"))
                .ok_or_else(|| invalid(format!("Character device {name} names no channel")))?;
            list.set("id", &id).set("name", channel);
        }
        "qemu-vdagent" => {
            list = KeyValues::new("qemu-vdagent");
            list.set("id", &id).set("name", "vdagent");
            if let Some(on) = source
                .and_then(|source| source.child("clipboard"))
                .and_then(|clipboard| switch(clipboard, "copypaste"))
            {
                list.switch("clipboard", on);
            }
            match source.and_then(|source| source.path_attr("mouse", "mode")) {
                Some("client") => {
                    list.switch("mouse", true);
                }
                Some("server") => {
                    list.switch("mouse", false);
                }
                _ => {}
            }
        }
        other => {
            return Err(unsupported(format!("Character device type '{other}' is not one that QEMU has")));
        }
    }
    if let Some(log) = device.child("log") {
        let path = attr(log, "file")?;
        if builder.launches() {
            let purpose = Purpose::Log { alias: name.clone() };
            list.set("logfile", builder.descriptor_path(purpose, &format!("{name}-log"))?)
                .switch("logappend", true);
        } else {
            list.set("logfile", path);
            if let Some(append) = switch(log, "append") {
                list.switch("logappend", append);
            }
        }
    }
    builder.option("-chardev", list)?;
    Ok(id)
}

fn unix(builder: &mut Builder<'_>, device: &Element, name: &str, id: &str) -> Result<KeyValues, Error> {
    let source = device.child("source");
    let server = source.is_none_or(|source| source.attr("mode") != Some("connect"));
    let reconnects = source
        .and_then(|source| source.child("reconnect"))
        .filter(|reconnect| switch(reconnect, "enabled") == Some(true));
    let mut list = KeyValues::new("socket");
    list.set("id", id);
    if builder.launches() && reconnects.is_none() {
        let number = builder.descriptor(Purpose::Character { alias: name.to_owned() });
        list.set("fd", number);
    } else {
        let path = match source.and_then(|source| source.attr("path")) {
            Some(path) => path.to_owned(),
            None => channel_path(builder, device, name)?,
        };
        list.set("path", path);
    }
    if server {
        list.switch("server", true).switch("wait", false);
    }
    if let Some(reconnect) = reconnects {
        self::reconnect(builder, reconnect, &mut list)?;
    } else {
        no_reconnect(builder, source, &mut list);
    }
    Ok(list)
}

/// Where a channel's socket is if the definition leaves it to us.
fn channel_path(builder: &Builder<'_>, device: &Element, name: &str) -> Result<String, Error> {
    let target = device
        .path_attr("target", "name")
        .ok_or_else(|| invalid(format!("Character device {name} has neither path nor name")))?;
    if target.contains('/') {
        return Err(invalid(format!("Channel name '{target}' can't name a socket; give it a path")));
    }
    Ok(format!("{}/{target}", builder.paths.channels))
}

/// How long to wait before another try; QEMU before 9.2 counts in seconds.
pub(crate) fn reconnect(
    builder: &Builder<'_>,
    reconnect: &Element,
    list: &mut KeyValues,
) -> Result<(), Error> {
    let Some(seconds) = number_attr(reconnect, "timeout")? else {
        return Ok(());
    };
    if builder.capabilities.at_least(9, 2) {
        list.set("reconnect-ms", seconds.saturating_mul(1000));
    } else {
        list.set("reconnect", seconds);
    }
    Ok(())
}

fn no_reconnect(builder: &Builder<'_>, source: Option<&Element>, list: &mut KeyValues) {
    let off = source
        .and_then(|source| source.child("reconnect"))
        .and_then(|reconnect| switch(reconnect, "enabled"))
        == Some(false);
    if off {
        let property = if builder.capabilities.at_least(9, 2) { "reconnect-ms" } else { "reconnect" };
        list.set(property, 0);
    }
}

fn tcp(builder: &mut Builder<'_>, device: &Element, name: &str, id: &str) -> Result<KeyValues, Error> {
    let source =
        device.child("source").ok_or_else(|| invalid(format!("Character device {name} has no <source>")))?;
    let server = source.attr("mode") == Some("bind");
    let telnet = device.path_attr("protocol", "type") == Some("telnet");
    let tls = switch(source, "tls") == Some(true);
    let reconnects = source.child("reconnect").filter(|reconnect| switch(reconnect, "enabled") == Some(true));
    let mut list = KeyValues::new("socket");
    list.set("id", id);
    if builder.launches() && server && !tls {
        let number = builder.descriptor(Purpose::Character { alias: name.to_owned() });
        list.set("fd", number);
    } else {
        list.set("host", source.attr("host").unwrap_or_default())
            .set("port", source.attr("service").unwrap_or_default());
    }
    if telnet {
        list.switch("telnet", true);
    }
    if server {
        list.switch("server", true).switch("wait", false);
    }
    if let Some(reconnect) = reconnects {
        self::reconnect(builder, reconnect, &mut list)?;
    } else {
        no_reconnect(builder, Some(source), &mut list);
    }
    if tls {
        let credentials = format!("obj{id}_tls0");
        builder.certificates(&credentials, server, true, None);
        list.set("tls-creds", credentials);
    }
    Ok(list)
}

fn udp(device: &Element, id: &str) -> KeyValues {
    let end =
        |mode: &str| device.all("source").find(|source| source.attr("mode").unwrap_or("connect") == mode);
    let part =
        |end: Option<&Element>, name: &str| end.and_then(|end| end.attr(name)).unwrap_or_default().to_owned();
    let (connect, bind) = (end("connect"), end("bind"));
    let local = part(bind, "service");
    let mut list = KeyValues::new("udp");
    list.set("id", id)
        .set("host", part(connect, "host"))
        .set("port", part(connect, "service"))
        .set("localaddr", part(bind, "host"))
        .set("localport", if local.is_empty() { "0" } else { &local });
    list
}

/// `<serial>`.
pub(crate) fn serial(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let id = backend(builder, device)?;
    let target = device.child("target");
    let kind = target.and_then(|target| target.attr("type"));
    let model = target.and_then(|target| target.path_attr("model", "name")).unwrap_or("isa-serial");
    // Machines with a serial port of their own take the backend in order.
    if matches!(kind, None | Some("system-serial")) || matches!(model, "pl011" | "16550a") {
        return builder.option("-serial", KeyValues::new(&format!("chardev:{id}")));
    }
    let mut object = Object::new().with("driver", model).with("chardev", id).with("id", alias(device)?);
    if model == "isa-serial" || model == "isa-debugcon" {
        let port = target.map(|target| number_attr(target, "port")).transpose()?.flatten();
        if model == "isa-serial" {
            object.set("index", port.unwrap_or(0));
        }
    }
    builder.address(device, &mut object)?;
    builder.device(&object);
    Ok(())
}

/// `<parallel>`.
pub(crate) fn parallel(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let id = backend(builder, device)?;
    let mut object =
        Object::new().with("driver", "isa-parallel").with("chardev", id).with("id", alias(device)?);
    builder.address(device, &mut object)?;
    builder.device(&object);
    Ok(())
}

/// `<channel>`.
pub(crate) fn channel(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let id = backend(builder, device)?;
    let target = device.child("target").ok_or_else(|| invalid("<channel> has no <target>"))?;
    match target.attr("type") {
        Some("guestfwd") => {
            let forward = Object::new().with(
                "str",
                format!("tcp:{}:{}-chardev:{id}", attr(target, "address")?, attr(target, "port")?),
            );
            let object = Object::new()
                .with("type", "user")
                .with("guestfwd", vec![forward.into()])
                .with("id", alias(device)?);
            builder.json("-netdev", &object);
            Ok(())
        }
        Some("virtio") => {
            let mut object = Object::new().with("driver", "virtserialport");
            port(builder, device, &mut object)?;
            object.set("chardev", id).set("id", alias(device)?);
            let name = match (target.attr("name"), device.attr("type")) {
                (Some(name), _) => Some(name),
                (None, Some("spicevmc" | "qemu-vdagent")) => Some("com.redhat.spice.0"),
                _ => None,
            };
            object.set_some("name", name);
            builder.device(&object);
            Ok(())
        }
        other => Err(unsupported(format!(
            "Channel target '{}' is not one that QEMU has; use virtio",
            other.unwrap_or_default()
        ))),
    }
}

/// The port on a virtio-serial controller.
fn port(builder: &Builder<'_>, device: &Element, object: &mut Object) -> Result<(), Error> {
    let Some(address) =
        device.child("address").filter(|address| address.attr("type") == Some("virtio-serial"))
    else {
        return builder.address(device, object);
    };
    let controller = number_attr(address, "controller")?.unwrap_or(0);
    object.set("bus", format!("{}.0", builder.controller("virtio-serial", controller)?));
    object.set_some("nr", number_attr(address, "port")?);
    Ok(())
}

/// `<console>`, unless it only repeats the first serial device.
pub(crate) fn console(builder: &mut Builder<'_>, device: &Element) -> Result<(), Error> {
    let kind = device.path_attr("target", "type").unwrap_or("serial");
    if kind == "serial" {
        return Ok(());
    }
    let id = backend(builder, device)?;
    let name = alias(device)?;
    let mut object = match kind {
        "virtio" => {
            let mut object = Object::new().with("driver", "virtconsole");
            port(builder, device, &mut object)?;
            object
        }
        "sclp" => Object::new().with("driver", "sclpconsole"),
        "sclplm" => Object::new().with("driver", "sclplmconsole"),
        other => {
            return Err(unsupported(format!("Console target '{other}' is not one that QEMU has")));
        }
    };
    object.set("chardev", id).set("id", name);
    builder.device(&object);
    Ok(())
}
