//! Parts of a command line as commands of the monitor: a device that is added to a guest that runs is what it would have
//! been from the start.
//!
//! QEMU may open nothing then that it could not open at its start. Files are handed over in sets of descriptors
//! (`/dev/fdset/N`), sockets and taps under a name.

use super::builder::{invalid, unsupported};
use super::option;
use super::{DescriptorUse, Purpose};
use bulkhead_wire::control::FilePurpose;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A file that QEMU is handed before a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) opening: FilePurpose,
    /// Past the host's cache.
    pub(crate) direct: bool,
    /// By what the set of descriptors is known: who uses it.
    pub(crate) owner: String,
    /// Where in the command's arguments the path stands.
    pub(crate) pointer: &'static str,
}

/// A socket or tap that QEMU is handed before a command, under a name that stands in its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) purpose: Purpose,
}

/// One command, and how it is undone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) command: &'static str,
    pub(crate) arguments: Value,
    pub(crate) files: Vec<File>,
    pub(crate) named: Vec<Named>,
    pub(crate) undo: (&'static str, Value),
}

impl Step {
    /// Is it the device itself, and not something behind it?
    pub(crate) fn is_device(&self) -> bool {
        self.command == "device_add"
    }

    fn new(command: &'static str, arguments: Value, undo: (&'static str, Value)) -> Self {
        Self { command, arguments, files: Vec::new(), named: Vec::new(), undo }
    }
}

/// The commands for the parts of one device.
///
/// # Errors
/// What QEMU takes at its start alone.
pub(crate) fn steps(
    device: &Element,
    arguments: &[String],
    descriptors: &[DescriptorUse],
) -> Result<Vec<Step>, Error> {
    let mut reader = Reader { device, descriptors, sets: BTreeMap::new() };
    let mut steps = Vec::new();
    for pair in arguments.chunks(2) {
        let [name, value] = pair else {
            return Err(invalid("An option of QEMU lacks its value"));
        };
        match name.as_str() {
            "-add-fd" => reader.set(value)?,
            "-blockdev" => steps.push(reader.block(object(value)?)?),
            "-object" => steps.push(reader.object(object(value)?)?),
            "-netdev" => steps.push(reader.network(object(value)?)?),
            "-chardev" => steps.push(reader.character(value)?),
            "-device" => {
                let arguments = object(value)?;
                let undo = ("device_del", json!({ "id": arguments.get("id") }));
                steps.push(Step::new("device_add", Value::Object(arguments), undo));
            }
            other => {
                return Err(unsupported(format!(
                    "A <{}> like this is a part of the machine ({other}) and can't be added while it runs; change the definition",
                    device.name
                )));
            }
        }
    }
    Ok(steps)
}

/// What is behind a device in QEMU, by its options, in the order in which it is removed, and by what sets of descriptors of it
/// are known.
pub(crate) fn behind(alias: &str, arguments: &[String]) -> (Vec<(&'static str, Value)>, Vec<String>) {
    let mut undos = Vec::new();
    let mut owners = vec![format!("{alias}-source"), format!("{alias}-log")];
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { continue };
        let text = |key: &str| Some(object(value).ok()?.get(key)?.as_str()?.to_owned());
        let (command, key, id) = match name.as_str() {
            "-blockdev" => ("blockdev-del", "node-name", text("node-name")),
            "-object" => ("object-del", "id", text("id")),
            "-netdev" => ("netdev_del", "id", text("id")),
            "-chardev" => {
                let id = option::read(value).into_iter().find(|(key, _)| key == "id");
                ("chardev-remove", "id", id.map(|(_, id)| id))
            }
            _ => continue,
        };
        if let Some(id) = id {
            undos.push((command, json!({ key: id })));
            owners.push(id);
        }
    }
    undos.reverse();
    (undos, owners)
}

fn object(text: &str) -> Result<Map<String, Value>, Error> {
    serde_json::from_str(text).map_err(|error| invalid(format!("An option of QEMU is no JSON: {error}")))
}

/// What the numbers in the options stand for.
struct Reader<'a> {
    device: &'a Element,
    descriptors: &'a [DescriptorUse],
    /// The descriptor of each set.
    sets: BTreeMap<String, u32>,
}

impl Reader<'_> {
    fn set(&mut self, value: &str) -> Result<(), Error> {
        let list = option::read(value);
        let part = |wanted: &str| list.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone());
        match (part("set"), part("fd").and_then(|number| number.parse().ok())) {
            (Some(set), Some(number)) => {
                self.sets.insert(set, number);
                Ok(())
            }
            _ => Err(invalid("A set of descriptors has no number")),
        }
    }

    fn purpose(&self, number: &str) -> Result<&Purpose, Error> {
        let number: Option<u32> = number.parse().ok();
        self.descriptors
            .iter()
            .find(|used| Some(used.number) == number)
            .map(|used| &used.purpose)
            .ok_or_else(|| invalid("An option of QEMU names a descriptor that there is not"))
    }

    /// The file behind `/dev/fdset/N`.
    fn output(&self, path: &str, owner: &str, pointer: &'static str) -> Result<File, Error> {
        let number = path.strip_prefix("/dev/fdset/").and_then(|set| self.sets.get(set));
        let purpose = number.map(|number| self.purpose(&number.to_string())).transpose()?;
        let (element, attribute, kind) = match purpose {
            Some(Purpose::File { .. }) => (self.device.child("source"), "path", "source"),
            Some(Purpose::Log { .. }) => (self.device.child("log"), "file", "log"),
            _ => return Err(unsupported(format!("File {path} can't be handed to a guest that runs"))),
        };
        let path = element
            .and_then(|element| element.attr(attribute))
            .ok_or_else(|| invalid(format!("Character device {owner} names no file")))?;
        let append = element.and_then(|element| element.attr("append")) == Some("on");
        Ok(File {
            path: PathBuf::from(path),
            opening: if append { FilePurpose::Append } else { FilePurpose::Fill },
            direct: false,
            owner: format!("{owner}-{kind}"),
            pointer,
        })
    }

    fn block(&self, arguments: Map<String, Value>) -> Result<Step, Error> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).map(str::to_owned);
        let node = text("node-name").ok_or_else(|| invalid("A block node has no name"))?;
        let mut files = Vec::new();
        match (text("driver").as_deref(), text("filename")) {
            (Some("file" | "host_device" | "host_cdrom"), Some(path)) => {
                let writes = arguments.get("read-only") == Some(&Value::Bool(false));
                files.push(File {
                    path: PathBuf::from(path),
                    opening: if writes { FilePurpose::Change } else { FilePurpose::Read },
                    direct: arguments.get("cache").and_then(|cache| cache.get("direct"))
                        == Some(&Value::Bool(true)),
                    owner: node.clone(),
                    pointer: "/filename",
                });
            }
            (Some("raw" | "qcow2" | "qcow" | "qed" | "vmdk" | "vpc" | "vdi" | "vhdx" | "luks"), _)
            | (Some("bochs" | "cloop" | "dmg" | "parallels" | "copy-on-read" | "throttle"), _) => {}
            (driver, _) => {
                return Err(unsupported(format!(
                    "Storage of type '{}' can't be added to a guest that runs; add it to the definition",
                    driver.unwrap_or_default()
                )));
            }
        }
        let undo = ("blockdev-del", json!({ "node-name": node }));
        Ok(Step { files, ..Step::new("blockdev-add", Value::Object(arguments), undo) })
    }

    fn object(&self, arguments: Map<String, Value>) -> Result<Step, Error> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
        let id = text("id").to_owned();
        let mut files = Vec::new();
        match text("qom-type") {
            "rng-random" => files.push(File {
                path: PathBuf::from(text("filename")),
                opening: FilePurpose::Read,
                direct: false,
                owner: id.clone(),
                pointer: "/filename",
            }),
            "rng-builtin" | "rng-egd" | "memory-backend-ram" | "memory-backend-memfd" => {}
            other => {
                return Err(unsupported(format!(
                    "<{}>: what QEMU calls {other} can't be handed to a guest that runs; add it to the definition",
                    self.device.name
                )));
            }
        }
        let undo = ("object-del", json!({ "id": id }));
        Ok(Step { files, ..Step::new("object-add", Value::Object(arguments), undo) })
    }

    fn network(&self, mut arguments: Map<String, Value>) -> Result<Step, Error> {
        let mut named = Vec::new();
        for (key, kind) in
            [("fd", "tapfd"), ("fds", "tapfd"), ("vhostfd", "vhostfd"), ("vhostfds", "vhostfd")]
        {
            let Some(Value::String(numbers)) = arguments.get(key) else {
                continue;
            };
            let mut names = Vec::new();
            for number in numbers.split(':') {
                let purpose = self.purpose(number)?.clone();
                let (Purpose::Tap { alias, queue } | Purpose::VhostNet { alias, queue }) = &purpose else {
                    return Err(unsupported("Such an interface can't be added to a guest that runs"));
                };
                let name = format!("{kind}-{alias}{queue}");
                names.push(name.clone());
                named.push(Named { name, purpose });
            }
            arguments.insert(key.to_owned(), Value::String(names.join(":")));
        }
        match arguments.get("type").and_then(Value::as_str) {
            Some("tap" | "user") => {}
            other => {
                return Err(unsupported(format!(
                    "An interface that QEMU connects as '{}' can't be added to a guest that runs",
                    other.unwrap_or_default()
                )));
            }
        }
        let undo = ("netdev_del", json!({ "id": arguments.get("id") }));
        Ok(Step { named, ..Step::new("netdev_add", Value::Object(arguments), undo) })
    }

    fn character(&self, value: &str) -> Result<Step, Error> {
        let list = option::read(value);
        let kind = list.first().map(|(kind, _)| kind.as_str()).unwrap_or_default();
        let text = |wanted: &str| {
            list.iter().skip(1).find(|(key, _)| key == wanted).map(|(_, value)| value.as_str())
        };
        let switch = |wanted: &str| text(wanted).map(|value| value == "on");
        let id = text("id").ok_or_else(|| invalid("A character device has no id"))?.to_owned();
        let (mut files, mut named) = (Vec::new(), Vec::new());
        let owner = id.strip_prefix("char").unwrap_or(&id).to_owned();
        let mut data = Map::new();
        let kind = match (kind, text("fd")) {
            ("null" | "pty" | "vc", _) => kind,
            ("spicevmc", _) => {
                data.insert("type".to_owned(), json!(text("name")));
                kind
            }
            ("spiceport", _) => {
                data.insert("fqdn".to_owned(), json!(text("name")));
                kind
            }
            ("dbus", _) => {
                data.insert("name".to_owned(), json!(text("name")));
                kind
            }
            ("qemu-vdagent", _) => {
                for key in ["mouse", "clipboard"] {
                    if let Some(on) = switch(key) {
                        data.insert(key.to_owned(), json!(on));
                    }
                }
                kind
            }
            ("file", _) => {
                files.push(self.output(text("path").unwrap_or_default(), &owner, "/backend/data/out")?);
                data.insert("append".to_owned(), json!(true));
                kind
            }
            ("socket", Some(number)) => {
                // A socket that is listened on is the broker's to make; what is connected to may be anywhere.
                let purpose = self.purpose(number)?.clone();
                let server = switch("server") == Some(true) && self.device.attr("type") == Some("unix");
                if !server || !matches!(purpose, Purpose::Character { .. }) {
                    return Err(not_handed(self.device));
                }
                let name = format!("{owner}-source");
                data.insert("addr".to_owned(), json!({ "type": "fd", "data": { "str": name } }));
                data.insert("server".to_owned(), json!(true));
                data.insert("wait".to_owned(), json!(false));
                named.push(Named { name, purpose });
                kind
            }
            _ => return Err(not_handed(self.device)),
        };
        if let Some(log) = text("logfile") {
            files.push(self.output(log, &owner, "/backend/data/logfile")?);
            data.insert("logappend".to_owned(), json!(true));
        }
        let arguments = json!({ "id": id, "backend": { "type": kind, "data": data } });
        let undo = ("chardev-remove", json!({ "id": id }));
        Ok(Step { files, named, ..Step::new("chardev-add", arguments, undo) })
    }
}

fn not_handed(device: &Element) -> Error {
    unsupported(format!(
        "<{}> of type '{}': QEMU opens that itself, which it may not do while it runs; add it to the definition, or use type 'unix' with mode 'bind', 'pty', 'file' or 'null'",
        device.name,
        device.attr("type").unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Element {
        bulkhead_xml::parse(text.as_bytes(), bulkhead_xml::Limits::default(), "").unwrap()
    }

    fn option(name: &str, value: &str) -> Vec<String> {
        vec![name.to_owned(), value.to_owned()]
    }

    #[test]
    fn options_become_commands_with_their_opposites() {
        let device = tree("<channel type='file'><source path='/a,b'/><log file='/l' append='on'/></channel>");
        let descriptors = [
            DescriptorUse { purpose: Purpose::File { alias: "channel0".to_owned() }, number: 3 },
            DescriptorUse { purpose: Purpose::Log { alias: "channel0".to_owned() }, number: 4 },
        ];
        let arguments = [
            option("-add-fd", "set=0,fd=3,opaque=channel0-source"),
            option("-add-fd", "set=1,fd=4,opaque=channel0-log"),
            option(
                "-chardev",
                "file,id=charchannel0,path=/dev/fdset/0,append=on,logfile=/dev/fdset/1,logappend=on",
            ),
            option("-device", r#"{"driver":"virtserialport","id":"channel0"}"#),
        ]
        .concat();
        let steps = steps(&device, &arguments, &descriptors).unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(
            steps[0].arguments,
            json!({"id": "charchannel0", "backend": {"type": "file", "data": {"append": true, "logappend": true}}})
        );
        let files: Vec<_> =
            steps[0].files.iter().map(|file| (file.path.to_str().unwrap(), file.opening)).collect();
        assert_eq!(files, [("/a,b", FilePurpose::Fill), ("/l", FilePurpose::Append)]);
        assert_eq!(steps[0].undo, ("chardev-remove", json!({"id": "charchannel0"})));
        assert_eq!((steps[1].command, steps[1].undo.0), ("device_add", "device_del"));
    }

    #[test]
    fn what_is_opened_for_writing_is_handed_over_so() {
        let disk = tree("<disk/>");
        let node = |text: &str| steps(&disk, &option("-blockdev", text), &[]);
        let writes = node(
            r#"{"driver":"file","filename":"/d","node-name":"n","read-only":false,"cache":{"direct":true}}"#,
        );
        let file = writes.unwrap().remove(0).files.remove(0);
        assert_eq!((file.opening, file.direct, file.owner.as_str()), (FilePurpose::Change, true, "n"));
        let reads = node(r#"{"driver":"file","filename":"/d","node-name":"n","auto-read-only":true}"#);
        assert_eq!(reads.unwrap().remove(0).files.remove(0).opening, FilePurpose::Read);
        assert!(node(r#"{"driver":"nbd","node-name":"n"}"#).is_err());
    }

    #[test]
    fn sockets_and_taps_have_the_names_that_libvirt_gives_them() {
        let device = tree("<interface type='ethernet'/>");
        let tap = |queue, number| DescriptorUse {
            purpose: Purpose::Tap { alias: "net1".to_owned(), queue },
            number,
        };
        let text = r#"{"type":"tap","fds":"3:4","id":"hostnet1"}"#;
        let step = steps(&device, &option("-netdev", text), &[tap(0, 3), tap(1, 4)]).unwrap().remove(0);
        assert_eq!(step.arguments["fds"], "tapfd-net10:tapfd-net11");
        assert_eq!(step.named.len(), 2);
        assert!(steps(&device, &option("-netdev", text), &[tap(0, 3)]).is_err());
    }
}
