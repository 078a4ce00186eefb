//! The corpus' secrets against stock libvirt's answers: how many agree may only rise.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, which may fail and say why they skip"
)]

use bulkhead_secret::definition::Definition;
use bulkhead_wire::types::Uuid;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Cases of kind `secret`, and how many of them agree.
const SAME_VERDICT: usize = 25;
const SAME_ERROR: usize = 5;
const SAME_XML: usize = 20;

fn corpus() -> Option<PathBuf> {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let corpus = shared.join("corpus");
    if corpus.join("expected.json").is_file() {
        return Some(corpus);
    }
    println!("skipped: no corpus at {}", corpus.display());
    None
}

/// What became of the cases whose name begins so: cases, verdicts, refusals, documents that agree.
fn compare(prefix: &str) -> Option<(usize, usize, usize, usize)> {
    let corpus = corpus()?;
    let expected: Value =
        serde_json::from_slice(&std::fs::read(corpus.join("expected.json")).unwrap()).unwrap();
    let (mut cases, mut verdicts, mut errors, mut documents) = (0, 0, 0, 0);
    for (name, case) in expected["cases"].as_object().unwrap() {
        if !name.starts_with(prefix) {
            continue;
        }
        cases += 1;
        let input = std::fs::read(corpus.join(format!("{name}.xml"))).unwrap();
        let stock = &case["steps"]["define"]["error"];
        let dump = case["steps"]["dump"]["out"].as_str();
        // Where stock made a uuid up, this side takes the same.
        let made_up = || {
            let text = dump.and_then(|dump| dump.split("<uuid>").nth(1)?.split("</uuid>").next());
            Ok(text.and_then(Uuid::parse).unwrap_or_default())
        };
        match Definition::read(&input, false, made_up) {
            Ok(definition) => {
                verdicts += usize::from(stock.is_null());
                let same = dump == Some(definition.to_xml().as_str());
                if !same {
                    println!("{name}: {} is {}", definition.to_xml(), dump.unwrap_or("refused"));
                }
                documents += usize::from(same);
                let again =
                    Definition::read(definition.to_xml().as_bytes(), true, || panic!("it has a uuid"));
                assert_eq!(again.unwrap(), definition, "{name}");
            }
            Err(error) => {
                verdicts += usize::from(!stock.is_null());
                let same = stock["code"] == error.code.0 && stock["domain"] == error.origin.0;
                if !same {
                    println!("{name}: {} {} {error} is {stock}", error.code.0, error.origin.0);
                }
                errors += usize::from(same);
            }
        }
    }
    println!(
        "figure: corpus {prefix}: {cases} cases, {verdicts} verdicts, {errors} errors, {documents} documents agree"
    );
    Some((cases, verdicts, errors, documents))
}

#[test]
fn secrets_are_read_as_stock_reads_them() {
    let Some((cases, verdicts, errors, documents)) = compare("secret/") else { return };
    assert!(cases >= 25);
    assert!(verdicts >= SAME_VERDICT, "verdicts fell to {verdicts}");
    assert!(errors >= SAME_ERROR, "errors fell to {errors}");
    assert!(documents >= SAME_XML, "equal documents fell to {documents}");
}

#[test]
fn malformed_secrets_are_judged_as_stock_judges_them() {
    let Some((cases, verdicts, errors, documents)) = compare("malformed/secret-") else { return };
    assert_eq!((cases, verdicts, errors, documents), (3, 3, 2, 1));
}
