//! What a start needs beside the definition: firmware variables of the guest's own, the layers below its disks, free ports.
//!
//! All of it goes into the live XML, from which the command line and the helper's rules are made.

use super::Guest;
use bulkhead_actors::state::Folder;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::{Element, Node};
use std::path::{Path, PathBuf};

/// Layers of one disk; more is a circle or an attack.
const LAYERS_MAX: usize = 64;
/// Bytes of firmware variables.
const VARIABLES_MAX_BYTES: u64 = 64 << 20;
/// The first port of VNC, and how many are tried.
const FIRST_PORT: u16 = 5900;
const PORTS: u16 = 4096;

impl Guest {
    /// Makes the firmware variables of this guest from their template, the first time.
    pub(super) async fn prepare_variables(&self, live: &Element) -> Result<(), Error> {
        let Some(nvram) = live.at("os/nvram") else {
            return Ok(());
        };
        let (path, template) = (PathBuf::from(nvram.text()), nvram.attr("template").map(PathBuf::from));
        let own = self.environment.variables_folder();
        let (Some(template), Ok(name)) = (template, path.strip_prefix(&own)) else {
            return Ok(());
        };
        let name = name.to_string_lossy().into_owned();
        let what = format!(
            "Domain '{}': firmware variables {} from {}",
            self.name,
            path.display(),
            template.display()
        );
        self.environment
            .on_disk(&what, move || {
                let folder = Folder::open(&own, "variables", "")?;
                if path.exists() {
                    return Ok(());
                }
                if std::fs::metadata(&template)?.len() > VARIABLES_MAX_BYTES {
                    return Err(std::io::Error::other("the template is too large to be one"));
                }
                folder.write(&name, &std::fs::read(&template)?)
            })
            .await
    }

    /// Refuses what a definition may ask for and no guest gets here, before anything is made: left out, the guest would be
    /// another than was described.
    pub(super) fn refuse_what_is_not_served(&self, live: &Element) -> Result<(), Error> {
        if live.at("memoryBacking/hugepages").is_some() {
            return Err(self.refused(
                "its memory can't be in huge pages (<hugepages>), since nothing here reserves any; remove that",
            ));
        }
        let mut devices = live.child("devices").into_iter().flat_map(Element::elements);
        if devices
            .any(|device| device.name == "video" && device.path_attr("driver", "name") == Some("vhostuser"))
        {
            return Err(self
                .refused("no process of its own draws its video (<driver name='vhostuser'>); remove that"));
        }
        Ok(())
    }

    /// Finds the layers below each disk that does not name them, and writes them into the live XML.
    pub(super) async fn prepare_layers(&self, live: &mut Element) -> Result<(), Error> {
        let Some(devices) = live.child_mut("devices") else {
            return Ok(());
        };
        for disk in devices.elements_mut().filter(|device| device.name == "disk") {
            self.find_layers(disk).await?;
        }
        Ok(())
    }

    /// Finds the layers below one disk, unless it names them.
    pub(super) async fn find_layers(&self, disk: &mut Element) -> Result<(), Error> {
        {
            let format = disk.path_attr("driver", "type").unwrap_or("raw").to_owned();
            let source = disk.path_attr("source", "file").or_else(|| disk.path_attr("source", "dev"));
            let Some(source) = source.map(str::to_owned) else {
                return Ok(());
            };
            if disk.child("backingStore").is_some() {
                return Ok(());
            }
            let mut layers = Vec::new();
            let (mut path, mut format) = (source, format);
            while matches!(format.as_str(), "qcow2" | "qcow" | "qed" | "vmdk" | "vhdx" | "vpc") {
                self.still_wanted()?;
                let Some((below, below_format)) = self.layer_below(&path, &format).await? else {
                    break;
                };
                if layers.len() >= LAYERS_MAX {
                    return Err(self.refused(&format!("disk {path} stands on more than {LAYERS_MAX} layers")));
                }
                layers.push((below.clone(), below_format.clone()));
                (path, format) = (below, below_format);
            }
            let bottom = Element::new("backingStore");
            let chain = layers.into_iter().rev().fold(bottom, |below, (path, format)| {
                Element::new("backingStore")
                    .with("type", "file")
                    .with_child(Element::new("format").with("type", format))
                    .with_child(Element::new("source").with("file", path))
                    .with_child(below)
            });
            let after = disk
                .children
                .iter()
                .position(|node| matches!(node, Node::Element(child) if child.name == "source"));
            disk.children.insert(after.map_or(0, |after| after + 1), Node::Element(chain));
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, format!("Domain '{}': {why}", self.name))
    }

    /// What stands below one image.
    async fn layer_below(&self, path: &str, format: &str) -> Result<Option<(String, String)>, Error> {
        let image = self.environment.image(&self.name, path, format).await?;
        let Some(below) = image.full_backing_filename else {
            return Ok(None);
        };
        if !Path::new(&below).is_absolute() {
            return Err(self.refused(&format!(
                "image {path} stands on {below}, which is no file of this host; name it in <backingStore>"
            )));
        }
        match image.backing_filename_format {
            Some(below_format) => Ok(Some((below, below_format))),
            None => Err(self.refused(&format!(
                "image {path} does not say of which format {below} is; set it with 'qemu-img rebase -u -F FORMAT', or name it in <backingStore>"
            ))),
        }
    }

    /// Chooses a port for each display that leaves it open. `taken` are those that turned out not to be free.
    pub(super) fn choose_ports(&self, live: &mut Element, taken: &[u16]) -> Result<Vec<u16>, Error> {
        let mut chosen = Vec::new();
        let used = self.environment.used_ports(self.uuid);
        let Some(devices) = live.child_mut("devices") else {
            return Ok(chosen);
        };
        for graphics in devices.elements_mut().filter(|device| device.name == "graphics") {
            let listens = !matches!(graphics.path_attr("listen", "type"), Some("socket" | "none"));
            if graphics.attr("type") != Some("vnc") || !listens {
                continue;
            }
            let wanted = graphics.attr("port").and_then(|port| port.parse::<u16>().ok());
            let automatic = graphics.attr("autoport") == Some("yes") || wanted.is_none();
            let port = match wanted {
                Some(port) if !automatic => port,
                _ => (FIRST_PORT..FIRST_PORT + PORTS)
                    .find(|port| !used.contains(port) && !taken.contains(port) && !chosen.contains(port))
                    .ok_or_else(|| {
                        self.refused(&format!("no port from {FIRST_PORT} on is free for its display"))
                    })?,
            };
            graphics.set("port", port.to_string());
            chosen.push(port);
        }
        Ok(chosen)
    }
}
