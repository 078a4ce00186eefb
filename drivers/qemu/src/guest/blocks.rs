//! What a guest's disks have done, and how large they are, as QEMU tells it.

use bulkhead_xml::Element;
use serde_json::Value;

/// Numbers of one disk, or of one layer below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) read_requests: u64,
    pub(crate) read_bytes: u64,
    pub(crate) read_ns: u64,
    pub(crate) write_requests: u64,
    pub(crate) write_bytes: u64,
    pub(crate) write_ns: u64,
    pub(crate) flush_requests: u64,
    pub(crate) flush_ns: u64,
    /// The end of the highest place that was written.
    pub(crate) highest: u64,
    /// What the guest sees, and what is taken on the host; nothing without a medium.
    pub(crate) size: Option<Size>,
    /// The number of bytes written at which QEMU tells, 0 for never.
    pub(crate) threshold: u64,
}

/// How large an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    /// For the guest.
    pub(crate) capacity: u64,
    /// On the host.
    pub(crate) taken: u64,
}

impl Figures {
    fn read(entry: &Value) -> Self {
        let number =
            |name: &str| entry.pointer(&format!("/stats/{name}")).and_then(Value::as_u64).unwrap_or(0);
        // What was written below the format: that is what the host's disk must have room for.
        let below = entry.pointer("/parent/stats/wr_highest_offset").and_then(Value::as_u64);
        Self {
            read_requests: number("rd_operations"),
            read_bytes: number("rd_bytes"),
            read_ns: number("rd_total_time_ns"),
            write_requests: number("wr_operations"),
            write_bytes: number("wr_bytes"),
            write_ns: number("wr_total_time_ns"),
            flush_requests: number("flush_operations"),
            flush_ns: number("flush_total_time_ns"),
            highest: below.unwrap_or_else(|| number("wr_highest_offset")),
            size: None,
            threshold: 0,
        }
    }

    /// Both together, for the sum over all disks.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            read_requests: self.read_requests.saturating_add(other.read_requests),
            read_bytes: self.read_bytes.saturating_add(other.read_bytes),
            read_ns: self.read_ns.saturating_add(other.read_ns),
            write_requests: self.write_requests.saturating_add(other.write_requests),
            write_bytes: self.write_bytes.saturating_add(other.write_bytes),
            write_ns: self.write_ns.saturating_add(other.write_ns),
            flush_requests: self.flush_requests.saturating_add(other.flush_requests),
            flush_ns: self.flush_ns.saturating_add(other.flush_ns),
            ..self
        }
    }
}

/// Does QEMU's name of a device mean the device of this alias? It is the alias, or a path with it.
pub(crate) fn is_device(qdev: &str, alias: &str) -> bool {
    qdev == alias || qdev.split('/').any(|part| part == alias)
}

/// The entry of a disk in one of QEMU's lists of drives.
pub(crate) fn entry<'a>(list: &'a Value, alias: &str) -> Option<&'a Value> {
    let named =
        |entry: &&Value| entry.get("qdev").and_then(Value::as_str).is_some_and(|qdev| is_device(qdev, alias));
    list.as_array()?.iter().find(named)
}

/// The figures of a disk, from `query-blockstats` and `query-block`.
pub(crate) fn figures(stats: &Value, drives: &Value, alias: &str) -> Option<Figures> {
    let mut figures = Figures::read(entry(stats, alias)?);
    let medium = entry(drives, alias).and_then(|drive| drive.get("inserted"));
    figures.size = medium.and_then(|medium| size(medium.get("image")?));
    figures.threshold =
        medium.and_then(|medium| medium.get("write_threshold")).and_then(Value::as_u64).unwrap_or(0);
    Some(figures)
}

/// The figures of the layers below a disk, the uppermost first.
pub(crate) fn layers(stats: &Value, drives: &Value, alias: &str) -> Vec<Figures> {
    let mut layers = Vec::new();
    let mut entry_below = entry(stats, alias).and_then(|entry| entry.get("backing"));
    let mut image = entry(drives, alias).and_then(|drive| drive.pointer("/inserted/image"));
    while let Some(layer) = entry_below {
        image = image.and_then(|image| image.get("backing-image"));
        layers.push(Figures { size: image.and_then(size), ..Figures::read(layer) });
        entry_below = layer.get("backing");
    }
    layers
}

fn size(image: &Value) -> Option<Size> {
    let number = |name: &str| image.get(name).and_then(Value::as_u64);
    let capacity = number("virtual-size")?;
    Some(Size { capacity, taken: number("actual-size").unwrap_or(0) })
}

/// Where a disk's data are on the host, if that is a file or device.
pub(crate) fn source(disk: &Element) -> Option<&str> {
    let source = disk.child("source")?;
    source.attr("file").or_else(|| source.attr("dev")).filter(|path| !path.is_empty())
}

/// A domain's disks, as far as they are drives.
pub(crate) fn disks(root: &Element) -> impl DoubleEndedIterator<Item = &Element> {
    root.child("devices").into_iter().flat_map(|devices| devices.all("disk"))
}

/// The disk of that target or source.
pub(crate) fn find<'a>(root: &'a Element, path: &str) -> Option<&'a Element> {
    let named = |disk: &&Element| disk.path_attr("target", "dev") == Some(path);
    disks(root).find(named).or_else(|| disks(root).find(|disk| source(disk) == Some(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_disk_is_found_by_its_alias_alone_or_in_a_path() {
        assert!(is_device("sata0-0-0", "sata0-0-0"));
        assert!(is_device("/machine/peripheral/virtio-disk1/virtio-backend", "virtio-disk1"));
        assert!(!is_device("/machine/peripheral/virtio-disk10/virtio-backend", "virtio-disk1"));
    }

    #[test]
    fn figures_are_read_whatever_is_missing() {
        let stats = json!([
            {"qdev": "ide0-0-0", "stats": {"rd_bytes": 512, "wr_highest_offset": 7}, "parent": {"stats": {"wr_highest_offset": 9}},
             "backing": {"stats": {"rd_bytes": 3}}},
            {"qdev": 7}
        ]);
        let drives = json!([{"qdev": "ide0-0-0", "inserted": {"image": {"virtual-size": 10, "actual-size": 4,
            "backing-image": {"virtual-size": 8}}}}]);
        let found = figures(&stats, &drives, "ide0-0-0").unwrap();
        assert_eq!((found.read_bytes, found.highest), (512, 9));
        assert_eq!(found.size, Some(Size { capacity: 10, taken: 4 }));
        let below = layers(&stats, &drives, "ide0-0-0");
        assert_eq!(below.len(), 1);
        assert_eq!((below[0].read_bytes, below[0].size), (3, Some(Size { capacity: 8, taken: 0 })));
        assert_eq!(figures(&stats, &drives, "ide0-0-1"), None);
        assert_eq!(figures(&json!("no list"), &drives, "ide0-0-0"), None);
    }
}
