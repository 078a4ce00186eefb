//! `bulkhead import`: a host's libvirt, made up in a folder, is taken over and stays as it was.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead::wire::types::Uuid;
use bulkhead_tests::fixture::{Root, domain, libexec, ticker_xml};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tokio::process::Command;

const WEB: &str = "11111111-1111-4111-8111-111111111111";
const VALUE: &str = "22222222-2222-4222-8222-222222222222";
const EMPTY: &str = "33333333-3333-4333-8333-333333333333";

fn write(folder: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A libvirt as it lies on a host's disk.
fn host(folder: &Path) {
    let note = "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n";
    let plain = ticker_xml("web", Path::new("/srv/web.img"), "");
    // With variables and a TPM of its own, and with metadata of others.
    let web = plain
        .replace("<name>web</name>", &format!("<name>web</name><uuid>{WEB}</uuid><metadata><x:y xmlns:x='urn:x'>  kept </x:y></metadata>"))
        .replace("machine='pc'>hvm</type>", "machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
                 <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>")
        .replace("bus='ide'", "bus='sata'")
        .replace("dev='hda'", "dev='sda'");
    write(folder, "etc/libvirt/qemu/web.xml", note.to_owned() + &web);
    std::fs::create_dir_all(folder.join("etc/libvirt/qemu/autostart")).unwrap();
    // As libvirt makes it: it leads to where the definition is on that host.
    symlink("/etc/libvirt/qemu/web.xml", folder.join("etc/libvirt/qemu/autostart/web.xml")).unwrap();
    write(folder, "var/lib/libvirt/qemu/nvram/web_VARS.fd", "variables of web");
    write(folder, "var/lib/libvirt/qemu/save/web.save", "state of web");
    write(folder, &format!("var/lib/libvirt/swtpm/{WEB}/tpm2/tpm2-00.permall"), "TPM of web");
    write(folder, &format!("var/lib/libvirt/swtpm/{WEB}/tpm2/.lock"), "");
    write(folder, "var/lib/libvirt/qemu/snapshot/web/before.xml", "<domainsnapshot/>");

    write(folder, "etc/libvirt/qemu/plain.xml", ticker_xml("plain", Path::new("/srv/plain.img"), ""));
    write(folder, "etc/libvirt/qemu/there.xml", ticker_xml("there", Path::new("/srv/theirs.img"), ""));
    write(folder, "etc/libvirt/qemu/busy.xml", ticker_xml("busy", Path::new("/srv/busy.img"), ""));
    write(folder, "run/libvirt/qemu/busy.pid", format!("{}\n", std::process::id()));
    // It ran when the host went down.
    write(folder, "run/libvirt/qemu/plain.pid", "4194303\n");
    write(folder, "etc/libvirt/qemu/broken.xml", "<domain type='kvm'><name>broken</name>");
    write(
        folder,
        "etc/libvirt/qemu/xen.xml",
        "<domain type='xen'><name>xen</name><memory>1024</memory><os><type>hvm</type></os></domain>",
    );

    write(
        folder,
        "etc/libvirt/qemu/networks/lan.xml",
        "<network><name>lan</name><forward mode='bridge'/><bridge name='br-lan'/></network>",
    );
    write(folder, "etc/libvirt/qemu/networks/autostart/lan.xml", "");
    write(
        folder,
        "etc/libvirt/storage/images.xml",
        "<pool type='dir'><name>images</name><source/><target><path>/srv/images</path></target></pool>",
    );
    write(
        folder,
        "etc/libvirt/storage/far.xml",
        "<pool type='iscsi'><name>far</name><source><host name='h'/><device path='iqn.x'/></source><target><path>/dev/disk</path></target></pool>",
    );
    for (uuid, content) in [(VALUE, Some("c2VjcmV0IG9uZQ==")), (EMPTY, None)] {
        let xml = format!("<secret ephemeral='no' private='no'><uuid>{uuid}</uuid></secret>");
        write(folder, &format!("etc/libvirt/secrets/{uuid}.xml"), xml);
        if let Some(content) = content {
            write(folder, &format!("etc/libvirt/secrets/{uuid}.base64"), content);
        }
    }
    write(folder, "etc/libvirt/nwfilter/clean-traffic.xml", "<filter name='clean-traffic'/>");
    write(folder, "etc/libvirt/hooks/qemu", "#!/bin/sh\n");
    write(folder, "etc/libvirt/qemu.conf", "# nothing\n\nuser = \"root\"\n");
}

/// Everything below a folder, with content, mode and time.
fn whole(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, i64)> {
    let mut found = BTreeMap::new();
    let mut next = vec![folder.to_owned()];
    while let Some(path) = next.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = std::fs::read(&path).unwrap_or_default();
        let time = std::os::unix::fs::MetadataExt::mtime_nsec(&metadata);
        found.insert(path.clone(), (content, metadata.permissions().mode(), time));
        if metadata.is_dir() {
            next.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

async fn import(root: &Root, host: &Path, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(libexec().join("bulkhead"));
    command
        .arg("--root")
        .arg(root.path())
        .arg("--libexec")
        .arg(libexec())
        .args(["import", "--from"])
        .arg(host);
    let output = command.args(arguments).kill_on_drop(true).output().await.unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (text.concat(), output.status.success())
}

/// Kind and name of each thing, whether it was taken, and what was said of it.
fn items(said: &str) -> BTreeMap<String, (bool, String)> {
    let value: Value = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let item = |item: &Value| {
        let text = |name: &str| item[name].as_str().unwrap().to_owned();
        let notes: Vec<&str> =
            item["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
        (format!("{} {}", text("kind"), text("name")), (item["taken"].as_bool().unwrap(), notes.join("; ")))
    };
    value["items"].as_array().unwrap().iter().map(item).collect()
}

#[tokio::test]
async fn what_a_hosts_libvirt_knows_is_taken_over_and_stays_as_it_was() {
    let folder = Root::new();
    host(folder.path());
    let before = whole(folder.path());
    let root = Root::new();
    // The stack has a domain of its own under one of these names.
    let stack = root.open().await.unwrap();
    stack
        .domains()
        .domain_define_xml_flags(ticker_xml("there", Path::new("/srv/ours.img"), ""), 0)
        .await
        .unwrap();

    let expected = [
        (format!("secret {VALUE}"), true, "with its value"),
        (format!("secret {EMPTY}"), true, "no value"),
        ("network lan".to_owned(), true, "started with the stack"),
        ("pool images".to_owned(), true, ""),
        ("pool far".to_owned(), true, "can't be started yet"),
        (
            "domain web".to_owned(),
            true,
            "with its firmware variables; with its stored state; with its TPM; without its 1 snapshots",
        ),
        ("domain plain".to_owned(), true, ""),
        ("domain there".to_owned(), false, "already"),
        ("domain busy".to_owned(), false, "runs under libvirt"),
        ("domain broken".to_owned(), false, "broken.xml"),
        ("domain xen".to_owned(), false, ""),
        ("network filter 1 in nwfilter".to_owned(), false, "no driver"),
        (format!("hook {}/etc/libvirt/hooks/qemu", folder.path().display()), false, "no programs"),
        ("settings 1 in qemu.conf".to_owned(), false, "libvirt's own"),
    ];
    let check = |said: &str| {
        let found = items(said);
        for (what, taken, words) in &expected {
            let (is_taken, notes) = found.get(what).unwrap_or_else(|| panic!("no {what}: {said}"));
            assert!(is_taken == taken && notes.contains(words), "{what}: {is_taken} {notes}");
            assert!(*is_taken || !notes.is_empty(), "{what} is left for no reason");
        }
        assert_eq!(found.len(), expected.len(), "{said}");
    };
    let (said, done) = import(&root, folder.path(), &["--dry-run", "--json"]).await;
    assert!(done, "{said}");
    check(&said);
    assert_eq!(stack.domains().connect_list_all_domains(1, 0).await.unwrap().domains.len(), 1);
    assert!(stack.networks().network_lookup_by_name("lan".to_owned()).await.is_err());
    for copied in ["nvram/web_VARS.fd", "save/web.save", "swtpm"] {
        assert!(!root.path().join("lib/qemu").join(copied).exists(), "{copied}");
    }

    let (said, done) = import(&root, folder.path(), &["--json"]).await;
    assert!(done, "{said}");
    check(&said);
    assert_eq!(whole(folder.path()), before, "libvirt's own files have changed");

    let domains = stack.domains();
    let web = domain(&stack, "web").await.unwrap();
    assert_eq!(web.uuid, Uuid::parse(WEB).unwrap());
    assert_eq!(domains.domain_get_autostart(web.clone()).await.unwrap(), 1);
    assert_eq!(domains.domain_has_managed_save_image(web.clone(), 0).await.unwrap(), 1);
    let xml = domains.domain_get_xml_desc(web, 0).await.unwrap();
    let lib = root.path().join("lib/qemu");
    let variables = lib.join("nvram/web_VARS.fd");
    assert!(xml.contains(variables.to_str().unwrap()) && !xml.contains("/var/lib/libvirt"), "{xml}");
    assert!(
        xml.contains("<x:y xmlns:x=\"urn:x\">  kept </x:y>")
            || xml.contains("<x:y xmlns:x='urn:x'>  kept </x:y>"),
        "{xml}"
    );
    for (file, content) in [
        (variables, "variables of web"),
        (lib.join("save/web.save"), "state of web"),
        (lib.join("swtpm").join(WEB).join("tpm2/tpm2-00.permall"), "TPM of web"),
    ] {
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            file.display()
        );
    }
    assert!(!lib.join("swtpm").join(WEB).join("tpm2/.lock").exists());
    let plain = domain(&stack, "plain").await.unwrap();
    assert_eq!(domains.domain_get_autostart(plain).await.unwrap(), 0);
    let theirs = domain(&stack, "there").await.unwrap();
    assert!(domains.domain_get_xml_desc(theirs, 0).await.unwrap().contains("/srv/ours.img"));

    let secrets = stack.secrets();
    let secret = secrets.secret_lookup_by_uuid(Uuid::parse(VALUE).unwrap()).await.unwrap();
    assert_eq!(secrets.secret_get_value(secret, 0).await.unwrap().expose(), b"secret one");
    let lan = stack.networks().network_lookup_by_name("lan".to_owned()).await.unwrap();
    assert_eq!(stack.networks().network_get_autostart(lan).await.unwrap(), 1);
    let images = stack.pools().storage_pool_lookup_by_name("images".to_owned()).await.unwrap();
    assert_eq!(stack.pools().storage_pool_get_autostart(images).await.unwrap(), 0);

    // Whose state can't be taken is left, and nothing of it stays behind.
    write(folder.path(), "etc/libvirt/qemu/late.xml", ticker_xml("late", Path::new("/srv/late.img"), ""));
    write(folder.path(), "var/lib/libvirt/qemu/save/late.save", "state of late");
    write(&lib, "save/late.save", "somebody's");
    let (said, _) = import(&root, folder.path(), &["--json"]).await;
    let (taken, notes) = &items(&said)["domain late"];
    assert!(!taken && notes.contains("late.save") && notes.contains("exists"), "{notes}");
    assert!(domain(&stack, "late").await.is_err());
    assert_eq!(std::fs::read_to_string(lib.join("save/late.save")).unwrap(), "somebody's");
    assert_eq!(std::fs::read_dir(lib.join("save")).unwrap().count(), 2);

    // Once more: all that was taken is there already, and people are told in words.
    let (said, done) = import(&root, folder.path(), &[]).await;
    assert!(done && said.contains("0 taken, 15 left") && said.contains("already"), "{said}");
}

#[tokio::test]
async fn where_no_libvirt_is_nothing_is_imported_and_it_says_where_it_looked() {
    let (folder, root) = (Root::new(), Root::new());
    std::fs::create_dir_all(folder.path()).unwrap();
    let (said, done) = import(&root, folder.path(), &["--dry-run"]).await;
    assert!(!done && said.contains("etc/libvirt") && said.contains("--from"), "{said}");
    assert!(!root.path().exists(), "a rehearsal leaves nothing");
}
