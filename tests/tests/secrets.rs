//! Secrets through broker and confined driver: their whole life, who gets which value, and that no value lies about.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead::Connection;
use bulkhead::wire::types::secret::{SecretEvent, SecretLookup, SecretRef, SecretValue};
use bulkhead_tests::fixture::{Root, driver, figure, kill, libexec, wait_for};
use bulkhead_tests::traces::{forms, is_in, search};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn uri(root: &Root) -> String {
    format!("secret:///embed?root={}", root.path().display())
}

async fn open(root: &Root) -> Connection {
    Connection::builder(&uri(root)).libexec(libexec()).open().await.unwrap()
}

fn xml(number: u32, flags: &str, usage: &str) -> String {
    let usage = match usage.split_once(' ') {
        Some((kind, id)) => {
            let element = match kind {
                "volume" => "volume",
                "iscsi" => "target",
                _ => "name",
            };
            format!("<usage type='{kind}'><{element}>{id}</{element}></usage>")
        }
        None => String::new(),
    };
    format!("<secret {flags}><uuid>00000000-0000-4000-8000-{number:012}</uuid>{usage}</secret>")
}

async fn define(stack: &Connection, number: u32, flags: &str, usage: &str) -> SecretRef {
    stack.secrets().secret_define_xml(xml(number, flags, usage), 0).await.unwrap()
}

async fn set(stack: &Connection, secret: &SecretRef, value: &[u8]) -> Result<(), bulkhead::Error> {
    stack.secrets().secret_set_value(secret.clone(), SecretValue::new(value.to_vec()), 0).await
}

async fn get(stack: &Connection, secret: &SecretRef) -> Result<Vec<u8>, bulkhead::Error> {
    Ok(stack.secrets().secret_get_value(secret.clone(), 0).await?.expose().to_vec())
}

#[tokio::test]
async fn a_secret_is_defined_found_given_a_value_and_undefined() {
    let root = Root::new();
    let stack = open(&root).await;
    let secrets = stack.secrets();
    let mut events = stack.secret_events().await.unwrap();
    let mut all = Vec::new();
    for (number, usage) in ["", "volume /a", "ceph a b", "iscsi t", "tls c", "vtpm v"].iter().enumerate() {
        all.push(define(&stack, u32::try_from(number).unwrap(), "", usage).await);
    }
    let kinds: Vec<i32> = all.iter().map(|secret| secret.usage_type).collect();
    assert_eq!(kinds, [0, 1, 2, 3, 4, 5]);
    define(&stack, 6, "ephemeral='yes'", "tls d").await;
    define(&stack, 7, "private='yes'", "tls e").await;
    assert_eq!(secrets.connect_num_of_secrets().await.unwrap(), 8);
    assert_eq!(secrets.connect_list_secrets(3).await.unwrap().len(), 3);
    for (flags, count) in [(0, 8), (1, 1), (2, 7), (4, 1), (8, 7), (1 | 8, 1), (1 | 4, 0), (15, 8)] {
        let list = secrets.connect_list_all_secrets(1, flags).await.unwrap();
        assert_eq!((list.secrets.len(), list.count), (count, u32::try_from(count).unwrap()), "{flags}");
    }
    assert_eq!(secrets.secret_lookup_by_uuid(all[2].uuid).await.unwrap(), all[2]);
    assert_eq!(secrets.secret_lookup_by_usage(2, "a b".to_owned()).await.unwrap(), all[2]);
    for error in [
        secrets.secret_lookup_by_usage(0, String::new()).await.unwrap_err(),
        secrets.secret_lookup_by_usage(77, "a b".to_owned()).await.unwrap_err(),
        get(&stack, &all[2]).await.unwrap_err(),
    ] {
        assert_eq!((error.code.0, error.origin.0), (66, 30), "{error}");
    }
    // What stock refuses, with stock's numbers.
    for (xml, flags, code, origin) in [
        (xml(99, "", "ceph a b"), 0, 1, 30),
        (xml(2, "", "ceph other"), 0, 1, 30),
        (xml(7, "", "tls e"), 0, 1, 30),
        (xml(2, "", "ceph a b"), 2, 8, 30),
        ("<secret><bogus/></secret>".to_owned(), 1, 92, 5),
    ] {
        let error = secrets.secret_define_xml(xml.clone(), flags).await.unwrap_err();
        assert_eq!((error.code.0, error.origin.0), (code, origin), "{xml}: {error}");
    }
    for value in [&b""[..], b"\0\xff\n", &[0x5a; 65_536]] {
        set(&stack, &all[2], value).await.unwrap();
        assert_eq!(get(&stack, &all[2]).await.unwrap(), value);
    }
    let error = set(&stack, &all[2], &[0; 65_537]).await.unwrap_err();
    assert!(error.message.contains("65536"), "{error}");
    // A new definition keeps the value, and one that becomes private keeps it for itself.
    define(&stack, 2, "private='yes'", "ceph a b").await;
    let error = get(&stack, &all[2]).await.unwrap_err();
    assert_eq!((error.code.0, error.origin.0), (65, 30), "{error}");
    let described = secrets.secret_get_xml_desc(all[2].clone(), 0).await.unwrap();
    assert!(described.starts_with("<secret ephemeral='no' private='yes'>\n"), "{described}");
    secrets.secret_undefine(all[2].clone()).await.unwrap();
    let error = secrets.secret_undefine(all[2].clone()).await.unwrap_err();
    assert_eq!((error.code.0, error.origin.0), (66, 30), "{error}");
    let mut seen = Vec::new();
    while seen.len() < 13 {
        seen.push(match events.recv().await.unwrap() {
            SecretEvent::Lifecycle { event, .. } => event,
            SecretEvent::ValueChanged { secret } => {
                assert_eq!(secret, all[2]);
                10
            }
            SecretEvent::Lagged { missed } => panic!("{missed} events are lost"),
        });
    }
    assert_eq!(seen, [0, 0, 0, 0, 0, 0, 0, 0, 10, 10, 10, 0, 1]);
    // Nothing but this driver was started for it.
    let status = stack.status().await.unwrap();
    let running: Vec<_> = status
        .drivers
        .iter()
        .filter(|driver| driver.pid.is_some())
        .map(|driver| driver.name.as_str())
        .collect();
    assert_eq!(running, ["secret"]);
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_value_is_given_to_those_alone_who_may_have_it() {
    let root = Root::new();
    let stack = open(&root).await;
    let open_secret = define(&stack, 1, "", "volume /a").await;
    let private = define(&stack, 2, "private='yes'", "volume /b").await;
    set(&stack, &open_secret, b"one").await.unwrap();
    set(&stack, &private, b"two").await.unwrap();
    assert_eq!(get(&stack, &private).await.unwrap_err().code.0, 65);
    // The drivers' own call is for no client, whatever it wants.
    let lookup = SecretLookup::Uuid(open_secret.uuid);
    let error = stack.secrets().secret_value_for(lookup, 1).await.unwrap_err();
    assert_eq!(error.code.0, 29, "{error}");
    let reader = Connection::builder(&uri(&root)).libexec(libexec()).read_only().open().await.unwrap();
    assert_eq!(get(&reader, &open_secret).await.unwrap_err().code.0, 29);
    assert_eq!(set(&reader, &open_secret, b"x").await.unwrap_err().code.0, 29);
    assert!(reader.secrets().secret_undefine(open_secret.clone()).await.is_err());
    assert!(reader.secrets().secret_rotate_key().await.is_err());
    assert!(reader.secrets().secret_get_xml_desc(private.clone(), 0).await.unwrap().contains("/b"));
    assert_eq!(get(&stack, &open_secret).await.unwrap(), b"one");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn no_value_lies_about_in_any_form() {
    let value = b"correct-horse-battery-staple-7Qz";
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let secret = define(&stack, 1, "", "volume /a").await;
    let ephemeral = define(&stack, 2, "ephemeral='yes'", "volume /b").await;
    let private = define(&stack, 3, "private='yes'", "volume /c").await;
    for secret in [&secret, &ephemeral, &private] {
        set(&stack, secret, value).await.unwrap();
    }
    // Answers and errors of all kinds, deaths, and a rotation.
    let mut said = String::new();
    for xml in [xml(1, "", "volume /x"), xml(9, "", "volume /a")] {
        said += &stack.secrets().secret_define_xml(xml, 0).await.unwrap_err().message;
    }
    for secret in [&secret, &ephemeral, &private] {
        said += &stack.secrets().secret_get_xml_desc(secret.clone(), 0).await.unwrap();
    }
    said += &get(&stack, &private).await.unwrap_err().message;
    said += &format!("{:?}", stack.secrets().secret_get_value(secret.clone(), 0).await.unwrap());
    let mut long = value.repeat(3000);
    said += &set(&stack, &secret, &long).await.unwrap_err().message;
    long.truncate(60_000);
    set(&stack, &private, &long).await.unwrap();
    stack.domains().connect_list_all_domains(1, 0).await.unwrap();
    stack.secrets().secret_rotate_key().await.unwrap();
    let (pid, _) = driver(&stack, "secret").await.unwrap();
    kill(pid, nix::sys::signal::Signal::SIGABRT);
    assert_eq!(get(&stack, &ephemeral).await.unwrap(), value);
    said += &serde_json::to_string(&stack.status().await.unwrap()).unwrap();
    let forms = forms(value);
    let mut searched = (0, Vec::new());
    search(root.path(), &forms, &mut searched);
    assert!(searched.0 >= 5, "{searched:?}");
    assert!(searched.1.is_empty(), "a value lies in {:?}", searched.1);
    assert!(!is_in(said.as_bytes(), &forms), "{said}");
    stack.stop().await.unwrap();
    // The search finds what lies about: a value that somebody put there.
    fs::write(root.path().join("lib/found"), format!("x{}", String::from_utf8_lossy(&forms[3]))).unwrap();
    search(root.path(), &forms, &mut searched);
    assert_eq!(searched.1.len(), 1);
}

#[tokio::test]
async fn what_can_not_be_opened_is_refused_with_the_reason_and_left_as_it_is() {
    let (root, other) = (Root::new(), Root::new());
    let foreign = {
        let stack = open(&other).await;
        let secret = define(&stack, 3, "", "volume /c").await;
        set(&stack, &secret, b"foreign").await.unwrap();
        stack.stop().await.unwrap();
        fs::read(other.path().join("lib/secret").join(format!("{}.secret", secret.uuid))).unwrap()
    };
    let stack = open(&root).await;
    let good = define(&stack, 1, "", "volume /a").await;
    let damaged = define(&stack, 2, "", "volume /b").await;
    let torn = define(&stack, 4, "", "volume /d").await;
    for secret in [&good, &damaged, &torn] {
        set(&stack, secret, b"value").await.unwrap();
    }
    stack.stop().await.unwrap();
    let file = |number: u32| {
        root.path().join("lib/secret").join(format!("00000000-0000-4000-8000-{number:012}.secret"))
    };
    let changed = fs::read_to_string(file(2)).unwrap().replace("private='no'", "private='yes'");
    fs::write(file(2), &changed).unwrap();
    fs::write(file(3), &foreign).unwrap();
    let half = fs::read(file(4)).unwrap()[..100].to_vec();
    fs::write(file(4), &half).unwrap();

    let stack = open(&root).await;
    let foreign_ref = stack.secrets().secret_lookup_by_usage(1, "/c".to_owned()).await.unwrap();
    let refused = |error: bulkhead::Error, reason: &str| {
        assert!(error.message.contains(reason), "{reason}: {error}");
    };
    refused(get(&stack, &foreign_ref).await.unwrap_err(), "another host");
    refused(set(&stack, &foreign_ref, b"new").await.unwrap_err(), "another host");
    refused(set(&stack, &damaged, b"new").await.unwrap_err(), "damaged");
    refused(get(&stack, &torn).await.unwrap_err(), "can't be read");
    refused(set(&stack, &torn, b"new").await.unwrap_err(), "can't be read");
    let again = stack.secrets().secret_define_xml(xml(4, "", "volume /d"), 0).await;
    refused(again.unwrap_err(), "can't be read");
    let rotated = stack.secrets().secret_rotate_key().await.unwrap();
    assert_eq!((rotated.values, rotated.unopened.len()), (1, 2));
    assert_eq!(get(&stack, &good).await.unwrap(), b"value");
    assert_eq!(fs::read_to_string(file(2)).unwrap(), changed);
    assert_eq!(fs::read(file(3)).unwrap(), foreign);
    assert_eq!(fs::read(file(4)).unwrap(), half);

    // Without the key, and with a wrong one, nothing is read, written or made anew.
    let key = root.path().join("etc/secret/master.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    stack.stop().await.unwrap();
    let kept = root.path().join("kept");
    fs::rename(&key, &kept).unwrap();
    let before = fs::read(file(1)).unwrap();
    let stack = open(&root).await;
    refused(get(&stack, &good).await.unwrap_err(), "another host");
    let fresh = define(&stack, 5, "", "volume /e").await;
    refused(set(&stack, &fresh, b"new").await.unwrap_err(), "the key is missing");
    refused(stack.secrets().secret_rotate_key().await.unwrap_err(), "the key is missing");
    assert!(!key.exists());
    fs::write(&key, format!("{}\n", "5a".repeat(32))).unwrap();
    refused(get(&stack, &good).await.unwrap_err(), "644");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    refused(get(&stack, &good).await.unwrap_err(), "another host");
    refused(set(&stack, &good, b"new").await.unwrap_err(), "another host");
    assert_eq!(fs::read(file(1)).unwrap(), before);
    // The key comes back, and all is as it was.
    fs::copy(&kept, &key).unwrap();
    assert_eq!(get(&stack, &good).await.unwrap(), b"value");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn ten_thousand_secrets_are_found_again() {
    const MANY: u32 = 10_000;
    let root = Root::new();
    let stack = open(&root).await;
    let one = define(&stack, 0, "", "tls name 0").await;
    stack.stop().await.unwrap();
    // Defining each takes two syncs of the disk, which is not what is looked at here.
    let folder = root.path().join("lib/secret");
    let record = fs::read_to_string(folder.join(format!("{}.secret", one.uuid))).unwrap();
    for number in 1..MANY {
        let uuid = format!("00000000-0000-4000-8000-{number:012}");
        let record = record.replace(&one.uuid.to_string(), &uuid);
        let record = record.replace("name 0", &format!("name {number}"));
        fs::write(folder.join(format!("{uuid}.secret")), record).unwrap();
    }
    let began = Instant::now();
    let stack = open(&root).await;
    let last = stack.secrets().secret_lookup_by_usage(4, format!("name {}", MANY - 1)).await.unwrap();
    figure(&format!("driver with {MANY} secrets answers after {} ms", began.elapsed().as_millis()));
    set(&stack, &last, b"the last").await.unwrap();
    let (pid, incarnation) = driver(&stack, "secret").await.unwrap();
    kill(pid, nix::sys::signal::Signal::SIGKILL);
    wait_for("the driver is back", SOON, || async {
        let (_, now) = driver(&stack, "secret").await?;
        if now > incarnation { Ok(()) } else { Err("the old one".to_owned()) }
    })
    .await;
    assert_eq!(get(&stack, &last).await.unwrap(), b"the last");
    let list = stack.secrets().connect_list_all_secrets(1, 0).await.unwrap();
    assert_eq!(list.secrets.len(), MANY as usize);
    stack.stop().await.unwrap();
}

/// Kilobytes of a process that are its own.
fn share_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn the_driver_starts_when_it_is_needed_and_costs_little() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    stack.domains().connect_list_all_domains(1, 0).await.unwrap();
    assert!(driver(&stack, "secret").await.is_err());
    assert_eq!(stack.secrets().connect_num_of_secrets().await.unwrap(), 0);
    let (secret, _) = driver(&stack, "secret").await.unwrap();
    let (log, _) = driver(&stack, "log").await.unwrap();
    figure(&format!("idle: secret {} KiB, log {} KiB of memory", share_kib(secret), share_kib(log)));
    let status = stack.status().await.unwrap();
    let secret = status.drivers.iter().find(|driver| driver.name == "secret").unwrap();
    let locked = secret.confinement.iter().any(|word| word == "memory locked");
    assert!(locked || secret.confinement_missing.iter().any(|word| word.contains("memory is not locked")));
    stack.stop().await.unwrap();
}
