//! The domain table against what is known of libvirt's protocol: numbers, layouts, permissions, and real frames.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

mod sample;

use bulkhead_wire::table::{CallInfo, EachCall, Permission, each_call};
use bulkhead_wire::xdr;
use sample::sample;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[expect(clippy::print_stdout, reason = "the runner counts these lines")]
fn protocol() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let shared =
        std::env::var_os("BULKHEAD_SHARED").map_or_else(|| repository.join("../shared"), PathBuf::from);
    let folder = shared.join("protocol");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The primitives of a type of libvirt's, in order, as a sample's `asked`.
fn primitives(types: &Value, field: &Value, found: &mut Vec<String>) {
    let name = field["type"].as_str().unwrap();
    if field["optional"] == Value::Bool(true) {
        found.push("optional".to_owned());
    }
    let simple = match name {
        "string" => Some("string"),
        "opaque" if field["array"] == "variable" => Some("bytes"),
        "opaque" => Some("opaque"),
        "char" => Some("i8"),
        "double" => Some("f64"),
        "int" => Some("i32"),
        "unsigned int" => Some("u32"),
        "hyper" => Some("i64"),
        "unsigned hyper" => Some("u64"),
        "unsigned char" => Some("u8"),
        "unsigned short" => Some("u16"),
        _ => None,
    };
    if !matches!(simple, Some("bytes" | "string")) && field["array"] == "variable" {
        found.push("list".to_owned());
    }
    let repeated = if simple != Some("opaque") && field["array"] == "fixed" {
        field["len"].as_u64().unwrap()
    } else {
        1
    };
    for _ in 1..repeated {
        found.push(simple.unwrap().to_owned());
    }
    match simple {
        Some(simple) => found.push(simple.to_owned()),
        None => layout(types, name, found),
    }
}

fn layout(types: &Value, name: &str, found: &mut Vec<String>) {
    let definition = &types[name];
    match definition["kind"].as_str() {
        Some("struct") => {
            for field in definition["fields"].as_array().unwrap() {
                primitives(types, field, found);
            }
        }
        // The sample of a union is its first case.
        Some("union") => {
            found.push("enum".to_owned());
            primitives(types, &definition["cases"][0]["field"], found);
        }
        Some("typedef") => primitives(types, definition, found),
        other => panic!("{name} is {other:?}"),
    }
}

struct Compare {
    procedures: BTreeMap<(String, u64), Value>,
    types: Value,
    compared: usize,
    wrong: Vec<String>,
}

impl EachCall for Compare {
    fn call<A, R>(&mut self, info: &'static CallInfo)
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let Some((program, number)) =
            info.remote.map(|number| ("remote", number)).or(info.qemu.map(|number| ("qemu", number)))
        else {
            return;
        };
        let Some(procedure) = self.procedures.get(&(program.to_owned(), u64::from(number))) else {
            return self.wrong.push(format!("{}: there is no {number}", info.name));
        };
        self.compared += 1;
        if procedure["snake_name"] != info.name {
            self.wrong.push(format!("{} is {}", info.name, procedure["snake_name"]));
        }
        // Where stock forgot its check, this stack did not.
        let forgotten = procedure["read_only"].as_str().is_some_and(|text| text.contains("check is missing"));
        let reading = procedure["read_only"] != "refused" && !forgotten;
        if reading != (info.permission == Permission::Read) {
            self.wrong.push(format!("{}: {:?}", info.name, info.permission));
        }
        for (part, ours) in [("args", sample::<A>(0).unwrap().1), ("ret", sample::<R>(0).unwrap().1)] {
            let mut theirs = Vec::new();
            if let Some(name) = procedure[part].as_str() {
                layout(&self.types, name, &mut theirs);
            }
            if ours != theirs {
                self.wrong.push(format!("{} {part}: {ours:?} is {theirs:?}", info.name));
            }
        }
    }
}

#[test]
fn numbers_layouts_and_permissions_are_libvirts() {
    let Some(folder) = protocol() else { return };
    let procedures = json(&folder.join("procedures.json"));
    let procedures = procedures["procedures"].as_array().unwrap().iter();
    let mut compare = Compare {
        procedures: procedures
            .map(|procedure| {
                let program = procedure["program"].as_str().unwrap().to_owned();
                ((program, procedure["number"].as_u64().unwrap()), procedure.clone())
            })
            .collect(),
        types: json(&folder.join("structs.json"))["types"].clone(),
        compared: 0,
        wrong: Vec::new(),
    };
    each_call(&mut compare);
    assert!(compare.wrong.is_empty(), "{:#?}", compare.wrong);
    assert!(compare.compared >= 27 + 10, "only {} calls compared", compare.compared);
}

/// Payloads of real frames: procedure, whether it is a call, bytes.
fn payloads(folder: &Path) -> Vec<(u32, bool, Vec<u8>)> {
    let mut payloads = Vec::new();
    for entry in std::fs::read_dir(folder.join("traces")).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        for line in text.lines() {
            let frame: Value = serde_json::from_str(line).unwrap();
            let (Some(hex), Some(number)) = (frame["hex"].as_str(), frame["num"].as_u64()) else {
                continue;
            };
            let kind = frame["type"].as_str();
            if frame["prog"] != "remote" || frame["status"] != "ok" || !matches!(kind, Some("call" | "reply"))
            {
                continue;
            }
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            payloads.push((u32::try_from(number).unwrap(), kind == Some("call"), bytes[28..].to_vec()));
        }
    }
    payloads
}

struct Frames {
    payloads: Vec<(u32, bool, Vec<u8>)>,
    same: BTreeMap<&'static str, (usize, usize)>,
}

/// Reads a payload and writes it again. A reply with a descriptor gets one, for it travels outside of libvirt's bytes.
fn again<T: Serialize + DeserializeOwned>(name: &str, payload: &[u8]) {
    let (_, files) = xdr::encode(&sample::<T>(0).unwrap().0).unwrap();
    let (message, used) =
        xdr::decode::<T>(payload, files).unwrap_or_else(|error| panic!("{name}: {error}: {payload:?}"));
    assert_eq!(used, payload.len(), "{name}");
    assert_eq!(xdr::encode(&message).unwrap().0, payload, "{name}");
}

impl EachCall for Frames {
    fn call<A, R>(&mut self, info: &'static CallInfo)
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        for (number, call, payload) in &self.payloads {
            if Some(*number) != info.remote {
                continue;
            }
            let (calls, replies) = self.same.entry(info.name).or_default();
            if *call {
                *calls += 1;
                again::<A>(info.name, payload);
            } else {
                *replies += 1;
                again::<R>(info.name, payload);
            }
        }
    }
}

#[test]
fn real_frames_decode_and_encode_to_the_same_bytes() {
    let Some(folder) = protocol() else { return };
    let mut frames = Frames { payloads: payloads(&folder), same: BTreeMap::new() };
    each_call(&mut frames);
    let (calls, replies) = frames.same.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    println!("{} procedures, {calls} calls, {replies} replies", frames.same.len());
    assert!(frames.same.len() >= 17 && calls >= 120 && replies >= 110, "{:?}", frames.same);
}
