//! Where a disk's data is: files, block devices, network storage, volumes, with keys, slices and backing chains.

use super::address;
use super::refusal;
use super::schema::{Attribute, Shape, attribute, content, number, one_of, place, shape, text, yes_no};
use super::value::{self, Kind};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, Node};

/// The types of storage.
pub(crate) const TYPES: &[&str] =
    &["file", "block", "dir", "network", "volume", "nvme", "vhostuser", "vhostvdpa"];

/// Formats of images that libvirt has names for.
pub(crate) const FORMATS: &[&str] = &[
    "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow",
    "qcow2", "qed", "vmdk",
];

/// A chain of backing images longer than this is refused; QEMU itself gives up much earlier.
const LONGEST_CHAIN: usize = 200;

const STARTUP: Attribute = one_of("startupPolicy", &["mandatory", "requisite", "optional"]);

/// A label for the file of one device.
pub(crate) const SECLABEL: Shape = shape(
    "seclabel",
    &[text("model"), yes_no("relabel"), yes_no("labelskip")],
    &[content("label", Kind::Text)],
)
.many();

const SLICE: Shape = shape(
    "slice",
    &[
        text("type"),
        attribute("offset", Kind::Number(0, u64::MAX)),
        attribute("size", Kind::Number(1, u64::MAX)),
    ],
    &[],
);

const RESERVATIONS: Shape = shape(
    "reservations",
    &[yes_no("managed"), yes_no("migration")],
    &[shape("source", &[text("type"), text("path"), one_of("mode", &["client"])], &[])],
);

/// A secret named by UUID or by what it is for.
const SECRET: Shape = shape("secret", &[text("type"), attribute("uuid", Kind::Uuid), text("usage")], &[]);

const AUTH: Shape = shape("auth", &[text("username")], &[SECRET]);

const ENCRYPTIONS: &[&str] = &["default", "qcow", "luks", "luks2", "luks-any"];

const ENCRYPTION: Shape =
    shape("encryption", &[text("format"), one_of("engine", &["qemu", "librbd"])], &[SECRET.many()]);

/// A server of network storage.
const HOST: Shape = shape(
    "host",
    &[
        text("name"),
        attribute("port", Kind::Text),
        one_of("transport", &["tcp", "unix", "rdma"]),
        text("socket"),
    ],
    &[],
)
.many()
.kept();

const IDENTITY: &[Attribute] =
    &[text("user"), text("group"), text("username"), text("keyfile"), text("agentsock")];

/// The children of all types of source.
const CHILDREN: &[Shape] = &[
    HOST,
    shape("snapshot", &[text("name")], &[]),
    shape("config", &[text("file")], &[]),
    shape("initiator", &[], &[shape("iqn", &[text("name")], &[])]),
    shape("ssl", &[yes_no("verify")], &[]),
    shape("cookies", &[], &[content("cookie", Kind::Text).with(&[text("name")]).many()]),
    shape("readahead", &[attribute("size", Kind::Number(0, u64::MAX)).unless("0")], &[]),
    shape("timeout", &[attribute("seconds", Kind::Number(0, u64::MAX)).unless("0")], &[]),
    shape("knownHosts", &[text("path")], &[]),
    shape("identity", IDENTITY, &[]),
    shape("reconnect", &[yes_no("enabled"), number("timeout"), number("delay")], &[]),
    place("address"),
    SECLABEL,
    shape("slices", &[], &[SLICE]),
    place("auth"),
    place("encryption"),
    RESERVATIONS,
    place("dataStore"),
];

/// Children that only network storage has.
const OF_NETWORKS: &[&str] = &[
    "host",
    "snapshot",
    "config",
    "initiator",
    "ssl",
    "cookies",
    "readahead",
    "timeout",
    "identity",
    "knownHosts",
];

const PROTOCOLS: Kind = Kind::OneOf(&[
    "nbd", "rbd", "sheepdog", "gluster", "iscsi", "http", "https", "ftp", "ftps", "tftp", "vxhs", "nfs",
    "ssh", "vitastor",
]);

/// The port of a protocol's servers, where none is given.
const PORTS: &[(&str, &str)] = &[
    ("nbd", "10809"),
    ("gluster", "24007"),
    ("iscsi", "3260"),
    ("http", "80"),
    ("https", "443"),
    ("ftp", "21"),
    ("ftps", "990"),
    ("tftp", "69"),
    ("vxhs", "9999"),
    ("ssh", "22"),
];

/// What `<source>` of each type of storage holds.
const SOURCES: &[(&str, Shape)] = &[
    ("file", shape("source", &[text("file"), text("fdgroup"), STARTUP], CHILDREN)),
    ("block", shape("source", &[text("dev"), STARTUP], CHILDREN)),
    ("dir", shape("source", &[text("dir"), STARTUP], CHILDREN)),
    (
        "network",
        shape(
            "source",
            &[
                attribute("protocol", PROTOCOLS).required(),
                text("name"),
                yes_no("tls"),
                text("tlsHostname"),
                text("query"),
                STARTUP,
            ],
            CHILDREN,
        ),
    ),
    (
        "volume",
        shape(
            "source",
            &[text("pool"), text("volume"), one_of("mode", &["host", "direct"]), STARTUP],
            CHILDREN,
        ),
    ),
    (
        "nvme",
        shape(
            "source",
            &[
                one_of("type", &["pci"]).required(),
                yes_no("managed"),
                attribute("namespace", Kind::Number(0, u64::MAX)).required(),
                STARTUP,
            ],
            CHILDREN,
        ),
    ),
    ("vhostuser", shape("source", &[one_of("type", &["unix"]).required(), text("path"), STARTUP], CHILDREN)),
    ("vhostvdpa", shape("source", &[text("dev"), STARTUP], CHILDREN)),
];

/// Reads `<source>` of a type of storage; `None` if nothing is left of it.
pub(crate) fn read(kind: &str, input: &Element) -> Result<Option<Element>, Error> {
    read_level(kind, input, 0)
}

fn read_level(kind: &str, input: &Element, level: usize) -> Result<Option<Element>, Error> {
    let Some((_, shape)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        return Err(refusal::value(input, format!("storage type '{kind}' is unknown")));
    };
    let mut source = shape.read(input)?;
    for name in ["file", "dev", "dir"] {
        if source.attr(name) == Some("") {
            source.unset(name);
        }
    }
    if kind != "network" {
        source.children.retain(
            |child| !matches!(child, Node::Element(child) if OF_NETWORKS.contains(&child.name.as_str())),
        );
    }
    match kind {
        "network" => complete_network(&mut source)?,
        "nvme" => {
            if source.attr("namespace") == Some("0") {
                return Err(refusal::unsupported(input, "namespaces of NVMe are counted from 1"));
            }
            let address = input
                .child("address")
                .ok_or_else(|| refusal::xml(input, "an NVMe disk needs the <address> of its controller"))?;
            source.push(address::read_host_pci(address)?);
            if source.attr("managed").is_none() {
                source.set("managed", "no");
            }
        }
        "volume" if source.attr("pool").is_none() || source.attr("volume").is_none() => {
            return Err(refusal::xml(input, "a volume is named by its pool and its name"));
        }
        "vhostuser" if source.attr("path").is_none() => {
            return Err(refusal::internal(input, "a vhost-user disk needs the path of its socket"));
        }
        _ => {}
    }
    drop_other_slices(&mut source);
    check_labels(&source)?;
    complete_labels(&mut source);
    if let Some(reservations) = source.child_mut("reservations") {
        complete_reservations(reservations)?;
    }
    if let Some(auth) = input.child("auth") {
        source.push(read_auth(auth)?);
    }
    if let Some(encryption) = input.child("encryption") {
        source.push(read_encryption(encryption)?);
    }
    if let Some(store) = input.child("dataStore") {
        source.push(read_data_store(store, level)?);
    }
    shape.arrange(&mut source);
    let empty = source.attributes.is_empty() && source.children.is_empty();
    Ok((!empty).then_some(source))
}

/// Labels say whether they apply; a label that is given does.
pub(crate) fn complete_labels(source: &mut Element) {
    source.children.retain(|node| {
        // A label that libvirt skipped in one run of the guest says nothing about the next.
        !matches!(node, Node::Element(label) if label.name == "seclabel" && label.attr("labelskip") == Some("yes"))
    });
    for label in source.elements_mut().filter(|child| child.name == "seclabel") {
        label.unset("labelskip");
        if label.attr("relabel").is_none() {
            label.set("relabel", "yes");
        }
        if label.attr("relabel") == Some("no") {
            label.take("label");
        }
    }
}

/// Only slices of the storage itself mean something.
fn drop_other_slices(source: &mut Element) {
    if source.at("slices/slice").is_some_and(|slice| slice.attr("type") != Some("storage")) {
        source.take("slices");
    }
}

/// Of several labels, each says which security model it is for.
pub(crate) fn check_labels(source: &Element) -> Result<(), Error> {
    let nameless = source.all("seclabel").any(|label| label.attr("model").is_none());
    if nameless && source.all("seclabel").count() > 1 {
        return Err(refusal::xml(source, "several <seclabel> need a model each"));
    }
    let mut seen = std::collections::BTreeSet::new();
    if !source.all("seclabel").all(|label| seen.insert(label.attr("model"))) {
        return Err(refusal::xml(source, "it has several <seclabel> for one security model"));
    }
    Ok(())
}

fn complete_network(source: &mut Element) -> Result<(), Error> {
    let protocol = source.attr("protocol").unwrap_or_default().to_owned();
    if protocol == "sheepdog" || protocol == "vitastor" {
        return Err(refusal::unsupported(source, format!("no hypervisor reads protocol '{protocol}'")));
    }
    if source.attr("name").is_none() && protocol != "nbd" {
        return Err(refusal::xml(source, format!("a source of protocol '{protocol}' needs a name")));
    }
    if !matches!(protocol.as_str(), "http" | "https") {
        source.unset("query");
    }
    if protocol == "gluster" && !source.attr("name").unwrap_or_default().contains('/') {
        return Err(refusal::xml(source, "the name of a gluster source is VOLUME/IMAGE"));
    }
    if protocol == "iscsi"
        && let Some(name) = source.attr("name")
        && !name.contains('/')
    {
        let name = format!("{name}/0");
        source.set("name", name);
    }
    let place = source.clone();
    for host in source.elements_mut().filter(|child| child.name == "host") {
        complete_host(host, &protocol, &place)?;
    }
    Ok(())
}

fn complete_host(host: &mut Element, protocol: &str, source: &Element) -> Result<(), Error> {
    let transport = host.unset("transport").unwrap_or_else(|| "tcp".to_owned());
    if transport == "unix" {
        if host.attr("socket").is_none() {
            return Err(refusal::xml(source, "a host with transport 'unix' needs a socket"));
        }
    } else {
        if host.attr("socket").is_some() {
            return Err(refusal::xml(
                source,
                format!("a host with transport '{transport}' can't have a socket"),
            ));
        }
        if host.attr("name").is_none() {
            return Err(refusal::xml(source, "a host needs a name"));
        }
        if transport == "tcp"
            && host.attr("port").is_none()
            && let Some((_, port)) = PORTS.iter().find(|(name, _)| *name == protocol)
        {
            host.set("port", *port);
        }
    }
    check_port(host)?;
    if transport != "tcp" {
        host.set("transport", transport);
    }
    Ok(())
}

/// A port of a server; decimal digits.
fn check_port(host: &Element) -> Result<(), Error> {
    let Some(port) = host.attr("port") else {
        return Ok(());
    };
    match value::decimal(port) {
        Some(number) if number <= 65535 => Ok(()),
        _ => Err(Error::new(
            Code::INVALID_ARG,
            Origin::NONE,
            format!("<host> ({}): port '{port}' is not a number up to 65535", host.position),
        )),
    }
}

fn complete_reservations(reservations: &mut Element) -> Result<(), Error> {
    reservations.unset("migration");
    if reservations.attr("managed").is_none() {
        return Err(refusal::missing_attribute(reservations, "managed"));
    }
    if reservations.attr("managed") == Some("yes") {
        return Ok(());
    }
    let complete = reservations
        .child("source")
        .is_some_and(|source| ["type", "path", "mode"].iter().all(|name| source.attr(name).is_some()));
    if !complete {
        return Err(of_storage(
            reservations,
            "reservations that are not managed need a <source> with type, path and mode",
        ));
    }
    Ok(())
}

/// libvirt's storage code reads some parts, so their errors bear its number.
const STORAGE: Origin = Origin(18);

fn of_storage(element: &Element, message: &str) -> Error {
    Error::new(Code::XML_ERROR, STORAGE, format!("<{}> ({}): {message}", element.name, element.position))
}

/// A secret is named by UUID or by usage, not by both.
fn check_secret(owner: &Element, secret: &Element) -> Result<(), Error> {
    let refuse = |message: String| {
        Error::new(
            Code::XML_ERROR,
            Origin::NONE,
            format!("<secret> of <{}> ({}): {message}", owner.name, secret.position),
        )
    };
    match (secret.attr("uuid"), secret.attr("usage")) {
        (Some(uuid), None) if value::uuid(uuid).is_none() => Err(refuse(format!("'{uuid}' is not a UUID"))),
        (Some(_), None) | (None, Some(_)) => Ok(()),
        _ => Err(refuse("it needs either a uuid or a usage".to_owned())),
    }
}

/// Reads `<auth>`: who logs in, and which secret is the password.
pub(crate) fn read_auth(input: &Element) -> Result<Element, Error> {
    if let Some(secret) = input.child("secret") {
        check_secret(input, secret)?;
    }
    let auth = AUTH.read(input)?;
    if auth.attr("username").is_none() {
        return Err(of_storage(input, "it needs a username"));
    }
    if auth.child("secret").is_none() {
        return Err(of_storage(input, "it needs a <secret>"));
    }
    Ok(auth)
}

/// Reads `<encryption>`; the engine is QEMU unless another is named.
pub(crate) fn read_encryption(input: &Element) -> Result<Element, Error> {
    for secret in input.all("secret") {
        check_secret(input, secret)?;
    }
    if let Some(format) = input.attr("format").filter(|format| !ENCRYPTIONS.contains(format)) {
        return Err(Error::new(
            Code::CONFIG_UNSUPPORTED,
            STORAGE,
            format!("<encryption> ({}): format '{format}' is unknown; use 'luks'", input.position),
        ));
    }
    let mut encryption = ENCRYPTION.read(input)?;
    if encryption.attr("format").is_none() {
        return Err(refusal::xml(input, "encryption needs a format"));
    }
    if encryption.attr("engine").is_none() {
        encryption.set("engine", "qemu");
    }
    Ok(encryption)
}

fn read_format(input: &Element) -> Result<Element, Error> {
    const FORMAT: Shape = shape(
        "format",
        &[attribute("type", Kind::Supported(FORMATS)).required()],
        &[shape("metadata_cache", &[], &[content("max_size", Kind::Text).with(&[text("unit")])])],
    );
    let given = input.child("format").ok_or_else(|| refusal::xml(input, "it needs a <format>"))?;
    let mut format = FORMAT.read(given)?;
    complete_metadata_cache(&mut format)?;
    Ok(format)
}

/// The size of the cache of an image's metadata is spelled in bytes.
pub(crate) fn complete_metadata_cache(driver: &mut Element) -> Result<(), Error> {
    let Some(size) = driver.child_mut("metadata_cache").and_then(|cache| cache.child_mut("max_size")) else {
        return Ok(());
    };
    let bytes = value::bytes(&size.text(), size.attr("unit"), 1, "<max_size>")?;
    size.set("unit", "bytes");
    size.set_text(bytes.to_string());
    Ok(())
}

fn read_data_store(input: &Element, level: usize) -> Result<Element, Error> {
    let kind = one_of_types(input)?;
    let mut store = Element::new("dataStore").with("type", kind.as_str());
    store.push(read_format(input)?);
    push_source(&mut store, &kind, input, level)?;
    Ok(store)
}

fn one_of_types(input: &Element) -> Result<String, Error> {
    const TYPE: Shape = shape("source", &[one_of("type", TYPES)], &[]);
    Ok(TYPE.read(input)?.attr("type").unwrap_or("file").to_owned())
}

fn push_source(parent: &mut Element, kind: &str, input: &Element, level: usize) -> Result<(), Error> {
    if level >= LONGEST_CHAIN {
        return Err(refusal::xml(input, "images are nested too deeply"));
    }
    let given = input.child("source").ok_or_else(|| refusal::xml(input, "it needs a <source>"))?;
    if let Some(source) = read_level(kind, given, level + 1)? {
        parent.push(source);
    }
    Ok(())
}

/// Reads `<backingStore>` with all that lie below it. An empty one ends the chain.
pub(crate) fn read_backing_store(input: &Element) -> Result<Element, Error> {
    read_backing_level(input, 0)
}

fn read_backing_level(input: &Element, level: usize) -> Result<Element, Error> {
    let mut store = Element::new("backingStore");
    if input.attr("type").is_none() && input.child("source").is_none() {
        return Ok(store);
    }
    let kind = one_of_types(input)?;
    store.set("type", kind.as_str());
    store.push(read_format(input)?);
    push_source(&mut store, &kind, input, level)?;
    if let Some(below) = input.child("backingStore") {
        store.push(read_backing_level(below, level + 1)?);
    }
    Ok(store)
}
