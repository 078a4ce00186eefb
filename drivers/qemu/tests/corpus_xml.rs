//! The corpus' domains against stock libvirt's answers: how many agree may only rise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, which may fail and say why they skip"
)]

#[path = "probe/tree.rs"]
mod tree;

use bulkhead_qemu::domain::host::CountedIdentifiers;
use bulkhead_qemu::domain::{Definition, Host, Purpose};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tree::tree;

/// Domains that are accepted or refused as stock does.
const SAME_VERDICT: usize = 1192;
/// Refusals with stock's code and domain.
const SAME_ERROR: usize = 278;
/// Accepted domains whose XML is stock's.
const SAME_XML: usize = 884;

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

fn host() -> Host {
    Host::qemu_10_0(Arc::new(CountedIdentifiers::default()))
}

#[test]
fn domains_are_read_as_stock_reads_them() {
    let Some(corpus) = corpus() else { return };
    let expected: Value =
        serde_json::from_slice(&std::fs::read(corpus.join("expected.json")).unwrap()).unwrap();
    let host = host();
    let (mut verdicts, mut errors, mut equal) = (0, 0, 0);
    for (name, case) in expected["cases"].as_object().unwrap() {
        if !name.starts_with("domain/") {
            continue;
        }
        let input = std::fs::read(corpus.join(format!("{name}.xml"))).unwrap();
        let lower = String::from_utf8_lossy(&input).to_lowercase();
        let stock = &case["steps"]["define"]["error"];
        match Definition::read(&input, &host, Purpose::Define) {
            Ok(definition) => {
                verdicts += usize::from(stock.is_null());
                let Some(dump) = case["steps"]["dump"]["out"].as_str() else {
                    continue;
                };
                let ours = definition.to_xml(false);
                equal += usize::from(tree(&ours, &lower) == tree(dump, &lower));
                let again = Definition::read(definition.to_xml(true).as_bytes(), &host, Purpose::Define);
                assert!(again.is_ok(), "{name}: what was written is not read again: {again:?}");
            }
            Err(error) => {
                verdicts += usize::from(!stock.is_null());
                let same = stock["code"] == error.code.0 && stock["domain"] == error.origin.0;
                errors += usize::from(same);
            }
        }
    }
    println!("{verdicts} verdicts, {errors} errors, {equal} documents");
    assert!(verdicts >= SAME_VERDICT, "verdicts fell to {verdicts}");
    assert!(errors >= SAME_ERROR, "errors fell to {errors}");
    assert!(equal >= SAME_XML, "equal documents fell to {equal}");
}
