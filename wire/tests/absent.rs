//! Every procedure that stock libvirt's QEMU driver serves is served here or is in the list of those that are not.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_wire::remote::absent::{ABSENT, reason};
use bulkhead_wire::table::{CallInfo, EachCall, each_call};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// What the gateway answers itself: it is about the connection.
const OF_THE_GATEWAY: &[u64] = &[1, 2, 60, 66, 67, 68, 69, 70, 105, 106, 110, 167, 168, 316, 317, 360, 361];
/// And of the `qemu` program: registrations are the connection's.
const OF_THE_GATEWAY_QEMU: &[u64] = &[4, 5];
/// The groups that this is about.
const GROUPS: &[&str] = &["hypervisor/host", "hypervisor/domain", "hypervisor (qemu)"];
/// So many procedures may be absent beside the subjects that follow as a whole.
const OTHERS_MAX: usize = 3;

#[derive(Default)]
struct Served {
    remote: BTreeSet<u64>,
    qemu: BTreeSet<u64>,
}

impl EachCall for Served {
    fn call<A, R>(&mut self, info: &'static CallInfo)
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.remote.extend(info.remote.map(u64::from));
        self.qemu.extend(info.qemu.map(u64::from));
    }
}

#[expect(clippy::print_stdout, reason = "the runner counts these lines")]
fn procedures() -> Option<Vec<Value>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let shared = std::env::var_os("BULKHEAD_SHARED");
    let shared = shared.map_or_else(|| repository.join("../shared"), std::path::PathBuf::from);
    let file = shared.join("protocol/procedures.json");
    let Ok(text) = std::fs::read(&file) else {
        println!("skipped: {} is not there", file.display());
        return None;
    };
    let parsed: Value = serde_json::from_slice(&text).unwrap();
    let all = parsed["procedures"].as_array().unwrap().iter();
    let asked = all.filter(|one| {
        let program = one["program"] == "remote" || one["program"] == "qemu";
        let served = ["qemu", "daemon"].iter().any(|who| one["implemented_11_3"][who] == "yes");
        program
            && served
            && one["kind"] != "event"
            && GROUPS.contains(&one["driver"].as_str().unwrap_or_default())
    });
    Some(asked.cloned().collect())
}

fn name_of(procedure: &Value) -> String {
    let name = procedure["snake_name"].as_str().unwrap();
    if procedure["program"] == "qemu" { format!("qemu_{name}") } else { name.to_owned() }
}

#[test]
fn what_is_not_served_is_listed_and_what_is_listed_is_not_served() {
    let Some(procedures) = procedures() else { return };
    let mut served = Served::default();
    each_call(&mut served);
    let (mut wrong, mut others, mut text) = (Vec::new(), 0, String::new());
    for procedure in &procedures {
        let (name, number) = (name_of(procedure), procedure["number"].as_u64().unwrap());
        let has = if procedure["program"] == "qemu" {
            served.qemu.contains(&number) || OF_THE_GATEWAY_QEMU.contains(&number)
        } else {
            served.remote.contains(&number) || OF_THE_GATEWAY.contains(&number)
        };
        match (has, reason(&name)) {
            (true, None) => {}
            (false, Some(absent)) => {
                others += usize::from(!absent.put_off);
                let api = procedure["api"].as_str().unwrap_or_default();
                writeln!(text, "| `{name}` | {number} | `{api}` | {} |", absent.reason).unwrap();
            }
            (true, Some(absent)) => wrong.push(format!("{name} is served, and is listed: {}", absent.reason)),
            (false, None) => wrong.push(format!("{name} is not served, and not listed")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(others <= OTHERS_MAX, "{others} procedures are absent one by one");
    for name in ABSENT.iter().flat_map(|absent| absent.names) {
        let stands = |procedure: &&Value| match name.strip_suffix('*') {
            Some(begin) => name_of(procedure).starts_with(begin),
            None => name_of(procedure) == *name,
        };
        assert!(procedures.iter().any(|procedure| stands(&procedure)), "{name} stands for nothing");
    }
    let head = "# Procedures that are not served\n\n\
        What stock libvirt 11.3's QEMU driver serves for connection, host, domains and QEMU, and this stack does not: such a call\n\
        answers \"not supported\" (code 3) with its name. Made from `wire/src/remote/absent.rs` and the tables;\n\
        `BULKHEAD_WRITE_GOLDEN=1 cargo test -p bulkhead-wire --test absent` writes it anew.\n\n\
        | procedure | number | function | reason |\n| --- | --- | --- | --- |\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/procedures.md");
    let text = format!("{head}{text}");
    if std::env::var_os("BULKHEAD_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "BULKHEAD_WRITE_GOLDEN=1 writes it anew");
}
