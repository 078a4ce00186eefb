//! A volume: what its definition asks for, and what is known of one that is there.

pub mod make;
mod wanted;

pub use wanted::{BackingWanted, Wanted};

use crate::image::{Compat, Format};
use crate::protocol::{Found, Status};
use crate::xml::{self, leaf};
use bulkhead_wire::types::storage::{VolumeInfo, VolumeRef};
use bulkhead_xml::{Element, Node};
use std::path::Path;

/// `VIR_STORAGE_VOL_FILE` and `VIR_STORAGE_VOL_DIR`.
const FILE: i8 = 0;
const DIR: i8 = 2;

/// A volume that is there.
#[derive(Debug, Clone)]
pub struct Volume {
    /// What the worker found.
    pub found: Found,
    /// What it was made of, until it is looked at anew: stock tells then what was asked for.
    pub made: Option<Box<Wanted>>,
}

impl Volume {
    /// Its path below that of its pool.
    #[must_use]
    pub fn path(&self, folder: &str) -> String {
        path_of(folder, &self.found.name)
    }

    /// Itself in a few words.
    #[must_use]
    pub fn to_ref(&self, pool: &str, folder: &str) -> VolumeRef {
        VolumeRef { pool: pool.to_owned(), name: self.found.name.clone(), key: self.path(folder) }
    }

    /// Bytes that a guest sees.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        match self.found.image.capacity_bytes {
            _ if self.found.folder => 0,
            Some(bytes) => bytes,
            None => self.found.status.size_bytes,
        }
    }

    fn allocation_bytes(&self) -> u64 {
        if self.found.folder { 0 } else { self.found.status.allocated_bytes }
    }

    /// Type and sizes.
    #[must_use]
    pub fn info(&self, physical: bool) -> VolumeInfo {
        VolumeInfo {
            kind: if self.found.folder { DIR } else { FILE },
            capacity_bytes: self.capacity_bytes(),
            allocation_bytes: if physical && !self.found.folder {
                self.found.status.size_bytes
            } else {
                self.allocation_bytes()
            },
        }
    }

    /// The path of the file that it stands on, as far as that is one: what a header says is told, never opened.
    #[must_use]
    pub fn backing_path(&self, folder: &str) -> Option<String> {
        let name = &self.found.image.backing.as_ref()?.name;
        let protocol = name.split_once(':').is_some_and(|(word, _)| !word.contains('/'));
        let path = Path::new(name);
        Some(if path.is_absolute() || protocol { name.clone() } else { path_of(folder, name) })
    }

    /// The format of that file.
    #[must_use]
    pub fn backing_format(&self) -> Option<Format> {
        let named = self.found.image.backing.as_ref()?.format;
        Some(named.unwrap_or(Format::Raw))
    }

    /// The whole XML.
    #[must_use]
    pub fn to_xml(&self, folder: &str) -> String {
        let path = self.path(folder);
        let mut root = Element::new("volume").with("type", if self.found.folder { "dir" } else { "file" });
        root.push(leaf("name", &self.found.name));
        root.push(leaf("key", &path));
        root.push(xml::size("capacity", self.capacity_bytes()));
        root.push(xml::size("allocation", self.allocation_bytes()));
        if !self.found.folder {
            root.push(xml::size("physical", self.found.status.size_bytes));
        }
        let mut target = file(&path, self.found.image.format, Some(&self.found.status));
        self.details(&mut target);
        target.name = "target".to_owned();
        root.push(target);
        if let (Some(path), Some(format)) = (self.backing_path(folder), self.backing_format()) {
            let mut backing = file(&path, format, self.found.backing.as_ref().map(|(status, _)| status));
            backing.name = "backingStore".to_owned();
            root.push(backing);
        }
        root.to_xml()
    }

    /// What the format has besides.
    fn details(&self, target: &mut Element) {
        let image = &self.found.image;
        if let Some(encryption) = image.encryption {
            target.push(Element::new("encryption").with("format", encryption.name()));
        }
        if image.format != Format::Qcow2 {
            return;
        }
        let (compat, cluster_bytes, features) = match &self.made {
            Some(made) => {
                let compat =
                    made.compat.clone().or_else(|| made.features.map(|_| Compat::V11.name().to_owned()));
                (compat, made.cluster_bytes, made.features)
            }
            None => {
                let later = image.compat == Some(Compat::V11);
                let features = later.then_some((image.lazy_refcounts, image.extended_l2));
                (image.compat.map(|compat| compat.name().to_owned()), image.cluster_bytes, features)
            }
        };
        if let Some(compat) = compat {
            target.push(leaf("compat", compat));
        }
        if let Some(bytes) = cluster_bytes {
            target.push(leaf("clusterSize", bytes.to_string()).with("unit", "B"));
        }
        if let Some((lazy_refcounts, extended_l2)) = features {
            let mut features = Element::new("features");
            for (name, set) in [("lazy_refcounts", lazy_refcounts), ("extended_l2", extended_l2)] {
                if set {
                    features.push(Element::new(name));
                }
            }
            target.push(features);
        }
    }
}

fn file(path: &str, format: Format, status: Option<&Status>) -> Element {
    let mut element = Element::new("").with_child(leaf("path", path));
    element.push(Element::new("format").with("type", format.name()));
    if let Some(status) = status {
        element.children.extend(xml::permissions(xml::found(status), None).map(Node::Element));
        element.push(xml::timestamps(status));
    }
    element
}

/// The path of an entry of a folder.
#[must_use]
pub fn path_of(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}
