//! The whole corpus of domains as a client of libvirt's sends it, over the connection: what is answered, against what stock
//! libvirt answered, by the origin of the case. `drivers/qemu/tests/corpus_figures.rs` asks the same of the library alone.
//!
//! What still differs, by its kind: certificates are looked for in the stack's own folder; the host's processor is not
//! compared with what a guest demands of it (`domainXMLToNative` of a guest that could not be started here); firmware of
//! other architectures is picked from what the machine has now; automatic zPCI addresses, the second root of pSeries
//! guests; text that is not UTF-8, which the protocol's reader refuses before the XML's does.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, figure, skip};
use bulkhead_tests::served::{PYTHON, Served};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// What must be reached, in percent: verdicts, error codes, XML, command lines.
const FLOORS: &[(&str, [f64; 4])] = &[
    ("domain/lv-", [98.5, 94.0, 95.5, 97.0]),
    ("domain/vm-", [97.0, 88.5, 98.0, 99.0]),
    ("domain/cl-", [99.5, 95.0, 96.0, 91.0]),
    ("domain/wr-", [98.5, 95.0, 97.0, 97.0]),
    ("domain/", [98.5, 93.5, 96.5, 97.0]),
    ("malformed/", [92.0, 90.0, 83.0, 71.0]),
];
/// What the comparison calls them, in that order.
const FIGURES: [&str; 4] = ["accept/reject agreement", "error code agreement", "dumpxml equal", "argv equal"];
/// Emulators that the corpus was recorded with.
const EMULATORS: [&str; 4] = ["x86_64", "aarch64", "ppc64", "s390x"];

/// The cases of some answers whose name begins so, in a file.
fn part(answers: &Value, start: &str, path: &Path) -> String {
    let cases = answers["cases"].as_object().unwrap().iter();
    let cases: Map<String, Value> = cases
        .filter(|(name, _)| name.starts_with(start))
        .map(|(name, case)| (name.clone(), case.clone()))
        .collect();
    std::fs::write(path, json!({"meta": answers["meta"], "cases": cases}).to_string()).unwrap();
    path.display().to_string()
}

/// The percentage on the line that begins so.
fn percentage(report: &str, name: &str) -> f64 {
    let line =
        report.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {report}"));
    line.rsplit_once('(').unwrap().1.trim_end_matches("%)").parse().unwrap()
}

#[tokio::test]
async fn a_client_gets_the_answers_that_stock_gives() {
    let shared = std::env::var_os("BULKHEAD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let Ok(expected) = std::fs::read(shared.join("corpus/expected.json")) else {
        return skip("no corpus at hand");
    };
    if let Some(missing) =
        EMULATORS.iter().find(|arch| !Path::new(&format!("/usr/bin/qemu-system-{arch}")).exists())
    {
        return skip(&format!("no qemu-system-{missing}, with which the corpus was recorded"));
    }
    let served = Served::new().await;
    if !served.said(PYTHON, &["-c", "import libvirt"]).await.1 {
        return skip("no libvirt for python; python3-libvirt has it");
    }
    let tool = |name: &str| shared.join("tools").join(name).display().to_string();
    let (out, corpus) = (served.root.path().join("got.json"), shared.join("corpus").display().to_string());
    let mut run = served.command(PYTHON);
    run.args([&tool("corpus-run"), &served.uri(), &corpus, &out.display().to_string()]);
    run.args(["--kinds", "domain,malformed,defect", "--only", "*domain*", "--timeout", "30"]);
    let output = timeout(Duration::from_secs(600), run.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let got: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let cases = got["cases"].as_object().unwrap();
    assert!(cases.len() > 1250, "only {} cases were run", cases.len());
    for (name, case) in cases {
        assert_eq!(case["status"], "ok", "{name}");
        assert_eq!(case["left"], json!([]), "{name}");
        if name.starts_with("defect/domain-") {
            // As what it is, and not as something that is not supported.
            let code = &case["steps"]["define"]["error"]["code"];
            assert!(code.as_i64().is_some_and(|code| code != 3 && code != 67), "{name}: {case}");
        }
    }
    let root = served.root.path().display();
    let places = [format!("{root}/lib/qemu=/var/lib/libvirt/qemu"), format!("{root}/run=/run/libvirt")];
    let mut low = Vec::new();
    for (start, floors) in FLOORS {
        let ours = part(&got, start, &served.root.path().join("ours.json"));
        let theirs = part(&expected, start, &served.root.path().join("theirs.json"));
        let compare = tool("corpus-compare");
        let mut words: Vec<&str> = vec![&compare, &theirs, &ours, "--subset", "--top", "0"];
        words.extend(places.iter().flat_map(|place| ["--map", place]));
        let report = served.does(PYTHON, &words).await;
        let found = FIGURES.map(|name| percentage(&report, name));
        let shown = found.map(|percent| format!("{percent:.1}%"));
        figure(&format!(
            "{start}: verdicts {}, error codes {}, XML {}, command lines {}",
            shown[0], shown[1], shown[2], shown[3]
        ));
        if found.iter().zip(floors).any(|(found, floor)| found < floor) {
            low.push(format!("{start}: {found:?}, at least {floors:?} is wanted"));
        }
    }
    assert!(low.is_empty(), "{low:#?}");
    assert_eq!(driver(&served.stack, "qemu").await.unwrap().1, 1, "the driver was not restarted");
    served.stack.stop().await.unwrap();
}
