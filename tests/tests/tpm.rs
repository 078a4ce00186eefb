//! A guest with an emulated TPM: made once, seen by the guest's firmware, there as long as the guest, gone with it.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::error::Code;
use bulkhead::wire::types::DomainRef;
use bulkhead_tests::fixture::{Root, domain, driver, guest_files, kill, skip, ticker_xml, wait_for};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// `VIR_DOMAIN_UNDEFINE_KEEP_TPM`.
const KEEP: u32 = 64;

fn have() -> Option<PathBuf> {
    if !Path::new("/usr/bin/swtpm").exists() || !Path::new("/usr/bin/certtool").exists() {
        skip("no swtpm or gnutls-bin");
        return None;
    }
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

fn xml(root: &Root, files: &Path, name: &str, tpm: &str) -> String {
    let disk = root.path().join(format!("{name}.img"));
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let device = format!("<tpm model='tpm-crb'>{tpm}</tpm>");
    ticker_xml(name, &disk, &format!("<serial type='null'/>{device}"))
}

/// Whose program this is, of the processes that the broker knows.
fn emulators(root: &Root) -> Vec<u32> {
    let is_one = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .unwrap_or_default()
            .starts_with("/usr/bin/swtpm\0")
    };
    root.helpers().into_iter().filter(is_one).collect()
}

fn state(root: &Root, guest: &DomainRef) -> PathBuf {
    root.path().join(format!("lib/qemu/swtpm/{}/tpm2/tpm2-00.permall", guest.uuid))
}

async fn start(stack: &Connection, guest: &DomainRef) {
    stack.domains().domain_create_with_flags(guest.clone(), 0).await.unwrap();
}

#[tokio::test]
async fn a_guest_has_a_tpm_of_its_own_that_lives_and_ends_with_it() {
    let Some(files) = have() else { return };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let tpm = "<backend type='emulator' version='2.0' debug='20'/>";
    let guest = stack.domains().domain_define_xml_flags(xml(&root, &files, "own", tpm), 0).await.unwrap();
    start(&stack, &guest).await;
    let running = emulators(&root);
    assert_eq!((running.len(), root.helpers().len()), (1, 2));
    let made = std::fs::read(state(&root, &guest)).unwrap();
    // The firmware starts the TPM: TPM2_CC_Startup, the first command that a guest sends.
    wait_for("the guest's own command", SOON, || async {
        let said = std::fs::read_to_string(root.path().join("log/own-swtpm.log")).unwrap_or_default();
        said.contains("80 01 00 00 00 0C 00 00 01 44").then_some(()).ok_or(said)
    })
    .await;

    // Its driver's death is not its end.
    let (pid, _) = driver(&stack, "qemu").await.unwrap();
    kill(pid, Signal::SIGKILL);
    wait_for("the next incarnation", SOON, || async {
        let (now, _) = driver(&stack, "qemu").await?;
        (now != pid).then_some(()).ok_or("the old one".to_owned())
    })
    .await;
    let guest = domain(&stack, "own").await.unwrap();
    assert_eq!(emulators(&root), running, "adopted");

    stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
    assert!(root.helpers_gone(), "it ends with its guest");
    start(&stack, &guest).await;
    assert_eq!(emulators(&root).len(), 1);
    let kept = std::fs::read(state(&root, &guest)).unwrap();
    assert_eq!(kept.len(), made.len(), "made once, with its keys");
    stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
    stack.domains().domain_undefine_flags(guest.clone(), KEEP).await.unwrap();
    assert!(state(&root, &guest).exists(), "kept as asked");

    let again = ticker_again(&root, &files, &guest, tpm);
    let guest = stack.domains().domain_define_xml_flags(again, 0).await.unwrap();
    stack.domains().domain_undefine_flags(guest.clone(), 0).await.unwrap();
    assert!(!state(&root, &guest).exists(), "gone with the definition");
    stack.stop().await.unwrap();
}

/// The same guest, defined anew.
fn ticker_again(root: &Root, files: &Path, guest: &DomainRef, tpm: &str) -> String {
    let named = format!("<name>own</name><uuid>{}</uuid>", guest.uuid);
    xml(root, files, "own", tpm).replace("<name>own</name>", &named)
}

#[tokio::test]
async fn what_a_tpm_can_not_have_is_refused_with_the_reason() {
    let Some(files) = have() else { return };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    for (tpm, says) in [
        ("<backend type='emulator'><profile source='x'/></backend>", "profile"),
        ("<backend type='passthrough'><device path='/dev/tpm0'/></backend>", "type='emulator'"),
    ] {
        let xml = xml(&root, &files, "odd", tpm);
        let guest = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
        let error = stack.domains().domain_create_with_flags(guest.clone(), 0).await.unwrap_err();
        assert_eq!(error.code, Code::CONFIG_UNSUPPORTED);
        assert!(error.message.contains("'odd'") && error.message.contains(says), "{error}");
        assert!(root.helpers_gone());
        stack.domains().domain_undefine_flags(guest, 0).await.unwrap();
    }
    stack.stop().await.unwrap();
}
