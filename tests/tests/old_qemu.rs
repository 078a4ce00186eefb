//! An older QEMU that the host's owner listed, named by `BULKHEAD_QEMU_72`: what is written for the newest one works with it.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{Root, guest_files, skip, ticker_xml, wait_for};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// `VIR_DOMAIN_START_PAUSED`.
const PAUSED: u32 = 1;

/// The emulator, and the guests' files.
fn have() -> Option<(String, PathBuf)> {
    let Ok(emulator) = std::env::var("BULKHEAD_QEMU_72") else {
        skip("BULKHEAD_QEMU_72 names no older qemu-system-x86_64");
        return None;
    };
    let Some(files) = guest_files() else {
        skip("no guest files; tools/guest/build makes them");
        return None;
    };
    Some((emulator, files))
}

fn listing(emulator: &str) -> Root {
    let root = Root::new();
    let folder = root.path().join("etc/broker");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("emulators"), format!("{emulator}\n")).unwrap();
    root
}

#[tokio::test]
async fn a_guest_counts_on_an_older_qemu() {
    let Some((emulator, files)) = have() else { return };
    let root = listing(&emulator);
    let (disk, output) = (root.path().join("own.img"), root.path().join("serial.txt"));
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let serial = format!("<serial type='file'><source path='{}'/></serial>", output.display());
    let xml = ticker_xml("own", &disk, &serial).replace("/usr/bin/qemu-system-x86_64", &emulator);
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let guest = domains.domain_define_xml_flags(xml, 0).await.unwrap();
    let xml = domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap();
    // The machine is the one that this QEMU means.
    assert!(xml.contains("machine='pc-i440fx-7.2'"), "{xml}");
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();
    wait_for("the guest counts", SOON, || async {
        let text = std::fs::read_to_string(&output).unwrap_or_default();
        if text.lines().count() > 5 { Ok(()) } else { Err(text) }
    })
    .await;
    domains.domain_destroy_flags(guest, 0).await.unwrap();
}

#[tokio::test]
async fn the_usual_devices_are_had_from_an_older_qemu() {
    let Some((emulator, _)) = have() else { return };
    let root = listing(&emulator);
    let disk = root.path().join("disk.img");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let xml = format!(
        "<domain type='qemu'><name>full</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><cpu mode='host-model'/>\
         <devices><emulator>{emulator}</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>\
         <source file='{0}'/><target dev='vda' bus='virtio'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{0}2'/>\
         <target dev='sda' bus='scsi'/></disk><controller type='scsi' model='virtio-scsi'/>\
         <interface type='user'><model type='virtio'/></interface><interface type='user'><model type='e1000e'/></interface>\
         <serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <input type='tablet' bus='usb'/><graphics type='vnc' port='-1'><listen type='socket'/></graphics>\
         <video><model type='virtio'/></video><audio id='1' type='none'/><sound model='ich9'/>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><watchdog model='itco' action='reset'/>\
         <panic model='isa'/><memballoon model='virtio'/></devices></domain>",
        disk.display()
    );
    std::fs::copy(&disk, format!("{}2", disk.display())).unwrap();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let guest = domains.domain_define_xml_flags(xml, 0).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), PAUSED).await.unwrap();
    let xml = domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap();
    assert!(xml.contains("machine='pc-q35-7.2'") && xml.contains("<cpu mode='custom'"), "{xml}");
    domains.domain_destroy_flags(guest, 0).await.unwrap();
}
