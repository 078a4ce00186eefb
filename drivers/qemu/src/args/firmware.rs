//! Firmware, its variable store, direct kernel boot, ACPI tables.

use super::builder::{Builder, switch};
use super::json::{Json, Object};
use super::option::KeyValues;
use crate::device::disk::args::source;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

impl<'a> Builder<'a> {
    fn loader(&self) -> Option<(&'a Element, String)> {
        let loader = self.root.at("os/loader")?;
        let path = loader.text();
        (!path.is_empty()).then_some((loader, path))
    }

    fn flash(&self) -> Option<(&'a Element, String)> {
        self.loader().filter(|(loader, _)| loader.attr("type") == Some("pflash"))
    }

    /// Block nodes of flash memory, before the machine that names them.
    pub(crate) fn pflash(&mut self) -> Result<(), Error> {
        let Some((loader, path)) = self.flash() else {
            return Ok(());
        };
        let read_only = switch(loader, "readonly") != Some(false) && loader.attr("readonly").is_some();
        let storage = Object::new()
            .with("driver", "file")
            .with("filename", path)
            .with("node-name", "libvirt-pflash0-storage")
            .with("auto-read-only", true)
            .with("discard", "unmap");
        self.json("-blockdev", &storage);
        let kind = loader.attr("format").unwrap_or("raw");
        let mut format = Object::new()
            .with("node-name", "libvirt-pflash0-format")
            .with("read-only", read_only)
            .with("driver", kind)
            .with("file", "libvirt-pflash0-storage");
        if kind != "raw" {
            format.set("backing", Json::Null);
        }
        self.json("-blockdev", &format);
        let Some(store) = self.root.at("os/nvram") else {
            return Ok(());
        };
        let format = store.attr("format").unwrap_or("raw");
        let name = "libvirt-pflash1-storage";
        let mut node = match store.child("source") {
            Some(described) => {
                let kind = store.attr("type").unwrap_or("file");
                let mut node = source::protocol(self, kind, described, name)?;
                let auth = described.child("auth");
                source::secrets(self, described, auth, &format!("{name}-auth"), name, &mut node)?;
                node
            }
            None => Object::new().with("driver", "file").with("filename", store.text()),
        };
        node.set("node-name", name);
        if format == "raw" {
            node.set("read-only", false);
        } else {
            node.set("auto-read-only", true).set("discard", "unmap");
        }
        self.json("-blockdev", &node);
        let format = Object::new()
            .with("node-name", "libvirt-pflash1-format")
            .with("read-only", false)
            .with("driver", format)
            .with("file", name)
            .with("backing", Json::Null);
        if store.attr("format").is_some_and(|format| format != "raw") {
            self.json("-blockdev", &format);
        }
        Ok(())
    }

    /// The machine's references to flash memory.
    pub(crate) fn pflash_machine(&self, list: &mut KeyValues) {
        if self.flash().is_none() {
            return;
        }
        list.set("pflash0", "libvirt-pflash0-format");
        if let Some(store) = self.root.at("os/nvram") {
            let raw = store.attr("format").is_none_or(|format| format == "raw");
            list.set("pflash1", if raw { "libvirt-pflash1-storage" } else { "libvirt-pflash1-format" });
        }
    }

    /// `-bios`, or the lock of secure flash.
    pub(crate) fn firmware(&mut self) -> Result<(), Error> {
        let Some((loader, path)) = self.loader() else {
            return Ok(());
        };
        if loader.attr("type") != Some("pflash") {
            return self.option("-bios", path);
        }
        if switch(loader, "secure") == Some(true) {
            let list = KeyValues::empty()
                .with("driver", "cfi.pflash01")
                .with("property", "secure")
                .with("value", "on");
            self.option("-global", list)?;
        }
        Ok(())
    }

    /// `-boot`, kernel and tables.
    pub(crate) fn boot_options(&mut self) -> Result<(), Error> {
        let root = self.root;
        let os = root.child("os");
        let mut list = KeyValues::empty();
        let menu = os.and_then(|os| os.child("bootmenu"));
        if let Some(menu) = menu
            && let Some(on) = switch(menu, "enable")
        {
            list.switch("menu", on);
        }
        list.set_some("reboot-timeout", os.and_then(|os| os.path_attr("bios", "rebootTimeout")));
        if let Some(menu) = menu.filter(|menu| switch(menu, "enable") == Some(true)) {
            list.set_some("splash-time", menu.attr("timeout"));
        }
        list.switch("strict", true);
        self.option("-boot", list)?;
        let Some(os) = os else {
            return Ok(());
        };
        for (element, option) in [
            ("kernel", "-kernel"),
            ("initrd", "-initrd"),
            ("cmdline", "-append"),
            ("shim", "-shim"),
            ("dtb", "-dtb"),
        ] {
            if let Some(text) = os.child_text(element).filter(|text| !text.is_empty()) {
                self.option(option, text)?;
            }
        }
        for table in os.child("acpi").into_iter().flat_map(|acpi| acpi.all("table")) {
            let mut list = KeyValues::empty();
            if let Some(kind) = table.attr("type").filter(|kind| !matches!(*kind, "raw" | "rawset")) {
                list.set("sig", kind.to_uppercase());
            }
            list.set("file", table.text());
            self.option("-acpitable", list)?;
        }
        Ok(())
    }
}
