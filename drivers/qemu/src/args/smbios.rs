//! `-smbios` and `-fw_cfg`.

use super::builder::{Builder, attr};
use super::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// The element in `<sysinfo>`, the table's number, and `(entry, property)`.
type Table = (&'static str, u32, &'static [(&'static str, &'static str)]);

const BIOS: Table =
    ("bios", 0, &[("vendor", "vendor"), ("version", "version"), ("date", "date"), ("release", "release")]);
const SYSTEM: Table = (
    "system",
    1,
    &[
        ("manufacturer", "manufacturer"),
        ("product", "product"),
        ("version", "version"),
        ("serial", "serial"),
        ("uuid", "uuid"),
        ("sku", "sku"),
        ("family", "family"),
    ],
);
const BOARD: Table = (
    "baseBoard",
    2,
    &[
        ("manufacturer", "manufacturer"),
        ("product", "product"),
        ("version", "version"),
        ("serial", "serial"),
        ("asset", "asset"),
        ("location", "location"),
    ],
);
const CHASSIS: Table = (
    "chassis",
    3,
    &[
        ("manufacturer", "manufacturer"),
        ("version", "version"),
        ("serial", "serial"),
        ("asset", "asset"),
        ("sku", "sku"),
    ],
);

impl Builder<'_> {
    pub(crate) fn smbios(&mut self) -> Result<(), Error> {
        let root = self.root;
        if root.path_attr("os/smbios", "mode") != Some("sysinfo") {
            return Ok(());
        }
        let Some(info) = root.all("sysinfo").find(|info| info.attr("type") == Some("smbios")) else {
            return Ok(());
        };
        for table in [BIOS, SYSTEM, BOARD, CHASSIS] {
            for block in info.all(table.0) {
                self.table(&table, block)?;
            }
        }
        if let Some(strings) = info.child("oemStrings") {
            let mut list = KeyValues::empty().with("type", 11);
            for entry in strings.all("entry") {
                list.set("value", entry.text());
            }
            self.option("-smbios", list)?;
        }
        Ok(())
    }

    fn table(&mut self, table: &Table, block: &Element) -> Result<(), Error> {
        let mut list = KeyValues::empty().with("type", table.1);
        for (name, property) in table.2 {
            if let Some(entry) = block.all("entry").find(|entry| entry.attr("name") == Some(name)) {
                list.set(property, entry.text());
            } else if table.1 == BOARD.1 && *name == "manufacturer" {
                // Guests have always seen an empty one here, not QEMU's own.
                list.set(property, "");
            }
        }
        self.option("-smbios", list)
    }

    pub(crate) fn firmware_configuration(&mut self) -> Result<(), Error> {
        for info in self.root.all("sysinfo").filter(|info| info.attr("type") == Some("fwcfg")) {
            for entry in info.all("entry") {
                let list = KeyValues::empty().with("name", attr(entry, "name")?);
                let list = match entry.attr("file") {
                    Some(file) => list.with("file", file),
                    None => list.with("string", entry.text()),
                };
                self.option("-fw_cfg", list)?;
            }
        }
        Ok(())
    }
}
