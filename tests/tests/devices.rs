//! Guests with more than a disk: firmware of their own, images on layers, displays, channels.

use bulkhead_tests::fixture::{Root, domain, libexec, skip};
use std::io::Read;
use std::path::Path;
use std::process::Command;

fn image(arguments: &[&str]) {
    let made =
        Command::new("qemu-img").args(["create", "-q"]).args(arguments).status().expect("qemu-img runs");
    assert!(made.success(), "{arguments:?}");
}

#[tokio::test]
async fn a_guest_with_firmware_layers_display_and_agent_starts_and_shows_its_screen() {
    if !Path::new("/usr/share/OVMF/OVMF_CODE_4M.ms.fd").exists() || !Path::new("/usr/bin/qemu-img").exists() {
        return skip("no OVMF or no qemu-img");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap_or_else(|error| panic!("{}: {error}", libexec().display()));
    let folder = root.path().join("images");
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    image(&["-f", "raw", &path("base.raw"), "8M"]);
    image(&["-f", "qcow2", "-b", &path("base.raw"), "-F", "raw", &path("top.qcow2")]);
    image(&["-f", "raw", &path("scsi.raw"), "8M"]);
    let xml = format!(
        "<domain type='qemu'><name>big</name><memory unit='MiB'>128</memory><vcpu>2</vcpu>
         <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/><apic/></features>
         <devices>
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>
         <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/><source file='{}'/>
         <target dev='sda' bus='scsi'/></disk>
         <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk>
         <controller type='scsi' model='virtio-scsi'/>
         <interface type='user'><model type='virtio'/></interface>
         <serial type='file'><source path='{}'/></serial>
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
         <graphics type='vnc' autoport='yes' passwd='secret'/><video><model type='virtio'/></video>
         <input type='tablet' bus='usb'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
         <watchdog model='itco' action='reset'/><audio id='1' type='none'/></devices></domain>",
        path("top.qcow2"),
        path("scsi.raw"),
        path("serial.log"),
    );
    let domains = stack.domains();
    let guest = domains.domain_define_xml_flags(xml, 0).await.unwrap();
    domains.domain_create_with_flags(guest.clone(), 0).await.unwrap();

    let live = domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap();
    let variables = root.path().join("lib/qemu/nvram/big_VARS.fd");
    assert!(variables.is_file() && live.contains(&variables.display().to_string()), "{live}");
    assert!(live.contains(&path("base.raw")), "the layer below is not named: {live}");
    assert!(live.contains("port='59") && !live.contains("secret"), "{live}");
    let secure = domains.domain_get_xml_desc(guest.clone(), 1).await.unwrap();
    assert!(secure.contains("passwd='secret'"), "{secure}");

    let picture = domains.domain_screenshot(guest.clone(), 0, 0).await.unwrap();
    assert_eq!(picture.mime.as_deref(), Some("image/png"));
    let mut bytes = [0; 8];
    std::fs::File::from(picture.file.into_owned().unwrap()).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"\x89PNG\r\n\x1a\n");

    // A second guest on the same images is refused before its QEMU opens them, and told who has them.
    let other = live_name(&secure);
    let clash = domains.domain_define_xml_flags(other, 0).await.unwrap();
    let refusal = domains.domain_create_with_flags(clash, 0).await.unwrap_err();
    assert!(refusal.message.contains("'other'") && refusal.message.contains("'big'"), "{refusal}");

    domains.domain_destroy_flags(guest, 0).await.unwrap();
    assert!(domain(&stack, "big").await.is_ok() && root.helpers_gone());
    stack.stop().await.unwrap();
}

/// The same definition under another name and uuid.
fn live_name(xml: &str) -> String {
    let (before, rest) = xml.split_once("<uuid>").expect("the XML has a uuid");
    let (_, after) = rest.split_once("</uuid>").expect("the XML has a uuid");
    format!("{}{after}", before.replace("<name>big</name>", "<name>other</name>"))
}
