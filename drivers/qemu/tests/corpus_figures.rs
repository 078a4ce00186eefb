//! How far the corpus' domains are answered as stock libvirt answers them, from the document to the command line: for all
//! and for those that use only what `probe/listed.txt` lists, by the origin of the case. The figures may only rise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test, which may fail and say why"
)]

#[path = "probe/canonical.rs"]
mod canonical;
#[path = "probe/listed.rs"]
mod listed;
#[expect(dead_code, reason = "recorded dumps are read by the other users of this module")]
mod probe;
#[path = "probe/tree.rs"]
mod tree;

use bulkhead_qemu::args::build;
use bulkhead_qemu::domain::host::CountedIdentifiers;
use bulkhead_qemu::domain::{Definition, Host, Purpose};
use bulkhead_wire::error::Error;
use bulkhead_xml::{Limits, parse};
use canonical::{Canonical, split};
use probe::{Probes, paths};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Parts of agreement: with how many of how many answers.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    verdicts: (usize, usize),
    errors: (usize, usize),
    documents: (usize, usize),
    lines: (usize, usize),
}

fn count(figure: &mut (usize, usize), equal: bool) {
    figure.0 += usize::from(equal);
    figure.1 += 1;
}

fn percent((equal, total): (usize, usize)) -> f64 {
    let share = |count: usize| f64::from(u32::try_from(count).unwrap());
    if total == 0 { 100.0 } else { 100.0 * share(equal) / share(total) }
}

/// What must be reached, in percent: verdicts, error codes, documents, command lines.
const FLOORS: &[(&str, [f64; 4])] = &[
    ("all", [98.9, 94.5, 96.4, 98.0]),
    ("all cl-", [99.9, 95.0, 93.0, 97.5]),
    ("listed", [99.0, 95.0, 97.0, 97.0]),
];

/// A document's answers.
struct Answers {
    definition: Result<Definition, Error>,
    /// `None`: this machine has not got the emulator.
    line: Option<Result<Vec<String>, Error>>,
}

fn ask(input: &[u8], host: &Host, probes: &mut Probes) -> Answers {
    let definition = Definition::read(input, host, Purpose::Define);
    let native =
        Definition::read(input, host, Purpose::Native).and_then(|definition| definition.native(host));
    let line = match native {
        Ok(root) => probes.capabilities(&root).ok().map(|capabilities| {
            let line = build(&root, capabilities, &paths(&root))?;
            let environment = line.environment.iter().map(|(name, value)| format!("{name}={value}"));
            Ok(environment.chain([line.program.clone()]).chain(line.arguments.iter().cloned()).collect())
        }),
        Err(error) => Some(Err(error)),
    };
    Answers { definition, line }
}

fn same_error(stock: &Value, ours: Option<&Error>) -> bool {
    ours.is_some_and(|ours| stock["code"] == ours.code.0 && stock["domain"] == ours.origin.0)
}

/// Counts one case, and says what differs.
fn compare(figures: &mut Figures, case: &Value, answers: &Answers, lower: &str) -> Vec<&'static str> {
    let mut differences = Vec::new();
    let mut note = |figure: &mut (usize, usize), equal: bool, what| {
        count(figure, equal);
        if !equal {
            differences.push(what);
        }
    };
    let steps = &case["steps"];
    let native = &steps["native"];
    let line = answers.line.as_ref().map(|line| line.as_ref().err());
    for (stock, ours) in [(&steps["define"], Some(answers.definition.as_ref().err())), (native, line)] {
        let Some(ours) = ours.filter(|_| !stock.is_null()) else { continue };
        let refused = &stock["error"];
        note(&mut figures.verdicts, refused.is_null() == ours.is_none(), "verdict");
        if !refused.is_null() {
            note(&mut figures.errors, same_error(refused, ours), "error");
        }
    }
    for (step, secure) in [("dump", false), ("secure", true)] {
        if let Some(stock) = steps[step]["out"].as_str() {
            let ours = answers.definition.as_ref().ok().map(|definition| definition.to_xml(secure));
            let equal = ours.is_some_and(|ours| tree::tree(&ours, lower) == tree::tree(stock, lower));
            note(&mut figures.documents, equal, "document");
        }
    }
    if let (Some(stock), Some(line)) = (native["out"].as_str(), &answers.line) {
        let given: BTreeSet<String> = case["given"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|id| id.as_str().map(str::to_owned))
            .collect();
        let theirs = Canonical::new(&split(&without_places(stock)), &given);
        let equal = line.as_ref().is_ok_and(|words| {
            let words: Vec<String> = words.iter().map(|word| without_places(word)).collect();
            let ours = Canonical::new(&words, &given);
            if ours != theirs {
                println!("{}", ours.difference(&theirs));
            }
            ours == theirs
        });
        note(&mut figures.lines, equal, "command line");
    }
    differences
}

/// A guest's own folders carry a shortened name in stock's answers: only that they are its own counts.
fn without_places(text: &str) -> String {
    let mut text = text.to_owned();
    for start in [
        "/var/lib/libvirt/qemu/domain--1-",
        "/run/libvirt/qemu/channel/-1-",
        "/run/libvirt/qemu/dbus/-1-",
        "/var/lib/libvirt/qemu/ram/-1-",
    ] {
        let mut parts = text.split(start);
        let mut cleaned = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            cleaned.push_str("PRIVATE");
            cleaned.push_str(part.find(['/', '"', '\'', ',', ' ']).map_or("", |end| &part[end..]));
        }
        text = cleaned;
    }
    text
}

#[test]
fn answers_are_those_of_stock() {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let corpus = shared.join("corpus");
    let Ok(expected) = std::fs::read(corpus.join("expected.json")) else {
        println!("skipped: no corpus at {}", corpus.display());
        return;
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let host = Host::qemu_10_0(Arc::new(CountedIdentifiers::default()));
    let mut probes = Probes::new(&expected);
    let listed = listed::Listed::new();
    let mut all: BTreeMap<String, Figures> = BTreeMap::new();
    for (name, case) in expected["cases"].as_object().unwrap() {
        let Some(file) = name.strip_prefix("domain/") else { continue };
        let input = std::fs::read(corpus.join(format!("{name}.xml"))).unwrap();
        let lower = String::from_utf8_lossy(&input).to_lowercase();
        let answers = ask(&input, &host, &mut probes);
        if answers.line.is_none() {
            println!("skipped: the command line of {name}, whose emulator can't be asked");
        }
        let ordinary = parse(&input, Limits::default(), "domain/metadata")
            .is_ok_and(|root| listed.stranger(&root).is_none());
        let origin = file.get(..3).unwrap_or_default();
        let mut groups = vec!["all".to_owned(), format!("all {origin}")];
        if ordinary {
            groups.extend(["listed".to_owned(), format!("listed {origin}")]);
        }
        let mut differences = Vec::new();
        for group in groups {
            differences = compare(all.entry(group).or_default(), case, &answers, &lower);
        }
        if !differences.is_empty() {
            println!("{file}{}: {}", if ordinary { " (listed)" } else { "" }, differences.join(", "));
        }
    }
    for (group, figures) in &all {
        let parts = [figures.verdicts, figures.errors, figures.documents, figures.lines];
        let shown = parts.map(|part| format!("{}/{} {:.1}%", part.0, part.1, percent(part)));
        println!(
            "figure: {group}: verdicts {}, errors {}, documents {}, command lines {}",
            shown[0], shown[1], shown[2], shown[3]
        );
    }
    for (group, floors) in FLOORS {
        let figures = all[*group];
        let parts = [figures.verdicts, figures.errors, figures.documents, figures.lines];
        for (part, floor) in parts.into_iter().zip(floors) {
            assert!(
                percent(part) >= *floor,
                "{group}: {part:?} is {:.1}%, at least {floor}% is wanted",
                percent(part)
            );
        }
    }
}
