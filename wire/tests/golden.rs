//! The bytes of every call, event and control message, so that a change is seen before it is shipped.
//!
//! With `BULKHEAD_WRITE_GOLDEN` set the files are written anew; the difference belongs into the review.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

mod sample;

use bulkhead_wire::codec;
use bulkhead_wire::control::{FromDriver, Request, Response, ToDriver};
use bulkhead_wire::error::Error;
use bulkhead_wire::table::{CallInfo, EachCall, each_call};
use bulkhead_wire::types::DomainEvent;
use bulkhead_wire::types::network::NetworkEvent;
use bulkhead_wire::types::secret::SecretEvent;
use bulkhead_wire::types::storage::PoolEvent;
use sample::sample;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::path::Path;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The bytes of a value; reading them back and writing them again must not change them.
fn line<T: Serialize + DeserializeOwned>(value: &T) -> String {
    let (bytes, files) = codec::encode(value).unwrap();
    let count = files.len();
    let again: T = codec::decode(&bytes, files).unwrap();
    let (same, files) = codec::encode(&again).unwrap();
    assert_eq!((&bytes, count), (&same, files.len()));
    match count {
        0 => hex(&bytes),
        count => format!("{} + {count} descriptors", hex(&bytes)),
    }
}

#[derive(Default)]
struct Calls(String);

impl EachCall for Calls {
    fn call<A, R>(&mut self, info: &'static CallInfo)
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let (arguments, _) = sample::<A>(0).unwrap();
        let (reply, _) = sample::<R>(0).unwrap();
        let (driver, number, name) = (info.driver, info.operation, info.name);
        writeln!(self.0, "{driver} {number} {name} arguments {}", line(&arguments)).unwrap();
        writeln!(self.0, "{driver} {number} {name} reply {}", line(&reply)).unwrap();
    }
}

fn variants<T: Serialize + DeserializeOwned>(name: &str, text: &mut String) {
    for variant in 0.. {
        match sample::<T>(variant) {
            Ok((value, _)) => writeln!(text, "{name} {variant} {}", line(&value)).unwrap(),
            Err(error) => {
                assert!(variant > 0 && error.0.contains("variant index"), "{name}: {error}");
                break;
            }
        }
    }
}

fn compare(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if std::env::var_os("BULKHEAD_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (golden, now) in golden.lines().zip(text.lines()) {
        assert_eq!(golden, now, "{file}: BULKHEAD_WRITE_GOLDEN=1 accepts the change");
    }
    assert_eq!(golden.lines().count(), text.lines().count(), "{file}");
}

#[test]
fn calls_have_their_bytes() {
    let mut calls = Calls::default();
    each_call(&mut calls);
    compare("calls.txt", &calls.0);
}

#[test]
fn events_control_messages_and_errors_have_their_bytes() {
    let mut text = String::new();
    variants::<DomainEvent>("event", &mut text);
    variants::<NetworkEvent>("network event", &mut text);
    variants::<PoolEvent>("pool event", &mut text);
    variants::<SecretEvent>("secret_event", &mut text);
    variants::<ToDriver>("to_driver", &mut text);
    variants::<FromDriver>("from_driver", &mut text);
    variants::<Request>("request", &mut text);
    variants::<Response>("response", &mut text);
    let (error, _) = sample::<Error>(0).unwrap();
    writeln!(text, "error {}", line(&error)).unwrap();
    compare("messages.txt", &text);
}

#[test]
fn no_wire_type_uses_what_the_encoding_can_not_carry() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![source];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains("#[serde")) {
                for banned in ["skip", "flatten", "untagged", "tag =", "default", "with ="] {
                    assert!(
                        !line.contains(banned),
                        "{}:{}: {banned} does not survive bincode",
                        path.display(),
                        number + 1
                    );
                }
            }
        }
    }
    assert!(files > 10, "sources were not found");
}
