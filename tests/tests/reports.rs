//! What libvirt's users complain about, as far as it concerns what is built: each public report is a test that asserts what
//! would be right.
//!
//! | Report | What it is about | Test |
//! | --- | --- | --- |
//! | 2 | a rename keeps the old firmware variables | `a_rename_takes_firmware_variables_along_and_nobody_loses_anothers` |
//! | 11 | a damaged saved state makes a guest unstartable | `a_damaged_saved_state_is_named_with_what_helps` |
//! | 12 | undefining a UEFI guest depends on what can't be seen | `variables.rs :: a_domain_with_firmware_variables_is_undefined_only_with_a_word_about_them` |
//! | 14, 16, 18 | pools and volumes | `pools.rs` |
//! | 29 | one stuck QEMU makes reads hang | `hang.rs :: a_hung_qemu_holds_nobody_up_but_those_who_need_it`, `a_stuck_guest_is_not_waited_for_twice` |
//! | 30 | VNC passwords over 8 characters | `a_long_password_is_refused_anew_and_borne_in_what_is_there` |
//! | 32 | an empty USB drive | `an_empty_drive_on_usb_is_refused_with_the_buses_that_can_hold_it` |
//! | 34 | `<acpi/>` where there is none | `acpi_where_there_is_none_is_named` |
//! | 36 | a restart of the daemon loses guests | `session.rs :: a_new_daemon_adopts_the_guests_of_one_that_was_killed` (nothing here speaks D-Bus) |
//!
//! Reports 1, 4, 6 to 9, 20 and 39 are about snapshots, checkpoints and block jobs, 15 and 22 to 26 about networks, 27 and 38 about
//! hot plug, 19 about AppArmor: their tests come with those.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead::wire::error::Code;
use bulkhead_tests::fixture::{Root, domain, guest_files, kill, skip, ticker_xml};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

const REMOVE_VARIABLES: u32 = 4;

fn efi(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><os firmware='efi'>\
         <type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>"
    )
}

async fn define(stack: &Connection, xml: String) -> bulkhead::wire::types::DomainRef {
    stack.domains().domain_define_xml_flags(xml, 0).await.unwrap()
}

#[tokio::test]
async fn a_rename_takes_firmware_variables_along_and_nobody_loses_anothers() {
    if !Path::new("/usr/share/qemu/firmware/60-edk2-x86_64.json").exists() {
        return skip("no ovmf");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let folder = root.path().join("lib/qemu/nvram");
    let old = define(&stack, efi("na")).await;
    // As its first start makes them.
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("na_VARS.fd"), "of the first").unwrap();
    domains.domain_rename(old, Some("nb".to_owned()), 0).await.unwrap();
    let renamed = domain(&stack, "nb").await.unwrap();
    let xml = domains.domain_get_xml_desc(renamed.clone(), 0).await.unwrap();
    assert!(xml.contains("nb_VARS.fd") && !xml.contains("na_VARS.fd"), "{xml}");
    assert_eq!(std::fs::read(folder.join("nb_VARS.fd")).unwrap(), b"of the first");
    // Another one of the old name has its own, and takes nothing with it.
    let second = define(&stack, efi("na")).await;
    let xml = domains.domain_get_xml_desc(second.clone(), 0).await.unwrap();
    assert!(xml.contains("na_VARS.fd") && !xml.contains("nb_VARS.fd"), "{xml}");
    domains.domain_undefine_flags(second, REMOVE_VARIABLES).await.unwrap();
    assert!(folder.join("nb_VARS.fd").exists());
    // Whoever names another's file does not remove it.
    let shared = format!("<nvram>{}</nvram></os>", folder.join("nb_VARS.fd").display());
    let third = define(&stack, efi("nc").replace("</os>", &shared)).await;
    let refusal = domains.domain_undefine_flags(third.clone(), REMOVE_VARIABLES).await.unwrap_err();
    assert_eq!(refusal.code, Code::OPERATION_INVALID);
    assert!(refusal.message.contains("'nb'") && refusal.message.contains("KEEP_NVRAM"), "{refusal}");
    assert!(folder.join("nb_VARS.fd").exists());
    domains.domain_undefine_flags(third, 8).await.unwrap();
    domains.domain_undefine_flags(renamed, REMOVE_VARIABLES).await.unwrap();
    assert!(!folder.join("nb_VARS.fd").exists());
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_damaged_saved_state_is_named_with_what_helps() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let disk = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let guest = define(&stack, ticker_xml("web", &disk, "")).await;
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    domains.domain_managed_save(guest.clone(), 0).await.unwrap();
    let saved = walk(root.path(), "web.save");
    std::fs::OpenOptions::new().write(true).open(&saved).unwrap().set_len(200).unwrap();
    for _ in 0..2 {
        let refusal = domains.domain_create_with_flags(guest.clone(), 0).await.unwrap_err();
        assert!(refusal.message.contains("web.save"), "{refusal}");
        let remedies = ["save-remove", "managedsave-remove", "remove"];
        assert!(remedies.iter().any(|remedy| refusal.message.contains(remedy)), "{refusal}");
    }
    domains.domain_managed_save_remove(guest.clone(), 0).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    domains.domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}

/// The file of that name below a folder.
fn walk(folder: &Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                return entry.path();
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    panic!("no {name} below {}", folder.display());
}

#[tokio::test]
async fn a_stuck_guest_is_not_waited_for_twice() {
    const NOWAIT: u32 = 1 << 29;
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let mut stuck = 0;
    for name in ["stuck", "well"] {
        let disk = root.path().join(format!("{name}.img"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let guest = define(&stack, ticker_xml(name, &disk, "")).await;
        domains.domain_create_with_flags(guest, 0).await.unwrap();
        if name == "stuck" {
            stuck = root.helpers()[0];
            kill(stuck, Signal::SIGSTOP);
        }
    }
    let blocks = |stats: &[bulkhead::wire::types::DomainStats], name: &str| {
        let of = stats.iter().find(|stats| stats.domain.name == name).unwrap();
        of.parameters.iter().any(|parameter| parameter.field == "block.0.rd.reqs")
    };
    for flags in [0, NOWAIT] {
        // The first who asks finds out, and pays for it.
        domains.connect_get_all_domain_stats(Vec::new(), 0, flags).await.unwrap();
        // A machine that does other things too may be slow once.
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            let stats = domains.connect_get_all_domain_stats(Vec::new(), 0, flags).await.unwrap();
            quickest = quickest.min(began.elapsed());
            assert!(blocks(&stats, "well") && !blocks(&stats, "stuck"));
        }
        assert!(quickest < Duration::from_millis(700), "{quickest:?}");
    }
    kill(stuck, Signal::SIGCONT);
    bulkhead_tests::fixture::wait_for("it is asked again", Duration::from_secs(20), || async {
        let stats = domains.connect_get_all_domain_stats(Vec::new(), 0, 0).await.unwrap();
        if blocks(&stats, "stuck") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    for name in ["stuck", "well"] {
        domains.domain_destroy_flags(domain(&stack, name).await.unwrap(), 0).await.unwrap();
    }
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_long_password_is_refused_anew_and_borne_in_what_is_there() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let xml = |password: &str| {
        format!(
            "<domain type='qemu'><name>vnc</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>\
             <devices><graphics type='vnc' passwd='{password}'/></devices></domain>"
        )
    };
    let refusal = stack.domains().domain_define_xml_flags(xml("sixteen-letters!"), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::CONFIG_UNSUPPORTED);
    assert!(refusal.message.contains('8') && !refusal.message.contains("sixteen"), "{refusal}");
    define(&stack, xml("eight888")).await;
    stack.stop().await.unwrap();
    // An older host allowed more.
    let file = root.path().join("etc/qemu/vnc.xml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("eight888"));
    std::fs::write(&file, text.replace("eight888", "sixteen-letters!")).unwrap();
    let stack = root.open().await.unwrap();
    let guest = domain(&stack, "vnc").await.unwrap();
    let secure = stack.domains().domain_get_xml_desc(guest, 1).await.unwrap();
    assert!(secure.contains("sixteen-letters!"), "{secure}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn an_empty_drive_on_usb_is_refused_with_the_buses_that_can_hold_it() {
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let xml = "<domain type='qemu'><name>usb</name><memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>\
        <devices><disk type='file' device='cdrom'><target dev='sda' bus='usb'/></disk></devices></domain>";
    let refusal = stack.domains().domain_define_xml_flags(xml.to_owned(), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::CONFIG_UNSUPPORTED);
    assert!(["sata", "scsi", "ide"].iter().all(|bus| refusal.message.contains(bus)), "{refusal}");
    define(&stack, xml.replace("bus='usb'", "bus='sata'")).await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn acpi_where_there_is_none_is_named() {
    if !Path::new("/usr/bin/qemu-system-s390x").exists() {
        return skip("no qemu-system-s390x");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let xml = "<domain type='qemu'><name>z</name><memory unit='MiB'>64</memory>\
        <os><type arch='s390x' machine='s390-ccw-virtio'>hvm</type></os><features><acpi/></features></domain>";
    let refusal = stack.domains().domain_define_xml_flags(xml.to_owned(), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::CONFIG_UNSUPPORTED);
    assert!(refusal.message.contains("remove <acpi/>"), "{refusal}");
    define(&stack, xml.replace("<acpi/>", "")).await;
    stack.stop().await.unwrap();
}
