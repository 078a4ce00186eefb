//! `-m`, the objects behind the guest's memory, `-overcommit`.

use super::builder::{Builder, attr, bytes, invalid, is_on, number_attr, size_text};
use super::json::{Json, Object};
use super::numa::cpu_set;
use super::option::KeyValues;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

const MEBIBYTE: u64 = 1 << 20;

/// What a memory backend is made from.
pub(crate) struct Backend<'a> {
    pub(crate) id: &'a str,
    /// The file's name in the guest's folder of file-backed memory.
    pub(crate) file: &'a str,
    pub(crate) size: u64,
    /// `memAccess` or `access`, if the definition says so for this memory.
    pub(crate) access: Option<&'a str>,
    pub(crate) discard: Option<&'a str>,
    /// The guest's NUMA node.
    pub(crate) node: Option<u64>,
    /// Host nodes, given for this memory.
    pub(crate) nodes: Option<String>,
    /// A file that the definition names.
    pub(crate) path: Option<String>,
    pub(crate) device: Option<&'a Element>,
}

impl Builder<'_> {
    /// The size of the guest's memory without devices, in bytes.
    pub(crate) fn initial_memory(&self) -> Result<u64, Error> {
        let cells = self.cells();
        if !cells.is_empty() {
            return cells.iter().try_fold(0_u64, |sum, cell| {
                sum.checked_add(self.cell_size(cell)?)
                    .ok_or_else(|| invalid("The memory of all NUMA cells is too large"))
            });
        }
        let memory = self.root.child("memory").ok_or_else(|| invalid("The definition has no <memory>"))?;
        let mut size = size_text(memory)?;
        for device in self.devices("memory") {
            if let Some(part) = device.at("target/size") {
                size = size.saturating_sub(size_text(part)?);
            }
        }
        Ok(self.align(size))
    }

    /// The id of the object that is all of the machine's memory, where there is one.
    pub(crate) fn default_memory(&self) -> Option<&str> {
        if !self.cells().is_empty() {
            return None;
        }
        self.machine()?.default_ram_id.as_deref()
    }

    pub(crate) fn memory_option(&mut self) -> Result<(), Error> {
        let size = self.initial_memory()?;
        let mut list = KeyValues::empty();
        list.set("size", format!("{}k", size / 1024));
        if let Some(most) = self.root.child("maxMemory") {
            if let Some(slots) = number_attr(most, "slots")?.filter(|slots| *slots > 0) {
                list.set("slots", slots);
            }
            list.set("maxmem", format!("{}k", self.align(size_text(most)?) / 1024));
        }
        self.option("-m", list)?;
        if self.default_memory().is_none() && !self.cells_have_backends() && self.preallocates() {
            self.flag("-mem-prealloc");
        }
        if let Some(id) = self.default_memory().map(str::to_owned) {
            let discard = self.root.at("memoryBacking/discard").map(|_| "yes");
            let backend = self.backend(&Backend {
                id: &id,
                file: &id,
                size,
                access: None,
                discard,
                node: None,
                nodes: None,
                path: None,
                device: None,
            })?;
            let mut backend = backend;
            if backend.file_or_memfd {
                // Keeps migration working with guests that were started without a backend.
                backend.set_canonical_path();
            }
            self.object(&backend.object());
        }
        Ok(())
    }

    fn preallocates(&self) -> bool {
        self.root.path_attr("memoryBacking/allocation", "mode") == Some("immediate")
    }

    pub(crate) fn overcommit(&mut self) -> Result<(), Error> {
        let locked = self.root.at("memoryBacking/locked").is_some();
        let mut list = KeyValues::empty();
        list.switch("mem-lock", locked);
        self.option("-overcommit", list)
    }

    /// The object behind one piece of memory.
    pub(crate) fn backend(&self, wanted: &Backend<'_>) -> Result<MadeBackend, Error> {
        let backing = self.root.child("memoryBacking");
        let source = backing.and_then(|backing| backing.path_attr("source", "type"));
        let access =
            wanted.access.or_else(|| backing.and_then(|backing| backing.path_attr("access", "mode")));
        let model = wanted.device.and_then(|device| device.attr("model"));
        let page = self.page_size(wanted)?;
        let discards = wanted.discard.is_some_and(is_on)
            || (wanted.discard.is_none()
                && backing.is_some_and(|backing| backing.child("discard").is_some()));
        let own_file = wanted.path.is_some();
        let device_file = wanted.device.is_some() && (wanted.access.is_some() || page.is_some());
        let memfd = !own_file && source == Some("memfd") && page.is_none();
        let file = own_file
            || (!memfd && (source == Some("file") || device_file || access.is_some() || page.is_some()));

        let mut object = Object::new();
        let kind = if memfd {
            "memory-backend-memfd"
        } else if file {
            "memory-backend-file"
        } else {
            "memory-backend-ram"
        };
        object.set("qom-type", kind).set("id", wanted.id);
        if file {
            let path = match &wanted.path {
                Some(path) => path.clone(),
                None => format!("{}/{}", self.paths.memory, wanted.file),
            };
            object.set("mem-path", path);
        }
        if file && discards {
            object.set("discard-data", true);
        }
        match access {
            Some("shared") => {
                object.set("share", true);
            }
            Some("private") => {
                object.set("share", false);
            }
            _ => {}
        }
        let prealloc = self.preallocates()
            || (model == Some("nvdimm")
                && own_file
                && wanted.device.is_none_or(|device| device.at("source/pmem").is_none()));
        if prealloc {
            object.set("prealloc", true);
            if let Some(threads) = backing
                .and_then(|backing| backing.child("allocation"))
                .and_then(|allocation| allocation.attr("threads"))
            {
                object.set_some("prealloc-threads", super::builder::number(threads));
            }
        }
        object.set("size", wanted.size);
        self.policy(wanted, &mut object)?;
        Ok(MadeBackend { object, file_or_memfd: file || memfd })
    }

    /// The page size that the definition asks for, unless it is the host's own.
    fn page_size(&self, wanted: &Backend<'_>) -> Result<Option<u64>, Error> {
        let Some(page) = wanted.device.and_then(|device| device.at("source/pagesize")) else {
            return Ok(None);
        };
        Ok(Some(size_text(page)?))
    }

    /// Host NUMA nodes.
    fn policy(&self, wanted: &Backend<'_>, object: &mut Object) -> Result<(), Error> {
        let tune = self.root.child("numatune");
        let own = wanted.node.and_then(|node| {
            tune?
                .all("memnode")
                .find(|memnode| memnode.attr("cellid").and_then(super::builder::number) == Some(node))
        });
        let setting = own.or_else(|| tune.and_then(|tune| tune.child("memory")));
        let nodes = match &wanted.nodes {
            Some(nodes) => Some(nodes.as_str()),
            None => setting.and_then(|setting| setting.attr("nodeset")),
        };
        let Some(nodes) = nodes else {
            return Ok(());
        };
        let policy = match setting.and_then(|setting| setting.attr("mode")).unwrap_or("strict") {
            "strict" => "bind",
            "preferred" => "preferred",
            "interleave" => "interleave",
            // The cgroup does it.
            _ => return Ok(()),
        };
        let list: Vec<Json> = cpu_set(nodes)?.into_iter().map(Json::from).collect();
        object.set("host-nodes", list).set("policy", policy);
        Ok(())
    }

    /// The size of a NUMA cell in bytes.
    pub(crate) fn cell_size(&self, cell: &Element) -> Result<u64, Error> {
        attr(cell, "memory")?;
        let value = number_attr(cell, "memory")?.unwrap_or(0);
        Ok(self.align(bytes(cell, value)?))
    }

    /// Memory comes in whole MiB; pseries' in blocks.
    pub(crate) fn align(&self, size: u64) -> u64 {
        let alignment = if self.arch.starts_with("ppc64") { 256 * MEBIBYTE } else { MEBIBYTE };
        align_to(size, alignment)
    }

    /// The NUMA cells.
    pub(crate) fn cells(&self) -> Vec<&Element> {
        self.root.at("cpu/numa").into_iter().flat_map(|numa| numa.all("cell")).collect()
    }
}

/// A backend and what is to know about it.
pub(crate) struct MadeBackend {
    object: Object,
    pub(crate) file_or_memfd: bool,
}

impl MadeBackend {
    fn set_canonical_path(&mut self) {
        self.object.set("x-use-canonical-path-for-ramblock-id", false);
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Json>) {
        self.object.set(name, value);
    }

    pub(crate) fn object(self) -> Object {
        self.object
    }
}

/// The next multiple.
pub(crate) fn align_to(size: u64, alignment: u64) -> u64 {
    size.div_ceil(alignment).saturating_mul(alignment)
}
