//! The block nodes of a disk: its image, and what that is based on.

use super::{cache_mode, source, target};
use crate::args::builder::{
    Builder, alias, attr, bytes, invalid, number_attr, number_text, stored, switch, unsupported,
};
use crate::args::json::{Json, Object};
use crate::args::nodes::given;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// More images in one chain than anybody has.
const LONGEST_CHAIN: usize = 200;

/// One image of a chain.
struct Image<'a> {
    /// The element that has `type` and `source`.
    element: &'a Element,
    source: Option<&'a Element>,
    format: &'a str,
    read_only: bool,
    top: bool,
    /// The names of the nodes without their last part.
    name: String,
}

/// Adds the nodes of the chain, the lowest first, and gives the name of the one that the device stands on.
pub(crate) fn nodes(builder: &mut Builder<'_>, disk: &Element) -> Result<String, Error> {
    let mut number = builder
        .nodes
        .first(disk)
        .ok_or_else(|| invalid(format!("Disk {} has no block node", alias(disk).unwrap_or("?"))))?;
    let mut images = Vec::new();
    let mut stores = Vec::new();
    let mut element = disk;
    let ends;
    loop {
        let top = images.is_empty();
        if images.len() >= LONGEST_CHAIN {
            return Err(invalid(format!("A disk's chain is longer than {LONGEST_CHAIN} images")));
        }
        number = given(element).unwrap_or(number);
        let image = image(element, disk, top, format!("libvirt-{number}"))?;
        number += 1;
        let store = image.source.and_then(|source| source.child("dataStore"));
        stores.push(match store {
            Some(store) => {
                let store = data_store(store, &image, format!("libvirt-{number}"));
                number += 1;
                Some(store)
            }
            None => None,
        });
        images.push(image);
        match element.child("backingStore") {
            Some(store) if store.attr("type").is_some() => element = store,
            Some(_) => {
                ends = true;
                break;
            }
            None => {
                ends = false;
                break;
            }
        }
    }
    let mut below: Option<String> = None;
    let mut lowest = true;
    for (image, store) in images.iter().zip(&stores).rev() {
        let data = match store {
            Some(store) => Some(layers(builder, disk, store, None, None, false)?),
            None => None,
        };
        let null = lowest && ends;
        below = Some(layers(builder, disk, image, below.as_deref(), data.as_deref(), null)?);
        lowest = false;
    }
    let mut top = below.unwrap_or_default();
    for filter in disk.child("throttlefilters").into_iter().flat_map(|filters| filters.all("throttlefilter"))
    {
        let name = format!("libvirt-{number}-filter");
        number += 1;
        let node = Object::new()
            .with("driver", "throttle")
            .with("node-name", name.as_str())
            .with("throttle-group", format!("throttle-{}", attr(filter, "group")?))
            .with("file", top);
        builder.json("-blockdev", &node);
        top = name;
    }
    if disk.path_attr("driver", "copy_on_read") == Some("on") {
        let name = format!("libvirt-CoR-{}", target(disk)?);
        let node = Object::new()
            .with("driver", "copy-on-read")
            .with("node-name", name.as_str())
            .with("file", top)
            .with("discard", "unmap");
        builder.json("-blockdev", &node);
        return Ok(name);
    }
    Ok(top)
}

fn image<'a>(element: &'a Element, disk: &'a Element, top: bool, name: String) -> Result<Image<'a>, Error> {
    let format = if top {
        disk.path_attr("driver", "type").unwrap_or("raw")
    } else {
        element.path_attr("format", "type").ok_or_else(|| invalid("<backingStore> has no <format>"))?
    };
    let read_only = !top || disk.child("readonly").is_some();
    Ok(Image { element, source: element.child("source"), format, read_only, top, name })
}

fn data_store<'a>(store: &'a Element, of: &Image<'_>, name: String) -> Image<'a> {
    Image {
        element: store,
        source: store.child("source"),
        format: store.path_attr("format", "type").unwrap_or("raw"),
        read_only: of.read_only,
        top: false,
        name,
    }
}

fn discard(disk: &Element) -> Option<&str> {
    disk.path_attr("driver", "discard").filter(|mode| *mode != "default")
}

/// The nodes of one image, and the name of the highest.
fn layers(
    builder: &mut Builder<'_>,
    disk: &Element,
    image: &Image<'_>,
    backing: Option<&str>,
    data: Option<&str>,
    no_backing: bool,
) -> Result<String, Error> {
    let described = image.source.ok_or_else(|| invalid("An image of a disk's chain has no <source>"))?;
    let storage_name = format!("{}-storage", image.name);
    let encryption =
        described.child("encryption").or_else(|| image.top.then(|| disk.child("encryption")).flatten());
    let (inner, outer) = match encryption {
        Some(encryption) if encryption.attr("engine") == Some("librbd") => (Some(encryption), None),
        other => (None, other),
    };
    let slice = described
        .child("slices")
        .and_then(|slices| slices.all("slice").find(|slice| slice.attr("type") == Some("storage")));
    let formatted = image.format != "raw" || outer.is_some();
    let secret_name = if formatted { format!("{}-format", image.name) } else { storage_name.clone() };

    let mut storage =
        source::protocol(builder, image.element.attr("type").unwrap_or("file"), described, &storage_name)?;
    let auth = described.child("auth").or_else(|| disk.child("auth").filter(|_| image.top));
    source::secrets(builder, described, auth, &format!("{storage_name}-auth"), &storage_name, &mut storage)?;
    if let Some(inner) = inner {
        storage.set("encrypt", source::image_encryption(builder, inner, &secret_name)?);
    }
    file_options(builder, disk, image, described, &mut storage)?;
    storage.set("node-name", storage_name.as_str());
    let only_layer = !formatted;
    access(builder, disk, image, only_layer && slice.is_none(), &mut storage)?;
    cache(disk, &mut storage);
    builder.json("-blockdev", &storage);
    let mut file = storage_name;

    if let Some(slice) = slice {
        let name = format!("{}-slice-sto", image.name);
        let mut node = Object::new()
            .with("driver", "raw")
            .with("file", file.as_str())
            .with_some("offset", number_attr(slice, "offset")?)
            .with_some("size", number_attr(slice, "size")?)
            .with("node-name", name.as_str());
        access(builder, disk, image, only_layer, &mut node)?;
        cache(disk, &mut node);
        builder.json("-blockdev", &node);
        file = name;
    }
    if !formatted {
        return Ok(file);
    }
    let name = format!("{}-format", image.name);
    let mut node = Object::new().with("node-name", name.as_str());
    access(builder, disk, image, true, &mut node)?;
    cache(disk, &mut node);
    format_layer(builder, disk, image, outer, &name, data, &mut node)?;
    node.set("file", file);
    match backing {
        Some(backing) => {
            node.set("backing", backing);
        }
        None if no_backing && supports_backing(image.format) => {
            node.set("backing", Json::Null);
        }
        None => {}
    }
    builder.json("-blockdev", &node);
    Ok(name)
}

fn supports_backing(format: &str) -> bool {
    matches!(format, "qcow2" | "qcow" | "qed" | "vmdk")
}

fn format_layer(
    builder: &mut Builder<'_>,
    disk: &Element,
    image: &Image<'_>,
    encryption: Option<&Element>,
    name: &str,
    data: Option<&str>,
    node: &mut Object,
) -> Result<(), Error> {
    let driver = match image.format {
        "raw" if encryption.is_some() => "luks",
        // The protocol below makes the file system.
        "fat" => "raw",
        "ploop" => "parallels",
        other => other,
    };
    node.set("driver", driver);
    let settings = if image.top { disk.child("driver") } else { image.element.child("format") };
    if let Some(settings) = settings {
        if image.top {
            let keep = switch(settings, "discard_no_unref");
            if keep.is_some() && !builder.capabilities.at_least(8, 1) {
                return Err(unsupported("discard_no_unref needs QEMU 8.1 or newer"));
            }
            node.set_some("discard-no-unref", keep);
        }
        if let Some(size) = settings.at("metadata_cache/max_size") {
            node.set("cache-size", bytes(size, number_text(size)?)?);
        }
    }
    node.set_some("data-file", data);
    if let Some(encryption) = encryption {
        let secret = format!("{name}-encryption-secret0");
        builder.secret(&secret, stored(encryption.child("secret"), source::USAGE_VOLUME))?;
        if driver == "luks" {
            node.set("key-secret", secret);
        } else {
            let format = match encryption.attr("format") {
                Some("luks" | "luks2") => "luks",
                _ => "aes",
            };
            node.set("encrypt", Object::new().with("format", format).with("key-secret", secret));
        }
    }
    Ok(())
}

/// How the host's file is read and written.
fn file_options(
    builder: &mut Builder<'_>,
    disk: &Element,
    image: &Image<'_>,
    described: &Element,
    storage: &mut Object,
) -> Result<(), Error> {
    if !matches!(image.element.attr("type"), Some("file" | "block")) {
        return Ok(());
    }
    storage.set_some("aio", disk.path_attr("driver", "io"));
    if let Some(reservations) = described.child("reservations") {
        let id = if switch(reservations, "managed") == Some(true) {
            "pr-helper0".to_owned()
        } else {
            let id = format!("pr-helper-{}-storage", image.name);
            let path = described
                .path_attr("reservations/source", "path")
                .ok_or_else(|| invalid("<reservations> names no helper"))?;
            let helper = Object::new()
                .with("qom-type", "pr-manager-helper")
                .with("id", id.as_str())
                .with("path", path);
            builder.object(&helper);
            id
        };
        storage.set("pr-manager", id);
    }
    Ok(())
}

/// What the guest may do to the image. The highest layer says it; those below follow it.
fn access(
    builder: &Builder<'_>,
    disk: &Element,
    image: &Image<'_>,
    highest: bool,
    node: &mut Object,
) -> Result<(), Error> {
    if !highest {
        // QEMU can't open again what it was handed, so it uses that from the beginning for what it was opened for: of two
        // descriptors of one file, each would hold a lock against the other.
        if builder.plugs() && !image.read_only {
            node.set("read-only", false);
        } else {
            node.set("auto-read-only", true);
        }
        node.set("discard", "unmap");
        return Ok(());
    }
    node.set("read-only", image.read_only);
    node.set_some("discard", discard(disk));
    let zeroes = disk.path_attr("driver", "detect_zeroes").filter(|_| image.top).map(|mode| {
        // Without discard there is nothing to unmap.
        if mode == "unmap" && discard(disk) != Some("unmap") { "on" } else { mode }
    });
    node.set_some("detect-zeroes", zeroes.filter(|mode| *mode != "off"));
    Ok(())
}

fn cache(disk: &Element, node: &mut Object) {
    let (direct, no_flush) = match cache_mode(disk) {
        Some("none" | "directsync") => (true, false),
        Some("writeback" | "writethrough") => (false, false),
        Some("unsafe") => (false, true),
        _ => return,
    };
    node.set("cache", Object::new().with("direct", direct).with("no-flush", no_flush));
}
