//! Numbers of block nodes: `libvirt-N-storage`, `libvirt-N-format`.

use bulkhead_xml::Element;
use std::collections::BTreeMap;

/// The first number of each disk's chain, by alias.
#[derive(Debug, Default)]
pub(crate) struct NodeNumbers {
    first: BTreeMap<String, u32>,
}

impl NodeNumbers {
    /// Disks are numbered from the last to the first, the images of one chain from the top down, and SCSI host
    /// devices after them.
    pub(crate) fn new(root: &Element) -> Self {
        let mut numbers = Self::default();
        let mut next = 1;
        let Some(devices) = root.child("devices") else {
            return numbers;
        };
        let scsi = devices.all("hostdev").filter(|device| device.attr("type") == Some("scsi"));
        // Cards in slots of the machine's own are not block nodes.
        let is_node = |device: &&Element| device.path_attr("target", "bus") != Some("sd");
        for device in devices.all("disk").rev().filter(is_node).chain(scsi) {
            if let Some(alias) = device.path_attr("alias", "name") {
                numbers.first.insert(alias.to_owned(), given(device).unwrap_or(next));
            }
            next += images(device) + filters(device);
        }
        numbers
    }

    /// The number of the device's first image.
    pub(crate) fn first(&self, device: &Element) -> Option<u32> {
        self.first.get(device.path_attr("alias", "name")?).copied()
    }
}

/// The number that an image of a running guest has in its XML.
pub(crate) fn given(image: &Element) -> Option<u32> {
    let index = match image.name.as_str() {
        "disk" => image.path_attr("source", "index"),
        _ => image.attr("index"),
    };
    index?.parse().ok()
}

/// Writes the numbers of a disk's images into its XML, from the next free one on. An empty drive takes one too.
pub(crate) fn number(disk: &mut Element, next: &mut u32) {
    let medium = has_source(disk);
    let taken = images(disk) + filters(disk);
    let mut number = *next;
    *next = next.saturating_add(taken);
    if !medium {
        return;
    }
    if let Some(source) = disk.child_mut("source") {
        source.set("index", number.to_string());
    }
    let mut image = disk;
    loop {
        let stores = image.at("source/dataStore").map_or(0, images);
        number = number.saturating_add(1).saturating_add(stores);
        match image.child_mut("backingStore").filter(|store| store.attr("type").is_some()) {
            Some(store) => {
                store.set("index", number.to_string());
                image = store;
            }
            None => return,
        }
    }
}

/// Writes the numbers of all disks of a guest that starts into its XML; gives the next free one.
pub(crate) fn number_all(root: &mut Element) -> u32 {
    let mut next = 1;
    let disks = root.child_mut("devices").into_iter().flat_map(Element::elements_mut).rev();
    for disk in disks.filter(|device| device.name == "disk") {
        if disk.path_attr("target", "bus") != Some("sd") {
            number(disk, &mut next);
        }
    }
    let scsi = root.child("devices").into_iter().flat_map(|devices| devices.all("hostdev"));
    let scsi = scsi.filter(|device| device.attr("type") == Some("scsi")).count();
    next.saturating_add(u32::try_from(scsi).unwrap_or(0))
}

/// Whether there is a medium.
pub(crate) fn has_source(disk: &Element) -> bool {
    let Some(source) = disk.child("source") else {
        return false;
    };
    match disk.attr("type") {
        Some("file") => source.attr("file").is_some_and(|path| !path.is_empty()),
        Some("block") => source.attr("dev").is_some_and(|path| !path.is_empty()),
        Some("dir") => source.attr("dir").is_some_and(|path| !path.is_empty()),
        Some("network") => source.attr("protocol").is_some(),
        Some("volume") => source.attr("volume").is_some(),
        Some(_) => true,
        None => false,
    }
}

/// Filters that slow a disk down, between its chain and the device.
fn filters(disk: &Element) -> u32 {
    let count = disk.child("throttlefilters").map_or(0, |filters| filters.all("throttlefilter").count());
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn images(image: &Element) -> u32 {
    let mut count = 1;
    let mut at = image;
    loop {
        if let Some(store) = at.at("source/dataStore") {
            count += images(store);
        }
        match at.child("backingStore").filter(|store| store.attr("type").is_some()) {
            Some(store) => {
                count += 1;
                at = store;
            }
            None => return count,
        }
    }
}
