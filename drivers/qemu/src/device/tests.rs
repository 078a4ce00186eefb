//! Devices against stock libvirt's answers to the corpus.

use crate::domain::context::Context;
use crate::domain::host::{CountedIdentifiers, Host};
use bulkhead_wire::error::Error;
use bulkhead_xml::{Element, Limits, Node, parse};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Per kind, how many devices of accepted domains must come out as stock prints them. May only rise.
const FLOORS: &[(&str, usize)] = &[
    ("audio", 97),
    ("channel", 282),
    ("console", 188),
    ("controller", 1237),
    ("crypto", 1),
    ("disk", 990),
    ("filesystem", 16),
    ("graphics", 238),
    ("hostdev", 74),
    ("hub", 15),
    ("input", 668),
    ("interface", 440),
    ("iommu", 11),
    ("lease", 1),
    ("memballoon", 546),
    ("memory", 28),
    ("nvram", 1),
    ("panic", 24),
    ("parallel", 11),
    ("pstore", 1),
    ("redirdev", 101),
    ("redirfilter", 2),
    ("rng", 131),
    ("serial", 126),
    ("shmem", 12),
    ("smartcard", 11),
    ("sound", 92),
    ("tpm", 38),
    ("video", 218),
    ("vsock", 10),
    ("watchdog", 26),
];

/// How many refused domains are refused with stock's code and origin because of their devices. May only rise.
const REFUSED: usize = 139;

fn shared() -> Option<PathBuf> {
    let path = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let found = path.join("corpus/expected.json").is_file();
    if !found {
        println!("skipped: no corpus at {}", path.display());
    }
    found.then_some(path)
}

fn cases() -> Option<Vec<(String, Element, serde_json::Value)>> {
    let shared = shared()?;
    let text = std::fs::read(shared.join("corpus/expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut cases = Vec::new();
    for (name, case) in expected["cases"].as_object().unwrap() {
        let Some(file) = name.strip_prefix("domain/") else {
            continue;
        };
        let text = std::fs::read(shared.join(format!("corpus/domain/{file}.xml"))).unwrap();
        if let Ok(input) = parse(&text, Limits::default(), "domain/metadata") {
            cases.push((file.to_owned(), input, case["steps"].clone()));
        }
    }
    Some(cases)
}

/// Whether two elements mean the same device of a domain.
fn key(device: &Element, index: usize) -> String {
    match device.name.as_str() {
        "disk" => device.path_attr("target", "dev").unwrap_or_default().to_owned(),
        "controller" => {
            ["type", "index", "model"].map(|name| device.attr(name).unwrap_or_default()).join(" ")
        }
        _ => index.to_string(),
    }
}

/// Takes away what other modules add: assigned addresses, indices, generated names, secrets.
fn strip(device: &mut Element, ours: &Element) {
    device.take("address");
    device.unset("passwd");
    take_everywhere(device, "cookies");
    match device.name.as_str() {
        "interface" => {
            for (path, name) in [("mac", "address"), ("virtualport/parameters", "interfaceid")] {
                let generated = ours.path_attr(path, name).is_some_and(is_made_up);
                if generated && path == "mac" {
                    device.take("mac");
                } else if generated && let Some(port) = device.child_mut("virtualport") {
                    port.take("parameters");
                }
            }
        }
        // Numbers of chassis and ports follow from addresses.
        "controller" => {
            device.take("target");
        }
        "video" => {
            if let Some(model) = device.child_mut("model") {
                model.unset("primary");
            }
        }
        _ => {}
    }
}

/// Whether an identifier is one of the counted ones.
fn is_made_up(identifier: &str) -> bool {
    identifier.starts_with("52:54:00:00:0") || identifier.starts_with("00000000-0000-4000-8000-")
}

fn take_everywhere(element: &mut Element, name: &str) {
    while element.take(name).is_some() {}
    for child in element.elements_mut() {
        take_everywhere(child, name);
    }
}

fn print(element: &Element) -> String {
    element.to_xml()
}

fn trimmed(element: &mut Element) {
    let has_elements = element.elements().next().is_some();
    if has_elements {
        element.children.retain(|node| matches!(node, Node::Element(_)));
    }
    if !has_elements && element.text().trim().is_empty() {
        element.children.clear();
    }
    for child in element.elements_mut() {
        trimmed(child);
    }
}

fn differences(ours: &Element, stock: &Element, path: &str, out: &mut Vec<String>) {
    let path = format!("{path}/{}", ours.name);
    if ours.attributes != stock.attributes {
        for (name, value) in &stock.attributes {
            match ours.attr(name) {
                None => out.push(format!("{path} lacks @{name}='{value}'")),
                Some(own) if own != value => out.push(format!("{path}@{name} ours '{own}' stock '{value}'")),
                _ => {}
            }
        }
        for (name, value) in &ours.attributes {
            if stock.attr(name).is_none() {
                out.push(format!("{path} has @{name}='{value}' too much"));
            }
        }
        let order = |element: &Element| element.attributes.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        let (a, b) = (order(ours), order(stock));
        let mut sorted = (a.clone(), b.clone());
        sorted.0.sort();
        sorted.1.sort();
        if sorted.0 == sorted.1 && a != b {
            out.push(format!("{path} attribute order ours {a:?} stock {b:?}"));
        }
    }
    let names = |element: &Element| element.elements().map(|e| e.name.clone()).collect::<Vec<_>>();
    let (a, b) = (names(ours), names(stock));
    if a == b {
        for (ours, stock) in ours.elements().zip(stock.elements()) {
            differences(ours, stock, &path, out);
        }
    } else {
        let mut sorted = (a.clone(), b.clone());
        sorted.0.sort();
        sorted.1.sort();
        if sorted.0 == sorted.1 {
            out.push(format!("{path} child order ours {a:?} stock {b:?}"));
        } else {
            let extra: Vec<_> = a.iter().filter(|name| !b.contains(name)).collect();
            let missing: Vec<_> = b.iter().filter(|name| !a.contains(name)).collect();
            out.push(format!("{path} children extra {extra:?} missing {missing:?}"));
        }
    }
    if ours.elements().next().is_none() && ours.text() != stock.text() {
        out.push(format!("{path} text ours '{}' stock '{}'", ours.text(), stock.text()));
    }
}

fn host() -> Host {
    Host::qemu_10_0(Arc::new(CountedIdentifiers::default()))
}

fn context<'a>(document: &'a Element, os: &Element, host: &'a Host) -> Context<'a> {
    let arch = os.path_attr("os/type", "arch").unwrap_or("x86_64").to_owned();
    let machine = os.path_attr("os/type", "machine").unwrap_or("pc").to_owned();
    Context {
        machine: host.canonical_machine(&arch, &machine).unwrap_or(machine),
        arch,
        virt_type: document.attr("type").unwrap_or_default().to_owned(),
        os_type: os.at("os/type").map(Element::text).unwrap_or_default(),
        host,
        document,
    }
}

/// Completes and then checks all devices, as a domain does.
fn devices(document: &Element, context: &Context<'_>) -> Result<Element, Error> {
    let mut devices = Element::new("devices");
    for given in document.all("devices").flat_map(Element::elements) {
        if let Some(device) = super::complete(given, context)? {
            devices.push(device);
        }
    }
    super::character::number_ports(&mut devices);
    super::siblings::check(&devices, context)?;
    for device in devices.elements() {
        super::check(device, context)?;
    }
    super::siblings::check_for_qemu(&devices, context)?;
    Ok(devices)
}

#[test]
fn accepted_devices_come_out_as_stock_prints_them() {
    let Some(cases) = cases() else {
        return;
    };
    let mut equal: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut refused = Vec::new();
    let host = host();
    for (case, input, steps) in cases {
        let Some(dump) = steps["dump"]["out"].as_str() else {
            continue;
        };
        let dump = parse(dump.as_bytes(), Limits::default(), "domain/metadata").unwrap();
        let context = context(&input, &dump, &host);
        let Some(stock) = dump.child("devices") else {
            continue;
        };
        let ours = match devices(&input, &context) {
            Ok(ours) => ours,
            Err(error) => {
                refused.push(format!("{case}: {error}"));
                continue;
            }
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let twins: BTreeMap<(String, String), &Element> = {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            stock
                .elements()
                .map(|device| {
                    let index = counts.entry(&device.name).or_default();
                    *index += 1;
                    ((device.name.clone(), key(device, *index)), device)
                })
                .collect()
        };
        for device in ours.elements() {
            // Indices that are missing are given by the domain; USB companions share theirs.
            let shared = device.attr("type") == Some("usb")
                && !twins.contains_key(&("controller".to_owned(), key(device, 0)));
            if device.name == "controller" && (device.attr("index").is_none() || shared) {
                continue;
            }
            let index = counts.entry(&device.name).or_default();
            *index += 1;
            let score = equal.entry(device.name.clone()).or_default();
            score.1 += 1;
            let Some(twin) = twins.get(&(device.name.clone(), key(device, *index))) else {
                reasons.entry(format!("{} has no twin", device.name)).or_default().push(case.clone());
                continue;
            };
            let (mut a, mut b) = (device.clone(), (*twin).clone());
            strip(&mut a, device);
            strip(&mut b, device);
            trimmed(&mut a);
            trimmed(&mut b);
            if print(&a) == print(&b) {
                score.0 += 1;
            } else {
                let mut found = Vec::new();
                differences(&a, &b, "", &mut found);
                for reason in found {
                    reasons.entry(reason).or_default().push(case.clone());
                }
            }
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, cases)| std::cmp::Reverse(cases.len()));
    for (reason, cases) in &reasons {
        println!("{:4} {reason}   e.g. {}", cases.len(), cases.first().unwrap());
    }
    for refusal in &refused {
        println!("refused: {refusal}");
    }
    for (kind, (good, all)) in &equal {
        println!("(\"{kind}\", {good}), // of {all}");
    }
    assert!(refused.is_empty(), "{} devices of accepted domains are refused", refused.len());
    for (kind, floor) in FLOORS {
        let (good, _) = equal.get(*kind).copied().unwrap_or_default();
        assert!(good >= *floor, "{kind}: {good} devices are equal to stock's, {floor} were");
    }
}

#[test]
fn devices_that_stock_refuses_are_refused_alike() {
    let Some(cases) = cases() else {
        return;
    };
    let mut same = 0;
    let host = host();
    for (case, input, steps) in cases {
        let error = &steps["define"]["error"];
        let (Some(code), Some(origin)) = (error["code"].as_i64(), error["domain"].as_i64()) else {
            continue;
        };
        let context = context(&input, &input, &host);
        let found = devices(&input, &context).err();
        let message = error["message"].as_str().unwrap_or_default();
        match found {
            Some(found) if i64::from(found.code.0) == code && i64::from(found.origin.0) == origin => {
                same += 1;
            }
            Some(found) => println!(
                "{case}: ours {} {} {} | stock {code} {origin} {message}",
                found.code.0, found.origin.0, found.message
            ),
            None => println!("{case}: not refused | stock {code} {origin} {message}"),
        }
    }
    println!("{same} refused alike");
    assert!(same >= REFUSED, "{same} domains are refused as stock refuses them, {REFUSED} were");
}
