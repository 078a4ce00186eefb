//! Command lines against those that stock libvirt made from the same definitions.

#[path = "probe/canonical.rs"]
mod canonical;
mod probe;

use bulkhead_qemu::args::{Paths, Rendering, build};
use canonical::{Canonical, split};
use probe::{Probes, paths, read_domain};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// How many of the corpus' command lines are equal. It may only rise.
const FLOOR: usize = 783;

/// What stock libvirt answered, if the corpus is at hand.
fn answers() -> Option<Value> {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let text = std::fs::read(shared.join("corpus/expected.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The guest's folders as the recorded line has them: stock shortens names.
fn recorded_paths(native: &str, mut paths: Paths) -> Paths {
    let home = split(native).into_iter().find_map(|word| word.strip_prefix("HOME=").map(str::to_owned));
    if let Some((_, name)) = home.as_deref().and_then(|home| home.split_once("/domain-")) {
        paths.guest = home.clone().unwrap_or_default();
        paths.channels = format!("/run/libvirt/qemu/channel/{name}");
        paths.bus = format!("/run/libvirt/qemu/dbus/{name}-dbus.sock");
        paths.memory = format!("/var/lib/libvirt/qemu/ram/{name}");
    }
    paths
}

#[test]
fn equals_stock() {
    let Some(answers) = answers() else {
        println!("skipped: the corpus is not at hand");
        return;
    };
    let mut probes = Probes::new(&answers);
    let (mut equal, mut total) = (0, 0);
    for (name, case) in answers["cases"].as_object().unwrap() {
        let steps = &case["steps"];
        let Some(native) = steps["native"]["out"].as_str().filter(|_| name.starts_with("domain/")) else {
            continue;
        };
        let dump = steps["secure"]["out"].as_str().or(steps["dump"]["out"].as_str()).unwrap();
        let root = read_domain(dump).unwrap();
        let capabilities = match probes.capabilities(&root) {
            Ok(capabilities) => capabilities,
            Err(error) => {
                println!("skipped: {name}'s emulator can't be asked: {error}");
                return;
            }
        };
        total += 1;
        let given: BTreeSet<String> = case["given"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|id| id.as_str().map(str::to_owned))
            .collect();
        match build(&root, capabilities, &recorded_paths(native, paths(&root))) {
            Ok(line) => {
                let mut words: Vec<String> =
                    line.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
                words.push(line.program);
                words.extend(line.arguments);
                let ours = Canonical::new(&words, &given);
                let theirs = Canonical::new(&split(native), &given);
                if ours == theirs {
                    equal += 1;
                } else {
                    println!("{name}: {}", ours.difference(&theirs));
                }
            }
            Err(error) => println!("{name}: {error}"),
        }
    }
    println!("{equal} of {total} command lines are equal");
    assert!(equal >= FLOOR, "{equal} of {total} command lines are equal; it were {FLOOR}");
}

#[test]
fn started_guests_inherit_their_sockets() {
    let Some(answers) = answers() else {
        println!("skipped: the corpus is not at hand");
        return;
    };
    let mut probes = Probes::new(&answers);
    for (name, case) in answers["cases"].as_object().unwrap() {
        let Some(dump) = case["steps"]["dump"]["out"].as_str().filter(|_| name.starts_with("domain/")) else {
            continue;
        };
        let root = read_domain(dump).unwrap();
        let Ok(capabilities) = probes.capabilities(&root) else {
            println!("skipped: {name}'s emulator can't be asked");
            continue;
        };
        let mut paths = paths(&root);
        paths.rendering = Rendering::Launch;
        let Ok(line) = build(&root, capabilities, &paths) else {
            continue;
        };
        let numbers: BTreeSet<u32> = line.descriptors.iter().map(|used| used.number).collect();
        assert_eq!(numbers.len(), line.descriptors.len(), "{name}: a descriptor is used twice");
        let own: Vec<&String> = line
            .arguments
            .iter()
            .filter(|argument| argument.starts_with("socket,") && argument.contains("server=on"))
            .filter(|argument| argument.contains("path="))
            .collect();
        assert!(own.is_empty(), "{name}: QEMU would bind {own:?}");
        let named = line.arguments.iter().filter(|argument| argument.contains(r#""id":"masterKey0""#));
        let files = named.filter(|argument| argument.contains("/proc/self/fd/")).count();
        assert_eq!(
            files,
            usize::from(!line.secrets.is_empty()),
            "{name}: the key is inherited if there is a use for it"
        );
    }
}
