//! Puts the corpus' domains through the library and writes the answers in the form that `corpus-compare` reads:
//! `cargo run --example corpus -- CORPUS-FOLDER GOT.json`.

#[path = "../tests/probe/mod.rs"]
#[expect(dead_code, reason = "recorded dumps are read by the other users of this module")]
mod probe;

use bulkhead_qemu::args::build;
use bulkhead_qemu::domain::host::CountedIdentifiers;
use bulkhead_qemu::domain::{Definition, Host, Purpose};
use probe::{Probes, paths};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// The command line of an input, by the way that the driver's `domainXMLToNative` takes.
fn native(xml: &[u8], host: &Host, probes: &mut Probes) -> Value {
    let refused = |error: bulkhead_wire::error::Error| json!({"error": {"code": error.code.0, "domain": error.origin.0, "message": error.message}});
    let root = Definition::read(xml, host, Purpose::Native).and_then(|definition| definition.native(host));
    let root = match root {
        Ok(root) => root,
        Err(error) => return refused(error),
    };
    match probes.capabilities(&root) {
        Ok(capabilities) => match build(&root, capabilities, &paths(&root)) {
            Ok(line) => json!({"out": line.to_shell()}),
            Err(error) => refused(error),
        },
        Err(error) => json!({"error": {"code": 1, "domain": 10, "message": error.to_string()}}),
    }
}

fn answer(xml: &[u8], host: &Host) -> Value {
    let steps = match Definition::read(xml, host, Purpose::Define) {
        Ok(definition) => {
            let (dump, secure) = (definition.to_xml(false), definition.to_xml(true));
            let mut steps = json!({"define": {"out": ""}, "dump": {"out": dump}, "undefine": {"out": ""}});
            if secure != dump {
                steps["secure"] = json!({ "out": secure });
            }
            steps
        }
        Err(error) => json!({"define": {"error": {
            "code": error.code.0, "domain": error.origin.0, "message": error.message,
        }}}),
    };
    json!({"status": "ok", "left": [], "steps": steps})
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(corpus), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: corpus CORPUS-FOLDER GOT.json".into());
    };
    let corpus = Path::new(&corpus);
    let host = Host::qemu_10_0(Arc::new(CountedIdentifiers::default()));
    let expected: Value = serde_json::from_slice(&std::fs::read(corpus.join("expected.json"))?)?;
    let mut probes = Probes::new(&expected);
    let mut cases = serde_json::Map::new();
    for kind in ["domain", "malformed", "defect"] {
        for entry in std::fs::read_dir(corpus.join(kind))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if kind == "domain" || name.starts_with("domain-") {
                let xml = std::fs::read(&path)?;
                let mut case = answer(&xml, &host);
                case["steps"]["native"] = native(&xml, &host, &mut probes);
                cases.insert(format!("{kind}/{name}"), case);
            }
        }
    }
    let meta = expected.get("meta").cloned().unwrap_or_default();
    std::fs::write(out, serde_json::to_vec(&json!({"meta": meta, "cases": cases}))?)?;
    Ok(())
}
