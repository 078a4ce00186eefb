//! Pool XML of many kinds against what stock libvirt makes of it: taken or refused with the same code, and written the same.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_storage::pool::definition::{Definition, Sizes};
use bulkhead_storage::volume::Wanted;
use bulkhead_wire::types::Uuid;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[expect(clippy::print_stdout, reason = "the runner counts these lines")]
fn corpus() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?;
    let shared =
        std::env::var_os("BULKHEAD_SHARED").map_or_else(|| repository.join("../shared"), PathBuf::from);
    let folder = shared.join("corpus");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

/// Cases of a kind: name, input, what stock said to the definition, and what it wrote.
fn cases(folder: &Path, kind: &str) -> Vec<(String, String, Value, Option<String>)> {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let cases = expected["cases"].as_object().unwrap();
    let of_kind = cases.iter().filter(|(name, case)| name.starts_with(kind) && case["status"] == "ok");
    of_kind
        .map(|(name, case)| {
            let input = std::fs::read(folder.join(format!("{name}.xml"))).unwrap();
            let dump = case["steps"]["dump"]["out"].as_str().map(str::to_owned);
            let input = String::from_utf8_lossy(&input).into_owned();
            (name.clone(), input, case["steps"]["define"].clone(), dump)
        })
        .collect()
}

/// Without the uuid that was made up.
fn without_uuid(xml: &str) -> String {
    xml.lines().filter(|line| !line.trim_start().starts_with("<uuid>")).collect::<Vec<_>>().join("\n")
}

fn share(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

#[test]
fn pools_are_taken_refused_and_written_as_stock_does_it() {
    let Some(folder) = corpus() else { return };
    let (mut agreed, mut coded, mut refused, mut same, mut written) = (0, 0, 0, 0, 0);
    let cases = [cases(&folder, "pool/"), cases(&folder, "malformed/pool-")].concat();
    for (name, input, define, dump) in &cases {
        let ours = Definition::read(input, Uuid::default);
        match (&ours, define["error"]["code"].as_i64()) {
            (Ok(definition), None) => {
                agreed += 1;
                written += 1;
                let (ours, stock) = (
                    without_uuid(&definition.to_xml(Sizes::default(), None)),
                    without_uuid(dump.as_ref().unwrap()),
                );
                same += usize::from(ours == stock);
                if ours != stock {
                    println!("{name}:\n{ours}\nstock:\n{stock}");
                }
            }
            (Err(error), Some(code)) => {
                agreed += 1;
                refused += 1;
                let origin = define["error"]["domain"].as_i64();
                let fits = (i64::from(error.code.0), Some(i64::from(error.origin.0))) == (code, origin);
                coded += usize::from(fits);
                if !fits {
                    println!("{name}: {error:?}, stock {define}");
                }
            }
            (ours, _) => println!("{name}: {ours:?}, stock {define}"),
        }
    }
    println!(
        "figure: pools: {agreed} of {} agree, {coded} of {refused} codes, {same} of {written} XML",
        cases.len()
    );
    assert!(
        share(agreed, cases.len()) >= 98.0 && share(coded, refused) >= 95.0 && share(same, written) >= 98.0
    );
}

/// What takes a pool, or a program, to be refused.
const LATER: &[&str] = &["inaccessible", "Child process", "numerical overflow"];

#[test]
fn volumes_are_refused_as_stock_does_it() {
    let Some(folder) = corpus() else { return };
    let (mut agreed, mut coded, mut refused, mut counted) = (0, 0, 0, 0);
    let cases = [cases(&folder, "volume/"), cases(&folder, "malformed/volume-")].concat();
    for (name, input, define, _) in &cases {
        let message = define["error"]["message"].as_str().unwrap_or_default();
        let encrypted = input.contains("<encryption");
        if LATER.iter().any(|later| message.contains(later)) || encrypted && message.is_empty() {
            continue;
        }
        counted += 1;
        match (Wanted::read(input), define["error"]["code"].as_i64()) {
            (Ok(_), None) => agreed += 1,
            (Err(error), Some(code)) => {
                agreed += 1;
                refused += 1;
                let origin = define["error"]["domain"].as_i64();
                let fits = (i64::from(error.code.0), Some(i64::from(error.origin.0))) == (code, origin);
                coded += usize::from(fits);
                if !fits {
                    println!("{name}: {error:?}, stock {define}");
                }
            }
            (ours, _) => println!("{name}: {ours:?}, stock {define}"),
        }
    }
    println!("figure: volumes: {agreed} of {counted} agree, {coded} of {refused} codes");
    assert!(share(agreed, counted) >= 98.0 && share(coded, refused) >= 95.0);
}
