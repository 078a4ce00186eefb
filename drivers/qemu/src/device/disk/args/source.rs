//! The lowest block node: how QEMU reaches the bytes.

use crate::args::SecretSource;
use crate::args::builder::{
    Builder, attr, bytes, invalid, number_attr, number_text, stored, switch, unsupported,
};
use crate::args::json::{Json, Object};
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The properties of the node so far, without its name.
pub(crate) fn protocol(
    builder: &mut Builder<'_>,
    kind: &str,
    source: &Element,
    node: &str,
) -> Result<Object, Error> {
    Ok(match kind {
        "file" => Object::new().with("driver", "file").with("filename", attr(source, "file")?),
        "block" => Object::new().with("driver", "host_device").with("filename", attr(source, "dev")?),
        "dir" => Object::new()
            .with("driver", "vvfat")
            .with("dir", attr(source, "dir")?)
            .with("floppy", true)
            .with("rw", false),
        "nvme" => nvme(source)?,
        "network" => network(builder, source, node)?,
        "volume" => {
            return Err(unsupported(format!(
                "Volume '{}' of pool '{}' is not resolved to a file; look it up before the guest is started",
                source.attr("volume").unwrap_or_default(),
                source.attr("pool").unwrap_or_default()
            )));
        }
        other => {
            return Err(unsupported(format!("Disk type '{other}' is not one that QEMU can open")));
        }
    })
}

fn nvme(source: &Element) -> Result<Object, Error> {
    let address = source.child("address").ok_or_else(|| invalid("An NVMe <source> has no <address>"))?;
    let part = |name: &str| number_attr(address, name).map(|value| value.unwrap_or(0));
    let device =
        format!("{:04x}:{:02x}:{:02x}.{:x}", part("domain")?, part("bus")?, part("slot")?, part("function")?);
    Ok(Object::new()
        .with("driver", "nvme")
        .with("device", device)
        .with_some("namespace", number_attr(source, "namespace")?))
}

fn network(builder: &mut Builder<'_>, source: &Element, node: &str) -> Result<Object, Error> {
    match attr(source, "protocol")? {
        "nbd" => nbd(builder, source, node),
        "rbd" => Ok(rbd(source)),
        "iscsi" => iscsi(source),
        "gluster" => gluster(source),
        "http" | "https" | "ftp" | "ftps" => curl(source),
        "ssh" => ssh(source),
        "nfs" => nfs(source),
        other => Err(unsupported(format!("Network disk protocol '{other}' is not one that QEMU has"))),
    }
}

fn default_port(protocol: &str) -> &'static str {
    match protocol {
        "nbd" => "10809",
        "iscsi" => "3260",
        "gluster" => "24007",
        "http" => "80",
        "https" => "443",
        "ftp" => "21",
        "ftps" => "990",
        "ssh" => "22",
        _ => "0",
    }
}

fn port(host: &Element, protocol: &str) -> String {
    host.attr("port").filter(|port| *port != "0").unwrap_or_else(|| default_port(protocol)).to_owned()
}

/// A server as QAPI's `SocketAddress`.
fn server(host: &Element, protocol: &str) -> Result<Object, Error> {
    if host.attr("transport") == Some("unix") {
        return Ok(Object::new().with("type", "unix").with("path", attr(host, "socket")?));
    }
    Ok(Object::new()
        .with("type", "inet")
        .with("host", attr(host, "name")?)
        .with("port", port(host, protocol)))
}

fn first_host(source: &Element) -> Result<&Element, Error> {
    source.child("host").ok_or_else(|| invalid("A network <source> has no <host>"))
}

fn nbd(builder: &mut Builder<'_>, source: &Element, node: &str) -> Result<Object, Error> {
    let mut object = Object::new()
        .with("driver", "nbd")
        .with("server", server(first_host(source)?, "nbd")?)
        .with_some("export", source.attr("name"));
    if switch(source, "tls") == Some(true) {
        let id = format!("obj{node}_tls0");
        builder.certificates(&id, false, true, None);
        object.set("tls-creds", id);
        object.set_some("tls-hostname", source.attr("tlsHostname"));
    }
    if let Some(reconnect) = source.child("reconnect") {
        object.set_some("reconnect-delay", number_attr(reconnect, "delay")?);
    }
    Ok(object)
}

fn rbd(source: &Element) -> Object {
    let name = source.attr("name").unwrap_or_default();
    let (pool, image) = name.split_once('/').unwrap_or(("", name));
    let mut object = Object::new()
        .with("driver", "rbd")
        .with("pool", pool)
        .with("image", image)
        .with_some("snapshot", source.path_attr("snapshot", "name"))
        .with_some("conf", source.path_attr("config", "file"));
    let servers: Vec<Json> = source
        .all("host")
        .map(|host| {
            Object::new()
                .with("host", host.attr("name").unwrap_or_default())
                .with("port", port(host, "rbd"))
                .into()
        })
        .collect();
    if !servers.is_empty() {
        object.set("server", servers);
    }
    object
}

fn iscsi(source: &Element) -> Result<Object, Error> {
    let host = first_host(source)?;
    let name = attr(source, "name")?;
    let (target, unit) = name.split_once('/').unwrap_or((name, "0"));
    let unit: u64 =
        unit.parse().map_err(|_| invalid(format!("'{name}' does not end in the number of an iSCSI unit")))?;
    let address = attr(host, "name")?;
    let portal = if address.contains(':') {
        format!("[{address}]:{}", port(host, "iscsi"))
    } else {
        format!("{address}:{}", port(host, "iscsi"))
    };
    Ok(Object::new()
        .with("driver", "iscsi")
        .with("portal", portal)
        .with("target", target)
        .with("lun", unit)
        .with("transport", "tcp")
        .with_some("initiator-name", source.at("initiator/iqn").and_then(|name| name.attr("name"))))
}

fn gluster(source: &Element) -> Result<Object, Error> {
    let name = attr(source, "name")?;
    let (volume, path) = name
        .split_once('/')
        .ok_or_else(|| invalid(format!("'{name}' is not a Gluster volume and a path")))?;
    let servers = source
        .all("host")
        .map(|host| server(host, "gluster").map(Json::from))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Object::new()
        .with("driver", "gluster")
        .with("volume", volume)
        .with("path", path)
        .with("server", servers)
        .with("debug", 4))
}

fn curl(source: &Element) -> Result<Object, Error> {
    let protocol = attr(source, "protocol")?;
    let host = first_host(source)?;
    let name = attr(host, "name")?;
    let name =
        if name.contains(':') && !name.starts_with('[') { format!("[{name}]") } else { name.to_owned() };
    let path = escape_path(source.attr("name").unwrap_or_default());
    let query = source.attr("query").map(|query| format!("?{query}")).unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("{protocol}://{name}:{}{slash}{path}{query}", port(host, protocol));
    Ok(Object::new().with("driver", protocol).with("url", url))
}

/// A path as it may stand in a URL.
fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()/;@&=+$,:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn ssh(source: &Element) -> Result<Object, Error> {
    let host = first_host(source)?;
    let server = Object::new().with("host", attr(host, "name")?).with("port", port(host, "ssh"));
    Ok(Object::new()
        .with("driver", "ssh")
        .with("path", attr(source, "name")?)
        .with("server", server)
        .with_some("user", source.path_attr("identity", "username")))
}

fn nfs(source: &Element) -> Result<Object, Error> {
    let server = Object::new().with("host", attr(first_host(source)?, "name")?).with("type", "inet");
    let path = attr(source, "name")?;
    let mut object = Object::new().with("driver", "nfs").with("server", server).with("path", path);
    if let Some(identity) = source.child("identity") {
        for name in ["user", "group"] {
            object.set_some(name, identity.attr(name).and_then(user_number));
        }
    }
    Ok(object)
}

/// A numeric user or group, with or without the plus sign that marks it.
fn user_number(text: &str) -> Option<u64> {
    match text {
        "root" => Some(0),
        other => other.trim_start_matches('+').parse().ok(),
    }
}

/// What secrets are for, as `virSecretUsageType`.
pub(crate) const USAGE_VOLUME: i32 = 1;
const USAGE_CEPH: i32 = 2;
const USAGE_ISCSI: i32 = 3;

/// Passwords, cookies and the rest that only some protocols have, after the secrets they name.
pub(crate) fn secrets(
    builder: &mut Builder<'_>,
    source: &Element,
    auth: Option<&Element>,
    secret: &str,
    node: &str,
    object: &mut Object,
) -> Result<(), Error> {
    let protocol = source.attr("protocol").unwrap_or_default();
    let curl = matches!(protocol, "http" | "https" | "ftp" | "ftps");
    if let Some(auth) = auth {
        let user = attr(auth, "username")?;
        let secret = format!("{secret}-secret0");
        let usage_type = if protocol == "rbd" { USAGE_CEPH } else { USAGE_ISCSI };
        builder.secret(&secret, stored(auth.child("secret"), usage_type))?;
        match protocol {
            "rbd" => {
                object
                    .set("user", user)
                    .set("auth-client-required", vec!["cephx".into(), "none".into()])
                    .set("key-secret", secret);
            }
            "iscsi" => {
                object.set("user", user).set("password-secret", secret);
            }
            _ => {
                object.set("username", user).set("password-secret", secret);
            }
        }
    }
    if curl {
        if let Some(verify) = source.child("ssl").and_then(|ssl| switch(ssl, "verify")) {
            object.set("sslverify", verify);
        }
        if let Some(cookies) = source.child("cookies") {
            let secret = format!("{node}-httpcookie-secret0");
            let pair =
                |cookie: &Element| format!("{}={}", cookie.attr("name").unwrap_or_default(), cookie.text());
            let text = cookies.all("cookie").map(pair).collect::<Vec<_>>().join("; ");
            builder.secret(&secret, Some(SecretSource::Text(text)))?;
            object.set("cookie-secret", secret);
        }
        object.set_some("timeout", child_number_attr(source, "timeout", "seconds")?);
        if let Some(ahead) = source.child("readahead") {
            let size = number_attr(ahead, "size")?.map_or_else(|| number_text(ahead), Ok)?;
            let size = if ahead.attr("unit").is_some() { bytes(ahead, size)? } else { size };
            object.set("readahead", size);
        }
    }
    Ok(())
}

fn child_number_attr(element: &Element, child: &str, name: &str) -> Result<Option<u64>, Error> {
    match element.child(child) {
        Some(child) => number_attr(child, name),
        None => Ok(None),
    }
}

/// Encryption inside Ceph; an image that was cloned from encrypted ones has a key for each of them.
pub(crate) fn image_encryption(
    builder: &mut Builder<'_>,
    encryption: &Element,
    node: &str,
) -> Result<Object, Error> {
    let format = encryption.attr("format").unwrap_or("luks");
    let count = encryption.all("secret").count().max(1);
    let mut object: Option<Object> = None;
    for index in (0..count).rev() {
        let secret = format!("{node}-encryption-secret{index}");
        builder.secret(&secret, stored(encryption.all("secret").nth(index), USAGE_VOLUME))?;
        let kind = if index > 0 && format == "luks-any" { "luks-any" } else { format };
        let mut layer = Object::new().with("format", kind).with("key-secret", secret);
        layer.set_some("parent", object.take());
        object = Some(layer);
    }
    Ok(object.unwrap_or_default())
}
