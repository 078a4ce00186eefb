//! The host's CPU model under TCG, asked of the installed QEMU, against what was recorded of stock libvirt.

#[expect(dead_code, reason = "other tests use the rest")]
mod probe;

use bulkhead_qemu::capabilities::host_model_queries;
use std::path::PathBuf;

const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";

#[test]
fn an_emulated_host_model_is_the_one_that_stock_gives() {
    let shared = std::env::var_os("BULKHEAD_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), "../../../shared"].iter().collect());
    let Ok(text) = std::fs::read(shared.join("corpus/expected.json")) else {
        println!("skipped: there is no corpus in {}", shared.display());
        return;
    };
    if !std::path::Path::new(EMULATOR).exists() {
        println!("skipped: there is no {EMULATOR}");
        return;
    }
    let probes = probe::Probes::new(&serde_json::from_slice(&text).unwrap());
    let recorded = &probes.host_models["qemu"];
    let (mut capabilities, replies) = probe::ask(EMULATOR, false, host_model_queries).unwrap();
    capabilities.read_host_model(&replies).unwrap();
    let found = capabilities.host_model.unwrap();
    assert_eq!(found.name, recorded.name);
    assert_eq!(found.given().collect::<Vec<_>>(), recorded.given().collect::<Vec<_>>());
}
