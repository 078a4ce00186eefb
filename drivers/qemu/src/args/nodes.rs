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
                numbers.first.insert(alias.to_owned(), next);
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

/// Writes each image's number into the description of a guest that runs: clients name images by it (`vda[2]`), and statistics
/// tell it.
pub(crate) fn number_images(live: &mut Element) {
    let numbers = NodeNumbers::new(live);
    for disk in live.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
        let Some(first) =
            Some(&*disk).filter(|disk| disk.name == "disk").and_then(|disk| numbers.first(disk))
        else {
            continue;
        };
        if has_source(disk)
            && let Some(source) = disk.child_mut("source")
        {
            source.set("index", first.to_string());
        }
        let (mut number, mut image) = (first, disk);
        loop {
            number += 1 + image.at("source/dataStore").map_or(0, images);
            match image.child_mut("backingStore").filter(|store| store.attr("type").is_some()) {
                Some(store) => {
                    store.set("index", number.to_string());
                    image = store;
                }
                None => break,
            }
        }
    }
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
