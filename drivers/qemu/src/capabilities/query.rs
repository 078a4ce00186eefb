//! The questions and how the answers are read.

use super::host_model::vendor_of;
use super::{Capabilities, Cpu, Machine, Version};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A QMP command to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The command.
    pub command: &'static str,
    /// Its arguments; `Null` for none.
    pub arguments: Value,
}

/// What QEMU answered to one query: the content of `return`, or the description of its error.
pub type Reply = Result<Value, String>;

/// Why the replies of a QEMU can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// There must be one reply for each query.
    #[error("QEMU gave {found} answers to {expected} questions; was the probe cut short?")]
    Count {
        /// Queries asked.
        expected: usize,
        /// Replies found.
        found: usize,
    },
    /// A query that every QEMU can answer failed.
    #[error("QEMU refused {command}: {message}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's reason, shortened.
        message: String,
    },
    /// A reply is not of the documented shape.
    #[error("QEMU's answer to {command} lacks a usable `{member}`")]
    Shape {
        /// The command.
        command: &'static str,
        /// What is missing or of the wrong type.
        member: &'static str,
    },
    /// A reply is larger than any real one.
    #[error("QEMU's answer to {command} has more than {limit} entries")]
    TooLarge {
        /// The command.
        command: &'static str,
        /// The most entries taken.
        limit: usize,
    },
}

/// Real ones: about 100 machine types, 700 CPU models, 2000 types, 300 properties of one type.
const MOST_ENTRIES: usize = 20_000;
/// Real names are far below.
const LONGEST_NAME: usize = 256;

/// Types whose properties decide how an option is written.
const ASKED_TYPES: [&str; 9] = [
    "virtio-blk-pci",
    "virtio-net-pci",
    "virtio-scsi-pci",
    "virtio-balloon-pci",
    "virtio-gpu-pci",
    "vfio-pci",
    "usb-host",
    "scsi-hd",
    "qxl",
];

/// The commands to run, in this order, after `qmp_capabilities`.
#[must_use]
pub fn queries() -> Vec<Query> {
    let plain = |command| Query { command, arguments: Value::Null };
    let mut queries = vec![
        plain("query-version"),
        plain("query-target"),
        plain("query-kvm"),
        plain("query-machines"),
        Query { command: "qom-list-types", arguments: json!({"abstract": false}) },
        plain("query-command-line-options"),
        plain("query-cpu-definitions"),
        Query {
            command: "query-cpu-model-expansion",
            arguments: json!({"type": "full", "model": {"name": "max"}}),
        },
    ];
    queries.extend(
        ASKED_TYPES
            .iter()
            .map(|name| Query { command: "device-list-properties", arguments: json!({"typename": name}) }),
    );
    queries
}

impl Capabilities {
    /// Reads the replies to [`queries`], one for each, in order.
    ///
    /// # Errors
    /// Replies that are missing, of another shape than documented, or larger than any real one.
    pub fn from_replies(replies: &[Reply]) -> Result<Self, ReplyError> {
        let expected = queries().len();
        let [version, target, kvm, machines, types, options, cpus, best, properties @ ..] = replies else {
            return Err(ReplyError::Count { expected, found: replies.len() });
        };
        if replies.len() != expected {
            return Err(ReplyError::Count { expected, found: replies.len() });
        }
        let mut of_types = BTreeMap::new();
        for (name, reply) in ASKED_TYPES.iter().zip(properties) {
            // A binary without the device answers with an error.
            if let Ok(list) = reply {
                of_types.insert((*name).to_owned(), names("device-list-properties", list)?);
            }
        }
        Ok(Self {
            version: read_version(required("query-version", version)?)?,
            target: name("query-target", required("query-target", target)?, "arch")?,
            kvm: kvm.as_ref().is_ok_and(|value| value["enabled"].as_bool().unwrap_or(false)),
            machines: list("query-machines", required("query-machines", machines)?)?
                .iter()
                .map(machine)
                .collect::<Result<_, _>>()?,
            types: names("qom-list-types", required("qom-list-types", types)?)?,
            properties: of_types,
            options: read_options(required("query-command-line-options", options)?)?,
            // Some targets have no such query.
            cpus: match cpus {
                Ok(value) => {
                    list("query-cpu-definitions", value)?.iter().map(cpu).collect::<Result<_, _>>()?
                }
                Err(_) => Vec::new(),
            },
            cpu_features: match best {
                Ok(value) => features(value)?,
                Err(_) => BTreeSet::new(),
            },
            vendor: best.as_ref().map(vendor_of).unwrap_or_default(),
            host_model: None,
        })
    }
}

fn required<'a>(command: &'static str, reply: &'a Reply) -> Result<&'a Value, ReplyError> {
    reply.as_ref().map_err(|message| ReplyError::Refused {
        command,
        message: message.chars().take(LONGEST_NAME).collect(),
    })
}

fn list<'a>(command: &'static str, value: &'a Value) -> Result<&'a [Value], ReplyError> {
    let list = value.as_array().ok_or(ReplyError::Shape { command, member: "list" })?;
    if list.len() > MOST_ENTRIES {
        return Err(ReplyError::TooLarge { command, limit: MOST_ENTRIES });
    }
    Ok(list)
}

fn name(command: &'static str, value: &Value, member: &'static str) -> Result<String, ReplyError> {
    optional_name(value, member).ok_or(ReplyError::Shape { command, member })
}

fn optional_name(value: &Value, member: &str) -> Option<String> {
    value[member].as_str().filter(|text| !text.is_empty() && text.len() <= LONGEST_NAME).map(str::to_owned)
}

fn names(command: &'static str, value: &Value) -> Result<BTreeSet<String>, ReplyError> {
    list(command, value)?.iter().map(|entry| name(command, entry, "name")).collect()
}

fn read_version(value: &Value) -> Result<Version, ReplyError> {
    let number = |member: &'static str| {
        value["qemu"][member]
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or(ReplyError::Shape { command: "query-version", member })
    };
    Ok(Version { major: number("major")?, minor: number("minor")?, micro: number("micro")? })
}

fn machine(value: &Value) -> Result<Machine, ReplyError> {
    let flag = |member: &str| value[member].as_bool().unwrap_or(false);
    let default_cpu = optional_name(value, "default-cpu-type");
    Ok(Machine {
        name: name("query-machines", value, "name")?,
        alias: optional_name(value, "alias"),
        default: flag("is-default"),
        cpu_max: value["cpu-max"].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(1),
        hotpluggable_cpus: flag("hotpluggable-cpus"),
        numa: flag("numa-mem-supported"),
        deprecated: flag("deprecated"),
        default_cpu,
        default_ram_id: optional_name(value, "default-ram-id"),
        acpi: value["acpi"].as_bool(),
    })
}

fn cpu(value: &Value) -> Result<Cpu, ReplyError> {
    const COMMAND: &str = "query-cpu-definitions";
    let unavailable = match value.get("unavailable-features") {
        None => None,
        Some(features) => Some(
            list(COMMAND, features)?
                .iter()
                .filter_map(Value::as_str)
                .filter(|feature| feature.len() <= LONGEST_NAME)
                .map(str::to_owned)
                .collect(),
        ),
    };
    Ok(Cpu {
        name: name(COMMAND, value, "name")?,
        // Aliases of models have no type of their own.
        type_name: optional_name(value, "typename").unwrap_or_default(),
        unavailable,
        deprecated: value["deprecated"].as_bool().unwrap_or(false),
        alias_of: optional_name(value, "alias-of"),
    })
}

pub(super) fn features(value: &Value) -> Result<BTreeSet<String>, ReplyError> {
    const COMMAND: &str = "query-cpu-model-expansion";
    let properties =
        value["model"]["props"].as_object().ok_or(ReplyError::Shape { command: COMMAND, member: "props" })?;
    if properties.len() > MOST_ENTRIES {
        return Err(ReplyError::TooLarge { command: COMMAND, limit: MOST_ENTRIES });
    }
    Ok(properties
        .iter()
        .filter(|(name, value)| value.as_bool() == Some(true) && name.len() <= LONGEST_NAME)
        .map(|(name, _)| name.clone())
        .collect())
}

fn read_options(value: &Value) -> Result<BTreeMap<String, BTreeSet<String>>, ReplyError> {
    const COMMAND: &str = "query-command-line-options";
    // Some entries have no name: they are options that nobody can give.
    list(COMMAND, value)?
        .iter()
        .filter_map(|entry| Some((optional_name(entry, "option")?, entry)))
        .map(|(option, entry)| Ok((option, names(COMMAND, &entry["parameters"])?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies() -> Vec<Reply> {
        let mut replies: Vec<Reply> = vec![
            Ok(json!({"qemu": {"major": 7, "minor": 2, "micro": 9}, "package": ""})),
            Ok(json!({"arch": "x86_64"})),
            Ok(json!({"enabled": false, "present": true})),
            Ok(json!([{"name": "pc-q35-7.2", "alias": "q35", "cpu-max": 288, "hotpluggable-cpus": true,
                "numa-mem-supported": true, "deprecated": false, "default-cpu-type": "qemu64-x86_64-cpu", "default-ram-id": "pc.ram"}])),
            Ok(json!([{"name": "virtio-blk-pci", "parent": "x"}])),
            Ok(json!([{"option": "sandbox", "parameters": [{"name": "enable", "type": "boolean"}]}])),
            Ok(json!([{"name": "qemu64", "typename": "qemu64-x86_64-cpu", "unavailable-features": ["svm"]}])),
        ];
        replies.push(Ok(json!({"model": {"name": "base", "props": {"sse2": true, "vmx": false}}})));
        replies.push(Ok(json!([{"name": "packed", "type": "bool"}])));
        replies.resize(queries().len(), Err("Device not found".to_owned()));
        replies
    }

    #[test]
    fn reads_an_old_qemu() {
        let capabilities = Capabilities::from_replies(&replies()).unwrap();
        assert!(capabilities.at_least(7, 2) && !capabilities.at_least(8, 0));
        assert_eq!(capabilities.machine("q35").unwrap().name, "pc-q35-7.2");
        assert!(capabilities.has_property("virtio-blk-pci", "packed"));
        assert!(!capabilities.has_property("vfio-pci", "packed"));
        assert!(capabilities.cpu_features.contains("sse2") && !capabilities.cpu_features.contains("vmx"));
        assert!(capabilities.has_option("sandbox", "enable"));
        let text = serde_json::to_string(&capabilities).unwrap();
        assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), capabilities);
    }

    #[test]
    fn refuses_what_no_qemu_says() {
        assert!(matches!(Capabilities::from_replies(&[]), Err(ReplyError::Count { found: 0, .. })));
        for index in 0..queries().len() {
            let mut bad = replies();
            bad[index] = Ok(json!("x"));
            let optional = queries()[index].command == "query-kvm";
            assert_eq!(Capabilities::from_replies(&bad).is_ok(), optional, "reply {index}");
        }
        let mut huge = replies();
        huge[4] = Ok(Value::Array(vec![json!({"name": "x"}); MOST_ENTRIES + 1]));
        assert!(matches!(Capabilities::from_replies(&huge), Err(ReplyError::TooLarge { .. })));
        let mut long = replies();
        long[1] = Ok(json!({"arch": "x".repeat(LONGEST_NAME + 1)}));
        assert!(matches!(Capabilities::from_replies(&long), Err(ReplyError::Shape { .. })));
    }
}
