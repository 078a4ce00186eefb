//! Puts the corpus' domains through the library and writes the answers in the form that `corpus-compare` reads:
//! `cargo run --example corpus -- CORPUS-FOLDER GOT.json`.

use bulkhead_qemu::domain::host::CountedIdentifiers;
use bulkhead_qemu::domain::{Definition, Host, Purpose};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

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
    let mut cases = serde_json::Map::new();
    for kind in ["domain", "malformed", "defect"] {
        for entry in std::fs::read_dir(corpus.join(kind))? {
            let path = entry?.path();
            let name = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            if kind == "domain" || name.starts_with("domain-") {
                cases.insert(format!("{kind}/{name}"), answer(&std::fs::read(&path)?, &host));
            }
        }
    }
    let expected: Value = serde_json::from_slice(&std::fs::read(corpus.join("expected.json"))?)?;
    let meta = expected.get("meta").cloned().unwrap_or_default();
    std::fs::write(out, serde_json::to_vec(&json!({"meta": meta, "cases": cases}))?)?;
    Ok(())
}
