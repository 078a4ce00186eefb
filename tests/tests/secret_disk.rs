//! Guests whose disks, and whose TPMs, are encrypted with values of secrets.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::types::DomainRef;
use bulkhead::wire::types::secret::{SecretRef, SecretValue};
use bulkhead_tests::fixture::{Root, driver, guest_files, kill, skip, ticker_xml, wait_for};
use bulkhead_tests::traces::{forms, is_in, search};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const VALUE: &[u8] = b"correct-horse-battery-staple-7Qz";
const UUID: &str = "00000000-0000-4000-8000-000000000001";

fn have() -> Option<PathBuf> {
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

/// The boot sector guest in an encrypted image of this format.
fn image(root: &Root, files: &Path, format: &str) -> PathBuf {
    let path = root.path().join(format!("{format}.img"));
    let key =
        root.path().parent().unwrap().join(format!("{}.key", root.path().file_name().unwrap().display()));
    std::fs::write(&key, VALUE).unwrap();
    let prefix = if format == "luks" { "" } else { "encrypt." };
    let run = |arguments: &[&str]| {
        let object = format!("secret,id=key,file={}", key.display());
        let mut command = Command::new("qemu-img");
        command.args([arguments[0], "--object", &object]).args(&arguments[1..]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let mut options = format!("{prefix}key-secret=key,{prefix}iter-time=10");
    if format != "luks" {
        options += ",encrypt.format=luks";
    }
    run(&["create", "-q", "-f", format, "-o", &options, path.to_str().unwrap(), "1M"]);
    let target = format!("driver={format},{prefix}key-secret=key,file.filename={}", path.display());
    let source = files.join("ticker.img");
    run(&["convert", "-n", "-f", "raw", "--target-image-opts", source.to_str().unwrap(), &target]);
    std::fs::remove_file(key).unwrap();
    path
}

/// The guest's XML; what it prints goes into a file.
fn xml(root: &Root, name: &str, disk: &Path, encryption: &str, devices: &str) -> String {
    let output = root.path().join(format!("{name}.out"));
    let serial = format!("<serial type='file'><source path='{}'/></serial>{devices}", output.display());
    let driver = if name == "qcow2" { "qcow2" } else { "raw" };
    ticker_xml(name, disk, &serial)
        .replace("type='raw'/>", &format!("type='{driver}'/>"))
        .replace("'/><target dev='hda'", &format!("'>{encryption}</source><target dev='hda'"))
}

fn by_uuid() -> String {
    format!("<encryption format='luks'><secret type='passphrase' uuid='{UUID}'/></encryption>")
}

async fn define_secret(stack: &Connection, usage: &str) -> SecretRef {
    let xml = format!("<secret private='yes'><uuid>{UUID}</uuid>{usage}</secret>");
    stack.secrets().secret_define_xml(xml, 0).await.unwrap()
}

async fn set(stack: &Connection, secret: &SecretRef, value: &[u8]) {
    stack.secrets().secret_set_value(secret.clone(), SecretValue::new(value.to_vec()), 0).await.unwrap();
}

async fn start(stack: &Connection, guest: &DomainRef) -> Result<(), bulkhead::Error> {
    stack.domains().domain_create_with_flags(guest.clone(), 0).await.map(drop)
}

/// Waits until the guest has counted: it was read from its disk.
async fn counts(root: &Root, name: &str) {
    let output = root.path().join(format!("{name}.out"));
    wait_for("the guest counts", SOON, || async {
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        if text.lines().filter(|line| line.trim().parse::<u64>().is_ok()).count() >= 3 {
            return Ok(());
        }
        Err(text)
    })
    .await;
}

const VOLUME: &str = "<usage type='volume'><volume>/images/a</volume></usage>";

#[tokio::test]
async fn a_guest_is_read_from_an_encrypted_disk_and_the_key_lies_about_nowhere() {
    let Some(files) = have() else { return };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let secret = define_secret(&stack, VOLUME).await;
    set(&stack, &secret, VALUE).await;
    let by_usage =
        "<encryption format='luks'><secret type='passphrase' usage='/images/a'/></encryption>".to_owned();
    let mut said = String::new();
    let mut guests = Vec::new();
    for (format, encryption) in [("luks", by_uuid()), ("qcow2", by_usage)] {
        let disk = image(&root, &files, format);
        let xml = xml(&root, format, &disk, &encryption, "");
        let guest = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
        start(&stack, &guest).await.unwrap();
        counts(&root, format).await;
        for flags in 0..4 {
            said += &stack.domains().domain_get_xml_desc(guest.clone(), flags).await.unwrap();
        }
        guests.push(guest);
    }
    // As stock hands it over: under a master key, which is in no file that has a name.
    for pid in root.helpers() {
        for place in ["cmdline", "environ"] {
            said += &String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{place}")).unwrap());
        }
    }
    assert!(said.contains(r#""id":"masterKey0","format":"raw","file":"/proc/self/fd/"#), "{said}");
    assert!(said.contains(r#""id":"libvirt-1-format-encryption-secret0","data":""#), "{said}");
    assert!(said.contains(r#""keyid":"masterKey0","iv":""#), "{said}");
    // Who dies keeps nothing, and who comes after needs nothing.
    let (pid, _) = driver(&stack, "qemu").await.unwrap();
    kill(pid, Signal::SIGABRT);
    wait_for("the next one", SOON, || async {
        let (now, _) = driver(&stack, "qemu").await?;
        (now != pid).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
    for guest in guests {
        stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
        start(&stack, &guest).await.unwrap();
        stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    }
    said += &serde_json::to_string(&stack.status().await.unwrap()).unwrap();
    let forms = forms(VALUE);
    let mut searched = (0, Vec::new());
    search(root.path(), &forms, &mut searched);
    assert!(searched.0 >= 10 && searched.1.is_empty(), "{searched:?}");
    assert!(!is_in(said.as_bytes(), &forms), "{said}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn without_its_value_a_guest_does_not_start_and_the_secret_is_named() {
    let Some(files) = have() else { return };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let disk = image(&root, &files, "luks");
    let xml = xml(&root, "luks", &disk, &by_uuid(), "");
    let guest = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
    let refused = |error: bulkhead::Error, code: i32, origin: i32, what: &str| {
        assert_eq!((error.code.0, error.origin.0), (code, origin), "{error}");
        assert!(error.message.contains(what) && error.message.contains("'luks'"), "{error}");
    };
    // As stock: the codes of the secret driver.
    refused(start(&stack, &guest).await.unwrap_err(), 66, 30, UUID);
    let secret = define_secret(&stack, "<usage type='tls'><name>a</name></usage>").await;
    set(&stack, &secret, VALUE).await;
    refused(start(&stack, &guest).await.unwrap_err(), 8, 0, UUID);
    stack.secrets().secret_undefine(secret).await.unwrap();
    let secret = define_secret(&stack, VOLUME).await;
    refused(start(&stack, &guest).await.unwrap_err(), 66, 30, UUID);
    set(&stack, &secret, b"another").await;
    refused(start(&stack, &guest).await.unwrap_err(), 1, 10, "Invalid password");
    assert!(root.helpers_gone());
    // It does once it is there.
    set(&stack, &secret, VALUE).await;
    start(&stack, &guest).await.unwrap();
    counts(&root, "luks").await;
    stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_tpms_state_is_encrypted_with_a_secret() {
    let Some(files) = have() else { return };
    if !Path::new("/usr/bin/swtpm").exists() || !Path::new("/usr/bin/certtool").exists() {
        return skip("no swtpm or gnutls-bin");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let disk = root.path().join("tpm.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let tpm = format!(
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='{UUID}'/></backend></tpm>"
    );
    let xml = xml(&root, "tpm", &disk, "", &tpm);
    let guest = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
    let error = start(&stack, &guest).await.unwrap_err();
    assert!(error.code.0 == 66 && error.message.contains(UUID), "{error}");
    let secret = define_secret(&stack, "<usage type='vtpm'><name>tpm</name></usage>").await;
    set(&stack, &secret, VALUE).await;
    for _ in 0..2 {
        start(&stack, &guest).await.unwrap();
        counts(&root, "tpm").await;
        stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
    }
    let state = root.path().join(format!("lib/qemu/swtpm/{}/tpm2/tpm2-00.permall", guest.uuid));
    let bytes = std::fs::read(&state).unwrap();
    // With another passphrase it is not opened.
    set(&stack, &secret, b"another").await;
    let error = start(&stack, &guest).await.unwrap_err();
    assert!(error.message.contains("'tpm'"), "{error}");
    assert_eq!(std::fs::read(&state).unwrap(), bytes);
    set(&stack, &secret, VALUE).await;
    start(&stack, &guest).await.unwrap();
    stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    let mut searched = (0, Vec::new());
    search(root.path(), &forms(VALUE), &mut searched);
    assert!(searched.1.is_empty(), "{searched:?}");
    stack.stop().await.unwrap();
}
