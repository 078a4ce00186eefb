//! What the corpus test and the `argv` example share: capabilities of the installed QEMUs, asked over QMP.

use bulkhead_qemu::args::{Paths, Rendering};
use bulkhead_qemu::capabilities::{Capabilities, HostModel, Query, Reply, queries};
use bulkhead_xml::Element;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

type Failure = Box<dyn std::error::Error>;

/// Capabilities by emulator, each asked once.
pub(crate) struct Probes {
    known: BTreeMap<(String, bool), Capabilities>,
    /// What was recorded, by domain type.
    pub(crate) host_models: BTreeMap<String, HostModel>,
}

impl Probes {
    /// The host's CPU models are facts of the machine that `answers` were recorded on; they are taken from there.
    pub(crate) fn new(answers: &Value) -> Self {
        let mut host_models = BTreeMap::new();
        for case in answers["cases"].as_object().into_iter().flat_map(|cases| cases.values()) {
            let (Some(dump), Some(native)) =
                (case["steps"]["dump"]["out"].as_str(), case["steps"]["native"]["out"].as_str())
            else {
                continue;
            };
            let Some(kind) =
                ["kvm", "qemu"].into_iter().find(|kind| dump.starts_with(&format!("<domain type='{kind}'")))
            else {
                continue;
            };
            let plain = dump.contains("<cpu mode='host-model' check='partial'/>")
                && !dump.contains("<hyperv")
                && !dump.contains("commandline")
                && !dump.contains("kvmclock");
            if host_models.contains_key(kind) || !plain {
                continue;
            }
            if let Some(model) = native.split(" -cpu ").nth(1).and_then(|rest| rest.split(' ').next()) {
                host_models.insert(kind.to_owned(), host_model(model));
            }
        }
        Self { known: BTreeMap::new(), host_models }
    }

    /// What the domain's emulator can do with the domain's accelerator.
    pub(crate) fn capabilities(&mut self, root: &Element) -> Result<&Capabilities, Failure> {
        let emulator = root.at("devices/emulator").map(Element::text).unwrap_or_default();
        let kvm = root.attr("type") == Some("kvm");
        let key = (emulator, kvm);
        if !self.known.contains_key(&key) {
            // Hosts that announce KVM may still fail at it, above all for two at a time.
            let mut capabilities = match ask(&key.0, kvm, |_| Vec::new()) {
                Err(_) if kvm => ask(&key.0, false, |_| Vec::new())?.0,
                other => other?.0,
            };
            let kind = if kvm { "kvm" } else { "qemu" };
            capabilities.host_model = self.host_models.get(kind).cloned();
            self.known.insert(key.clone(), capabilities);
        }
        Ok(&self.known[&key])
    }
}

fn host_model(text: &str) -> HostModel {
    let mut words = text.trim_matches('\'').split(',');
    HostModel {
        name: words.next().unwrap_or_default().to_owned(),
        vendor: String::new(),
        features: words
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value == "on"))
            .collect(),
    }
}

/// Asks an emulator what it can do, and then what `more` wants to know.
pub(crate) fn ask(
    emulator: &str,
    kvm: bool,
    more: fn(&Capabilities) -> Vec<Query>,
) -> Result<(Capabilities, Vec<Reply>), Failure> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut process = Command::new(emulator)
        .args([
            "-S",
            "-no-user-config",
            "-nodefaults",
            "-nographic",
            "-machine",
            if kvm { "none,accel=kvm:tcg" } else { "none,accel=tcg" },
            "-qmp",
            "stdio",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut to = process.stdin.take().ok_or("no standard input")?;
    let mut from = BufReader::new(process.stdout.take().ok_or("no standard output")?).lines();
    let mut run = |command: &str, arguments: &Value| -> Result<Reply, Failure> {
        let request = if arguments.is_null() {
            json!({"execute": command})
        } else {
            json!({"execute": command, "arguments": arguments})
        };
        // In one piece: QEMU knows a request by its last brace, and has ended before a line's end comes after it.
        to.write_all(format!("{request}\n").as_bytes())?;
        for line in from.by_ref() {
            let answer: Value = serde_json::from_str(&line?)?;
            if let Some(value) = answer.get("return") {
                return Ok(Ok(value.clone()));
            }
            if let Some(error) = answer.get("error") {
                return Ok(Err(error["desc"].as_str().unwrap_or_default().to_owned()));
            }
        }
        Err("QEMU closed its monitor".into())
    };
    run("qmp_capabilities", &Value::Null)??;
    let mut replies = Vec::new();
    for query in queries() {
        replies.push(run(query.command, &query.arguments)?);
    }
    let capabilities = Capabilities::from_replies(&replies)?;
    let mut further = Vec::new();
    for query in more(&capabilities) {
        further.push(run(query.command, &query.arguments)?);
    }
    run("quit", &Value::Null)??;
    process.wait()?;
    Ok((capabilities, further))
}

/// A domain's dump as a tree.
pub(crate) fn read_domain(dump: &str) -> Result<Element, Failure> {
    Ok(bulkhead_xml::parse(dump.as_bytes(), bulkhead_xml::Limits::default(), "domain/metadata")?)
}

/// The private places of a guest that is not started.
pub(crate) fn paths(root: &Element) -> Paths {
    let name = root.child_text("name").unwrap_or_default();
    Paths {
        guest: format!("/var/lib/libvirt/qemu/domain--1-{name}"),
        channels: format!("/run/libvirt/qemu/channel/-1-{name}"),
        memory: format!("/var/lib/libvirt/qemu/ram/-1-{name}"),
        bus: format!("/run/libvirt/qemu/dbus/-1-{name}-dbus.sock"),
        certificates: "/etc/pki/qemu".to_owned(),
        now: 1_764_000_000,
        vhost_net: false,
        incoming: false,
        rendering: Rendering::Native,
    }
}
