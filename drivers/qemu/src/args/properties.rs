//! What must hold for any definition, however broken or hostile.

use super::{Paths, Rendering, build};
use crate::capabilities::{Capabilities, Machine, Version};
use bulkhead_xml::{Element, Node};
use std::collections::{BTreeMap, BTreeSet};

const DOMAIN: &str = include_str!("properties.xml");

/// Values that have broken programs before.
const HOSTILE: [&str; 14] = [
    "",
    "-1",
    "0x",
    "99999999999999999999999",
    "18446744073709551615",
    "zzz,zq=1",
    "a\"}, \"b\":\"c",
    "line\nbreak",
    "../../etc",
    "0-4294967295",
    "é\u{202e}",
    "/",
    ",",
    "\u{0}",
];

fn capabilities() -> Capabilities {
    let machine = |name: &str| Machine {
        name: name.to_owned(),
        alias: None,
        default: false,
        cpu_max: 255,
        hotpluggable_cpus: true,
        numa: true,
        deprecated: false,
        default_cpu: None,
        default_ram_id: Some("pc.ram".to_owned()),
        acpi: None,
    };
    Capabilities {
        version: Version::new(10, 0),
        target: "x86_64".to_owned(),
        kvm: false,
        machines: vec![machine("pc-q35-10.0")],
        types: BTreeSet::new(),
        properties: BTreeMap::new(),
        options: BTreeMap::new(),
        cpus: Vec::new(),
        cpu_features: BTreeSet::new(),
        vendor: String::new(),
        host_model: None,
    }
}

fn paths(rendering: Rendering) -> Paths {
    Paths {
        guest: "/run/guest".to_owned(),
        channels: "/run/channels".to_owned(),
        memory: "/run/memory".to_owned(),
        bus: "/run/bus.sock".to_owned(),
        certificates: "/etc/certificates".to_owned(),
        now: 0,
        vhost_net: true,
        incoming: false,
        rendering,
    }
}

fn domain() -> Element {
    bulkhead_xml::parse(DOMAIN.as_bytes(), bulkhead_xml::Limits::default(), "domain/metadata").unwrap()
}

fn count(element: &Element) -> usize {
    1 + element.elements().map(count).sum::<usize>()
}

/// The element of that number in document order.
fn pick<'a>(element: &'a mut Element, number: &mut usize) -> Option<&'a mut Element> {
    if *number == 0 {
        return Some(element);
    }
    *number -= 1;
    for child in element.elements_mut() {
        if let Some(found) = pick(child, number) {
            return Some(found);
        }
    }
    None
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

fn mutate(root: &mut Element, random: &mut Random) {
    let mut number = random.below(count(root));
    let Some(element) = pick(root, &mut number) else {
        return;
    };
    let value = HOSTILE[random.below(HOSTILE.len())].to_owned();
    match random.below(5) {
        0 if !element.attributes.is_empty() => {
            let index = random.below(element.attributes.len());
            element.attributes.remove(index);
        }
        1 if !element.children.is_empty() => {
            let index = random.below(element.children.len());
            element.children.remove(index);
        }
        2 if !element.children.is_empty() => {
            let index = random.below(element.children.len());
            let copy = element.children[index].clone();
            element.children.push(copy);
        }
        3 => element.children = vec![Node::Text(value)],
        _ if !element.attributes.is_empty() => {
            let index = random.below(element.attributes.len());
            element.attributes[index].1 = value;
        }
        _ => {}
    }
}

#[test]
fn the_sample_is_whole() {
    for rendering in [Rendering::Native, Rendering::Launch] {
        build(&domain(), &capabilities(), &paths(rendering)).unwrap();
    }
}

#[test]
fn broken_definitions_are_answered() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..1500 {
        let mut root = domain();
        for _ in 0..=random.below(4) {
            mutate(&mut root, &mut random);
        }
        for rendering in [Rendering::Native, Rendering::Launch] {
            if let Ok(line) = build(&root, &capabilities(), &paths(rendering)) {
                let size: usize = line.arguments.iter().map(String::len).sum();
                assert!(size < 1 << 20, "{size} bytes of arguments");
            }
        }
    }
}

/// Puts the same text in place of each attribute and each text, one at a time.
fn replacements(root: &Element, value: &str) -> Vec<Element> {
    let mut made = Vec::new();
    for number in 0..count(root) {
        let attributes =
            pick(&mut root.clone(), &mut number.clone()).map_or(0, |element| element.attributes.len());
        for index in 0..=attributes {
            let mut copy = root.clone();
            let element = pick(&mut copy, &mut number.clone()).unwrap();
            if let Some((_, text)) = element.attributes.get_mut(index) {
                value.clone_into(text);
            } else if element.elements().next().is_none() {
                element.set_text(value);
            } else {
                continue;
            }
            made.push(copy);
        }
    }
    made
}

#[test]
fn a_comma_adds_no_property() {
    let mut seen = 0;
    for root in replacements(&domain(), "zzz,zq=1") {
        for rendering in [Rendering::Native, Rendering::Launch] {
            let Ok(line) = build(&root, &capabilities(), &paths(rendering)) else {
                continue;
            };
            let mut previous = "";
            for argument in &line.arguments {
                let json = argument.starts_with('{');
                let whole = matches!(previous, "-append" | "-kernel" | "-initrd" | "-dtb" | "-bios");
                if !json && !whole && argument.contains("zq=1") {
                    seen += 1;
                    let escaped = argument.replace(",,", "");
                    assert!(!escaped.contains(",zq=1"), "{previous} {argument}");
                }
                if json {
                    serde_json::from_str::<serde_json::Value>(argument).unwrap();
                }
                previous = argument;
            }
        }
    }
    assert!(seen >= 40, "only {seen} values were looked at");
}

#[test]
fn control_characters_reach_no_plain_option() {
    for root in replacements(&domain(), "zzz\nzq") {
        for rendering in [Rendering::Native, Rendering::Launch] {
            if let Ok(line) = build(&root, &capabilities(), &paths(rendering)) {
                assert!(!line.arguments.iter().any(|argument| argument.contains('\n')));
            }
        }
    }
}

#[test]
fn a_disk_path_is_only_a_path() {
    let plain = build(&domain(), &capabilities(), &paths(Rendering::Native)).unwrap();
    for path in ["/a,readonly=off", "/a\",\"read-only\":false,\"x\":\"", "/a\nb", "/a\\\"", "/a'$(id)"] {
        let mut root = domain();
        let disk = root.child_mut("devices").unwrap().child_mut("disk").unwrap();
        disk.child_mut("source").unwrap().set("file", path);
        let line = build(&root, &capabilities(), &paths(Rendering::Native)).unwrap();
        let changed: Vec<_> =
            plain.arguments.iter().zip(&line.arguments).filter(|(one, two)| one != two).collect();
        assert_eq!(plain.arguments.len(), line.arguments.len());
        assert_eq!(changed.len(), 1, "{changed:?}");
        let node: serde_json::Value = serde_json::from_str(changed[0].1).unwrap();
        let before: serde_json::Value = serde_json::from_str(changed[0].0).unwrap();
        assert_eq!(node["filename"], path);
        assert_eq!(node.as_object().unwrap().len(), before.as_object().unwrap().len());
    }
}
