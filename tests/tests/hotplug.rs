//! Devices come, go and change: in guests that run, which are confined and can't open them themselves, and in definitions.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::{Connection, FaultRule};
use bulkhead_base::points::POINTS;
use bulkhead_tests::fixture::{
    Root, domain, driver, guest_files, libexec, linux_xml, skip, ticker_xml, wait_for,
};
use bulkhead_wire::error::Error;
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::{DomainEvent, DomainRef, State};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(45);
const LIVE: u32 = 1;
const CONFIG: u32 = 2;
const FORCE: u32 = 4;
const INACTIVE: u32 = 2;

/// A stack with one guest.
struct Plug {
    root: Root,
    stack: Connection,
    guest: DomainRef,
    events: mpsc::Receiver<DomainEvent>,
}

fn folder(root: &Root) -> PathBuf {
    let folder = root.path().join("images");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["a", "b", "c", "d"] {
        std::fs::File::create(folder.join(format!("{name}.raw"))).unwrap().set_len(1 << 20).unwrap();
    }
    folder
}

fn disk(path: &str, target: &str, bus: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>\
         <target dev='{target}' bus='{bus}'/></disk>"
    )
}

fn drive(source: Option<&str>, target: &str, bus: &str) -> String {
    let source = source.map(|path| format!("<source file='{path}'/>")).unwrap_or_default();
    format!("<disk type='file' device='cdrom'>{source}<target dev='{target}' bus='{bus}'/></disk>")
}

impl Plug {
    /// A Linux guest with free ports for devices, at its greeting.
    async fn linux() -> Option<Self> {
        let Some(files) = guest_files() else {
            skip("no guest files; tools/guest/build makes them");
            return None;
        };
        let root = Root::new();
        let output = root.path().join("serial.txt");
        let ports = "<controller type='pci' model='pcie-root-port'/>".repeat(8);
        let devices = format!(
            "<controller type='pci' index='0' model='pcie-root'/>{ports}<controller type='virtio-serial'/>\
             <controller type='scsi' model='virtio-scsi'/>\
             <serial type='file'><source path='{}'/></serial>{}<graphics type='vnc' autoport='yes' passwd='old'/>",
            output.display(),
            drive(None, "sda", "sata"),
        );
        let xml = linux_xml("web", &files, "greet", &devices).replace(
            "<memory unit='MiB'>256",
            "<maxMemory slots='2' unit='MiB'>1024</maxMemory><memory unit='MiB'>256",
        );
        let plug = Self::start(root, xml, Vec::new()).await;
        wait_for("the guest is up", SOON, || async {
            let said = std::fs::read_to_string(&output).unwrap_or_default();
            if said.contains("guest is up") { Ok(()) } else { Err(said) }
        })
        .await;
        Some(plug)
    }

    async fn start(root: Root, xml: String, faults: Vec<FaultRule>) -> Self {
        folder(&root);
        let builder = Connection::builder(&root.uri()).libexec(libexec()).faults(faults);
        let stack = builder.open().await.unwrap();
        let events = stack.domain_events().await.unwrap();
        let defined = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
        let guest = stack.domains().domain_create_with_flags(defined, 0).await.unwrap();
        Self { root, stack, guest, events }
    }

    /// A guest that has as many devices as a PC, and cares for none of them.
    async fn ticker(faults: Vec<FaultRule>) -> Option<Self> {
        let Some(files) = guest_files() else {
            skip("no guest files; tools/guest/build makes them");
            return None;
        };
        let root = Root::new();
        let image = root.path().join("disk.img");
        std::fs::create_dir_all(root.path()).unwrap();
        std::fs::copy(files.join("ticker.img"), &image).unwrap();
        let more = format!(
            "{}<controller type='scsi' model='virtio-scsi'/><controller type='virtio-serial'/>",
            drive(Some(&root.path().join("images/d.raw").display().to_string()), "sdz", "scsi")
        );
        let xml = ticker_xml("web", &image, &more);
        Some(Self::start(root, xml, faults).await)
    }

    fn image(&self, name: &str) -> String {
        self.root.path().join("images").join(name).display().to_string()
    }

    async fn attach(&self, xml: &str, flags: u32) -> Result<(), Error> {
        self.stack.domains().domain_attach_device_flags(self.guest.clone(), xml.to_owned(), flags).await
    }

    async fn detach(&self, xml: &str, flags: u32) -> Result<(), Error> {
        self.stack.domains().domain_detach_device_flags(self.guest.clone(), xml.to_owned(), flags).await
    }

    async fn update(&self, xml: &str, flags: u32) -> Result<(), Error> {
        self.stack.domains().domain_update_device_flags(self.guest.clone(), xml.to_owned(), flags).await
    }

    async fn xml(&self, flags: u32) -> String {
        self.stack.domains().domain_get_xml_desc(self.guest.clone(), flags).await.unwrap()
    }

    /// What QEMU answers.
    async fn ask(&self, command: &str, arguments: Value) -> Result<Value, String> {
        let line = if arguments.is_null() {
            json!({ "execute": command })
        } else {
            json!({ "execute": command, "arguments": arguments })
        };
        let told = self.stack.domains().domain_monitor_command(self.guest.clone(), line.to_string(), 0).await;
        let told: Value = serde_json::from_str(&told.map_err(|error| error.to_string())?).unwrap();
        Ok(told["return"].clone())
    }

    /// Names of all that QEMU has and that comes and goes with devices.
    async fn inventory(&self) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        let names = |list: &Value, key: &str| -> Vec<String> {
            list.as_array()
                .unwrap()
                .iter()
                .map(|entry| entry[key].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        for path in ["/machine/peripheral", "/objects"] {
            all.extend(names(&self.ask("qom-list", json!({ "path": path })).await?, "name"));
        }
        all.extend(names(&self.ask("query-named-block-nodes", Value::Null).await?, "node-name"));
        all.extend(names(&self.ask("query-chardev", Value::Null).await?, "label"));
        for set in self.ask("query-fdsets", Value::Null).await?.as_array().unwrap() {
            all.extend(names(&set["fds"], "opaque").into_iter().map(|name| format!("descriptor of {name}")));
        }
        let network = self.ask("human-monitor-command", json!({ "command-line": "info network" })).await?;
        all.extend(
            network.as_str().unwrap().lines().map(|line| line.split(':').next().unwrap().trim().to_owned()),
        );
        all.sort();
        Ok(all)
    }

    /// Waits for an event about a device.
    async fn told(&mut self, wanted: &str) {
        let seen = async {
            while let Some(event) = self.events.recv().await {
                let text = match event {
                    DomainEvent::DeviceAdded { alias, .. } => format!("added {alias}"),
                    DomainEvent::DeviceRemoved { alias, .. } => format!("removed {alias}"),
                    DomainEvent::TrayChange { alias, reason, .. } => format!("tray {alias} {reason}"),
                    _ => continue,
                };
                if text == wanted {
                    return;
                }
            }
            panic!("the events have ended");
        };
        assert!(tokio::time::timeout(SOON, seen).await.is_ok(), "nobody told: {wanted}");
    }

    async fn end(self) {
        self.stack.domains().domain_destroy_flags(self.guest.clone(), 0).await.unwrap();
        self.stack.stop().await.unwrap();
    }
}

/// libvirt's code and domain of a refusal.
fn refusal(done: Result<(), Error>) -> (i32, i32) {
    let error = done.unwrap_err();
    assert!(!error.message.is_empty());
    (error.code.0, error.origin.0)
}

#[tokio::test]
async fn devices_come_and_go_in_a_guest_that_runs() {
    let Some(mut plug) = Plug::linux().await else { return };
    let made = Command::new("qemu-img")
        .args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            &plug.image("a.raw"),
            &plug.image("top.qcow2"),
        ])
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return skip("no qemu-img");
    }
    let before = plug.inventory().await.unwrap();

    // A disk with its layers: QEMU was never allowed to open these files.
    let layered =
        disk(&plug.image("top.qcow2"), "vda", "virtio").replace("type='raw'", "type='qcow2' cache='none'");
    plug.attach(&layered, LIVE).await.unwrap();
    plug.told("added virtio-disk0").await;
    let xml = plug.xml(0).await;
    for part in [
        "<backingStore type='file' index='".to_owned(),
        format!("<source file='{}'/>", plug.image("a.raw")),
        "<alias name='virtio-disk0'/>\n      <address type='pci' domain='0x0000' bus='0x".to_owned(),
    ] {
        assert!(xml.contains(&part), "{part} is not in {xml}");
    }
    assert!(!plug.xml(INACTIVE).await.contains("virtio-disk0"));
    let node = xml.split("top.qcow2' index='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let nodes = plug.ask("query-named-block-nodes", Value::Null).await.unwrap();
    let top = format!("libvirt-{node}-format");
    let top =
        nodes.as_array().unwrap().iter().find(|found| found["node-name"] == top.as_str()).unwrap().clone();
    assert_eq!((&top["ro"], &top["drv"]), (&json!(false), &json!("qcow2")), "{top}");
    assert!(top["image"]["backing-image"].is_object(), "{top}");

    plug.attach(&disk(&plug.image("b.raw"), "sdb", "scsi"), LIVE).await.unwrap();
    plug.attach(&disk(&plug.image("c.raw"), "sdc", "usb"), LIVE).await.unwrap();
    plug.attach("<interface type='ethernet'><mac address='52:54:00:00:00:01'/><model type='virtio'/><link state='down'/></interface>", LIVE)
        .await
        .unwrap();
    plug.attach("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>", LIVE)
        .await
        .unwrap();
    plug.attach("<channel type='pty'><target type='virtio' name='b'/></channel>", LIVE).await.unwrap();
    plug.attach("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", LIVE)
        .await
        .unwrap();
    plug.attach("<input type='tablet' bus='usb'/>", LIVE).await.unwrap();
    plug.attach(
        "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
        LIVE,
    )
    .await
    .unwrap();
    for alias in ["scsi0-0-0-1", "usb-disk2", "net0", "channel0", "channel1", "rng0", "input2", "dimm0"] {
        plug.told(&format!("added {alias}")).await;
    }
    let xml = plug.xml(0).await;
    for part in [
        "<target dev='vnet",
        "<link state='down'/>",
        "<source path='/proc/",
        "<address type='virtio-serial' controller='0' bus='0' port='2'/>",
        "<address type='dimm' slot='0' base='0x1",
        "<memory unit='KiB'>393216</memory>",
    ] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }

    // What can't be is refused and leaves nothing.
    let all = plug.inventory().await.unwrap();
    let missing = disk(&plug.image("none.raw"), "vdx", "virtio");
    for (wrong, code) in [
        (disk(&plug.image("b.raw"), "vda", "virtio"), (27, 20)),
        (disk(&plug.image("b.raw"), "vdb", "virtio"), (1, 10)),
        (missing, (38, 18)),
        (disk(&plug.image("d.raw"), "sdd", "sata"), (84, 10)),
        (disk("/etc/shadow", "vdb", "virtio"), (29, 7)),
        (disk(&plug.root.path().join("etc/qemu/web.xml").display().to_string(), "vdb", "virtio"), (29, 7)),
        ("<channel type='pty'><target type='virtio' name='b'/></channel>".to_owned(), (1, 10)),
        ("<sound model='ich9'/>".to_owned(), (84, 10)),
        ("<interface type='user'><model type='rtl8139'/></interface>".to_owned(), (9, 20)),
        ("<controller type='usb' model='qemu-xhci'/>".to_owned(), (84, 10)),
        ("<bogus/>".to_owned(), (67, 20)),
        ("<disk".to_owned(), (35, 20)),
        ("<serial type='pty'/>".to_owned(), (1, 10)),
    ] {
        assert_eq!(refusal(plug.attach(&wrong, LIVE).await), code, "{wrong}");
        assert_eq!(plug.inventory().await.unwrap(), all, "{wrong} has left something");
    }

    // The guest gives them up: it has seen them.
    plug.update(
        "<interface type='ethernet'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>",
        LIVE,
    )
    .await
    .unwrap();
    assert!(!plug.xml(0).await.contains("<link state"));
    for device in [
        "<disk type='file'><target dev='vda'/></disk>",
        "<disk type='file'><target dev='sdb'/></disk>",
        "<disk type='file'><target dev='sdc'/></disk>",
        "<interface type='ethernet'><mac address='52:54:00:00:00:01'/></interface>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<input type='tablet' bus='usb'/>",
        "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
    ] {
        plug.detach(device, LIVE).await.unwrap_or_else(|error| panic!("{device}: {error}"));
    }
    for alias in ["channel0", "channel1"] {
        plug.stack
            .domains()
            .domain_detach_device_alias(plug.guest.clone(), alias.to_owned(), LIVE)
            .await
            .unwrap();
    }
    for alias in [
        "virtio-disk0",
        "scsi0-0-0-1",
        "usb-disk2",
        "net0",
        "rng0",
        "input2",
        "dimm0",
        "channel0",
        "channel1",
    ] {
        plug.told(&format!("removed {alias}")).await;
    }
    let left = plug.inventory().await.unwrap();
    assert_eq!(left, before, "something is left of what has gone");
    assert!(plug.xml(0).await.contains("<memory unit='KiB'>262144</memory>"));
    assert_eq!(refusal(plug.detach("<disk><target dev='vda'/></disk>", LIVE).await), (99, 10));

    // Media, passwords.
    let medium = plug.image("a.raw");
    plug.update(&drive(Some(&medium), "sda", "sata"), LIVE | CONFIG).await.unwrap();
    plug.told("tray sata0-0-0 0").await;
    plug.told("tray sata0-0-0 1").await;
    assert!(plug.xml(0).await.contains(&medium) && plug.xml(INACTIVE).await.contains(&medium));
    assert_eq!(refusal(plug.update(&drive(Some("/etc/shadow"), "sda", "sata"), LIVE).await), (29, 7));
    plug.update(&drive(None, "sda", "sata"), LIVE | FORCE).await.unwrap();
    assert!(!plug.xml(0).await.contains(&medium) && plug.xml(INACTIVE).await.contains(&medium));
    plug.told("tray sata0-0-0 1").await;
    assert_eq!(plug.inventory().await.unwrap(), before);
    let password = "<graphics type='vnc' autoport='yes' passwd='new'/>";
    plug.update(password, LIVE).await.unwrap();
    assert!(
        plug.stack
            .domains()
            .domain_get_xml_desc(plug.guest.clone(), 1)
            .await
            .unwrap()
            .contains("passwd='new'")
    );
    plug.end().await;
}

#[tokio::test]
async fn a_guest_that_does_not_answer_gives_a_device_up_later() {
    let Some(mut plug) = Plug::linux().await else { return };
    plug.attach(&disk(&plug.image("a.raw"), "vda", "virtio"), LIVE | CONFIG).await.unwrap();
    plug.told("added virtio-disk0").await;
    plug.stack.domains().domain_suspend(plug.guest.clone()).await.unwrap();
    // Told, and not done: the definition is changed, the guest has the disk.
    plug.detach("<disk><target dev='vda'/></disk>", LIVE | CONFIG).await.unwrap();
    assert!(plug.xml(0).await.contains("virtio-disk0") && !plug.xml(INACTIVE).await.contains("dev='vda'"));
    assert_eq!(refusal(plug.detach("<disk><target dev='vda'/></disk>", LIVE).await), (9, 10));
    plug.stack.domains().domain_resume(plug.guest.clone()).await.unwrap();
    plug.told("removed virtio-disk0").await;
    assert!(!plug.xml(0).await.contains("virtio-disk0"));
    // Its place is free again.
    plug.attach(&disk(&plug.image("b.raw"), "vda", "virtio"), LIVE).await.unwrap();
    plug.end().await;
}

#[tokio::test]
async fn a_definition_takes_and_gives_devices() {
    let Some(plug) = Plug::ticker(Vec::new()).await else { return };
    plug.stack.domains().domain_destroy_flags(plug.guest.clone(), 0).await.unwrap();
    let image = plug.image("a.raw");
    plug.attach(&disk(&image, "vdb", "virtio"), 0).await.unwrap();
    plug.attach(&disk(&image, "vda", "virtio"), CONFIG).await.unwrap();
    let xml = plug.xml(0).await;
    let (first, second) = (xml.find("dev='vda'").unwrap(), xml.find("dev='vdb'").unwrap());
    assert!(first < second, "disks stand in the order of their targets: {xml}");
    let channel = "<channel type='unix'><target type='virtio' name='x'/></channel>";
    plug.attach(channel, CONFIG).await.unwrap();
    let mac = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>";
    plug.attach(mac, CONFIG).await.unwrap();
    plug.attach(mac, CONFIG).await.unwrap();
    for (wrong, code) in [
        (disk(&image, "vda", "virtio"), (55, 10)),
        (channel.to_owned(), (55, 10)),
        ("<controller type='scsi' index='0'/>".to_owned(), (55, 10)),
        ("<video><model type='virtio'/></video>".to_owned(), (84, 10)),
        ("<console type='pty'/>".to_owned(), (84, 10)),
        ("<memory model='dimm'><target><size unit='MiB'>128</size></target></memory>".to_owned(), (67, 20)),
        (
            format!("{}<boot order='1'/></disk>", disk(&image, "vdc", "virtio").trim_end_matches("</disk>")),
            (67, 20),
        ),
    ] {
        assert_eq!(refusal(plug.attach(&wrong, CONFIG).await), code, "{wrong}");
    }
    assert_eq!(refusal(plug.attach(channel, LIVE).await), (55, 20));
    assert_eq!(refusal(plug.attach(channel, 16).await), (8, 10));
    for (wrong, code) in [
        ("<disk><target dev='vdz'/></disk>", (99, 10)),
        (mac, (9, 20)),
        ("<interface type='user'><mac address='52:54:00:00:00:99'/></interface>", (99, 20)),
        ("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>", (99, 10)),
        ("<channel type='unix'><target type='virtio' name='y'/></channel>", (8, 10)),
        ("<graphics type='vnc'/>", (84, 10)),
    ] {
        assert_eq!(refusal(plug.detach(wrong, CONFIG).await), code, "{wrong}");
    }
    plug.update(&disk(&plug.image("b.raw"), "vda", "virtio"), CONFIG).await.unwrap();
    assert!(plug.xml(0).await.contains("b.raw"));
    assert_eq!(refusal(plug.update(&disk(&image, "vdy", "virtio"), CONFIG).await), (8, 10));
    plug.detach("<disk><target dev='vda'/></disk>", CONFIG).await.unwrap();
    plug.detach(channel, CONFIG).await.unwrap();
    let xml = plug.xml(0).await;
    assert!(!xml.contains("b.raw") && !xml.contains("name='x'"), "{xml}");
    // As it is on disk.
    assert_eq!(std::fs::read_to_string(plug.root.path().join("etc/qemu/web.xml")).unwrap(), xml);
    plug.stack.stop().await.unwrap();
}

/// What is done to the guest's devices while the driver may die.
async fn act(plug: &Plug) -> [Result<(), Error>; 4] {
    let channel = "<channel type='unix'><target type='virtio' name='x'/></channel>";
    [
        plug.attach(&disk(&plug.image("a.raw"), "sda", "scsi"), LIVE | CONFIG).await,
        plug.attach(channel, LIVE).await,
        plug.update(&drive(Some(&plug.image("b.raw")), "sdz", "scsi"), LIVE | CONFIG).await,
        plug.detach("<disk><target dev='sda'/></disk>", LIVE | CONFIG).await,
    ]
}

/// Whether the guest's XML and QEMU say the same of its devices, and nothing is left over.
async fn agrees(plug: &Plug, clean: &[String], full: &[String]) -> Result<(), String> {
    let xml = plug
        .stack
        .domains()
        .domain_get_xml_desc(plug.guest.clone(), 0)
        .await
        .map_err(|error| error.to_string())?;
    let all = plug.inventory().await?;
    let say = |what: &str| Err(format!("{what}: {all:?}\n{xml}"));
    for alias in ["scsi0-0-0-0", "channel0"] {
        let known = xml.contains(&format!("<alias name='{alias}'/>"));
        if known != all.iter().any(|name| name == alias) {
            return say(&format!("{alias} is known: {known}"));
        }
        if !known && all.iter().any(|name| name == &format!("char{alias}")) {
            return say(&format!("the back of {alias} is left"));
        }
    }
    // Every node of a disk, and every descriptor, belongs to what the XML shows.
    let shown: Vec<String> = xml
        .split(" index='")
        .skip(1)
        .filter_map(|rest| rest.split('\'').next())
        .map(|index| format!("libvirt-{index}-storage"))
        .collect();
    for name in &all {
        let node = name.strip_prefix("descriptor of ").unwrap_or(name);
        let strange = node.starts_with("libvirt-") && !shown.contains(&node.to_owned());
        if strange {
            return say(&format!("{name} belongs to nothing"));
        }
    }
    for name in clean.iter().filter(|name| full.contains(name) && !name.contains("libvirt-")) {
        if !all.contains(name) {
            return say(&format!("{name} is gone"));
        }
    }
    let empty = xml.contains("dev='sdz'") && !xml.contains("d.raw'") && !xml.contains("b.raw'");
    if empty { say("the drive is empty") } else { Ok(()) }
}

#[tokio::test]
async fn a_device_is_there_or_not_wherever_the_driver_dies() {
    let Some(plug) = Plug::ticker(Vec::new()).await else { return };
    let clean = plug.inventory().await.unwrap();
    for done in act(&plug).await {
        done.unwrap();
    }
    let full = plug.inventory().await.unwrap();
    plug.end().await;
    let points: Vec<String> = POINTS
        .iter()
        .filter(|point| matches!(point.subject, "plug" | "unplug" | "medium"))
        .map(|point| format!("{}.{}", point.subject, point.moment))
        .collect();
    assert!(points.len() >= 10, "{points:?}");
    // The steps of the first attachment, of the second, and of the exchange.
    let mut cases: Vec<(String, u32)> = points.into_iter().map(|point| (point, 1)).collect();
    for nth in 2..=5 {
        cases.push(("plug.before_step".to_owned(), nth));
        cases.push(("plug.after_step".to_owned(), nth));
    }
    cases.push(("definition.after_rename".to_owned(), 2));
    for (point, nth) in cases {
        let fault = FaultRule { driver: Driver::Qemu, point: point.clone(), nth, hang: false };
        let plug = Plug::ticker(vec![fault]).await.unwrap();
        let done = act(&plug).await;
        wait_for(&format!("{point} {nth}: the next driver"), SOON, || async {
            let (_, incarnation) = driver(&plug.stack, "qemu").await?;
            if incarnation > 1 { Ok(()) } else { Err(format!("the first; {done:?}")) }
        })
        .await;
        wait_for(&format!("{point} {nth}: XML and QEMU agree"), SOON, || agrees(&plug, &clean, &full)).await;
        // All of it goes on from there.
        let again = act(&plug).await;
        for done in &again {
            assert!(
                done.as_ref().is_ok_and(|()| true)
                    || done.as_ref().is_err_and(|error| matches!(error.code.0, 27 | 55 | 99 | 1)),
                "{point} {nth}: {again:?}"
            );
        }
        wait_for(&format!("{point} {nth}: afterwards"), SOON, || agrees(&plug, &clean, &full)).await;
        let state = plug.stack.domains().domain_get_state(plug.guest.clone(), 0).await.unwrap();
        assert_eq!(state.state, State::Running as i32, "{point} {nth}");
        assert!(domain(&plug.stack, "web").await.is_ok());
        plug.end().await;
    }
}

#[tokio::test]
async fn virsh_plugs_as_it_does_with_libvirt() {
    let Some(files) = guest_files() else { return skip("no guest files; tools/guest/build makes them") };
    if !std::path::Path::new("/usr/bin/virsh").exists() {
        return skip("no virsh");
    }
    let root = Root::new();
    let images = folder(&root);
    let stack = Connection::builder(&root.uri()).libexec(libexec()).gateway(true).open().await.unwrap();
    let image = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &image).unwrap();
    let more = format!(
        "{}<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>\
         <controller type='scsi' model='virtio-scsi'/>",
        drive(None, "sda", "scsi")
    );
    let defined = stack.domains().domain_define_xml_flags(ticker_xml("web", &image, &more), 0).await.unwrap();
    let guest = stack.domains().domain_create_with_flags(defined, 0).await.unwrap();
    let uri = format!("qemu+unix:///session?socket={}", root.path().join("run/libvirt-sock").display());
    let virsh = async |arguments: &[&str]| {
        let output = tokio::process::Command::new("virsh")
            .env("LIBVIRT_DEFAULT_URI", &uri)
            .env("LC_ALL", "C")
            .args(arguments)
            .output();
        let output = tokio::time::timeout(SOON, output).await.unwrap().unwrap();
        (
            output.status.success(),
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat(),
        )
    };
    let well = async |arguments: &[&str]| {
        let (well, text) = virsh(arguments).await;
        assert!(well, "virsh {arguments:?}: {text}");
        text
    };
    let (a, b) = (images.join("a.raw").display().to_string(), images.join("b.raw").display().to_string());
    // The scsi bus needs no guest that gives a disk up.
    well(&["attach-disk", "web", &a, "sdb", "--targetbus", "scsi", "--live", "--config"]).await;
    let interface = root.path().join("interface.xml");
    let user = "<interface type='user'><mac address='52:54:00:00:00:02'/><model type='virtio'/></interface>";
    std::fs::write(&interface, user).unwrap();
    well(&["attach-device", "web", interface.to_str().unwrap(), "--live"]).await;
    well(&["domif-setlink", "web", "52:54:00:00:00:02", "down"]).await;
    assert!(well(&["domif-getlink", "web", "52:54:00:00:00:02"]).await.contains("down"));
    well(&["change-media", "web", "sda", &b, "--insert", "--live"]).await;
    assert!(well(&["domblklist", "web"]).await.contains(&b));
    assert!(
        !virsh(&["change-media", "web", "sda", &a, "--insert", "--live"]).await.0,
        "there is a medium in it"
    );
    well(&["change-media", "web", "sda", "--eject", "--live", "--force"]).await;
    assert!(!well(&["domblklist", "web"]).await.contains(&b));
    let (_, refused) = virsh(&["attach-disk", "web", &b, "sdb", "--targetbus", "scsi", "--live"]).await;
    assert!(refused.contains("sdb"), "{refused}");
    well(&["detach-disk", "web", "sdb", "--live", "--config"]).await;
    assert!(!well(&["domblklist", "web"]).await.contains("sdb"));
    assert!(!well(&["domblklist", "web", "--inactive"]).await.contains("sdb"));
    let asked = r#"{"execute":"query-fdsets"}"#.to_owned();
    let sets = stack.domains().domain_monitor_command(guest.clone(), asked, 0).await.unwrap();
    assert!(!sets.contains("opaque"), "{sets}");
    stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}
