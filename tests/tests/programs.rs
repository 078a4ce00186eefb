//! Programs that other people wrote on libvirt, unmodified, each doing against a private stack what its users do.
//!
//! What is here: two releases of virsh, Perl's Sys::Virt, libvirt-glib, libvirt-dbus, the Prometheus exporter, virt-install with a
//! kernel, virt-xml. Elsewhere: python's module (`clients.rs`), virt-install with an image and virt-clone (`pools.rs`).
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{SERIAL_PTY, guest_files, skip, ticker_xml, wait_for};
use bulkhead_tests::served::{PYTHON, SOON, Served, has};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::timeout;

/// With a screen, to have a picture of it.
const SCREEN: &str = "<video><model type='vga'/></video>";

/// The guests' files; the test is skipped without them.
fn guest() -> Option<PathBuf> {
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

fn program(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name).display().to_string()
}

/// A guest that counts on its console and has a screen: its XML, in a file, and its disk.
fn counting(served: &Served, name: &str, files: &Path) -> (String, String) {
    let disk = served.ticker_disk(&format!("{name}.img"), files);
    let xml = ticker_xml(name, &disk, &format!("{SERIAL_PTY}{SCREEN}"));
    (served.file(&format!("{name}.xml"), &xml), disk.display().to_string())
}

/// The releases of virsh that can be had: the program, and the folder of its library if that is not the machine's.
fn releases() -> Vec<(PathBuf, Option<PathBuf>)> {
    let mut found = Vec::new();
    if has(&[("virsh", "libvirt-clients")]) {
        found.push((PathBuf::from("virsh"), None));
    }
    let cache = std::env::var_os("BULKHEAD_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"), PathBuf::from);
    for entry in std::fs::read_dir(cache.join("clients")).into_iter().flatten().flatten() {
        let (program, libraries) = (entry.path().join("usr/bin/virsh"), entry.path().join("usr/lib"));
        let library = std::fs::read_dir(libraries)
            .into_iter()
            .flatten()
            .flatten()
            .map(|folder| folder.path())
            .find(|folder| folder.join("libvirt.so.0").exists());
        if let (true, Some(library)) = (program.exists(), library) {
            found.push((program, Some(library)));
        }
    }
    if found.len() < 2 {
        skip("one release of virsh alone; tools/test unpacks the other into the cache");
    }
    found
}

#[tokio::test]
async fn each_release_of_virsh_takes_a_guest_through_its_life() {
    let Some(files) = guest() else { return };
    for (program, library) in releases() {
        let served = Served::new().await;
        let (xml, disk) = counting(&served, "web", &files);
        let virsh = async |arguments: &[&str]| {
            let mut command = served.command(program.to_str().unwrap());
            if let Some(library) = &library {
                command.env("LD_LIBRARY_PATH", library);
            }
            let output = timeout(SOON, command.args(arguments).output()).await.unwrap().unwrap();
            let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
            assert!(output.status.success(), "{} {arguments:?}: {text}", program.display());
            text
        };
        assert!(virsh(&["version", "--daemon"]).await.contains("Running against daemon: 11.3.0"));
        assert!(virsh(&["capabilities"]).await.contains("<arch name='x86_64'>"));
        assert!(virsh(&["domcapabilities", "--virttype", "qemu"]).await.contains("<domain>qemu</domain>"));
        virsh(&["define", "--validate", &xml]).await;
        virsh(&["desc", "web", "--title", "a title", "--config"]).await;
        assert!(virsh(&["list", "--all", "--title"]).await.contains("a title"));
        virsh(&["setmaxmem", "web", "32M", "--config"]).await;
        virsh(&["start", "web", "--paused"]).await;
        assert_eq!(virsh(&["domstate", "web", "--reason"]).await.trim(), "paused (user)");
        virsh(&["resume", "web"]).await;
        assert!(virsh(&["domblklist", "web", "--details"]).await.contains(&disk));
        assert!(virsh(&["domblkinfo", "web", "hda"]).await.contains("Capacity:"));
        // Without a balloon it has all from its start on.
        assert!(virsh(&["dommemstat", "web"]).await.contains("rss "));
        assert!(virsh(&["dominfo", "web"]).await.contains("Used memory:    32768 KiB"));
        assert!(virsh(&["vcpuinfo", "web"]).await.contains("State:          running"));
        assert!(virsh(&["domstats", "web", "--raw"]).await.contains("block.0.name=hda"));
        let picture = served.root.path().join("screen").display().to_string();
        virsh(&["screenshot", "web", &picture]).await;
        assert_eq!(std::fs::read(&picture).unwrap()[1..4], *b"PNG");
        virsh(&["send-key", "web", "KEY_LEFTCTRL", "KEY_C"]).await;
        virsh(&["metadata", "web", "urn:x", "--key", "x", "--set", "<note>y</note>"]).await;
        assert!(virsh(&["metadata", "web", "urn:x"]).await.contains("<note>y</note>"));
        virsh(&["managedsave", "web"]).await;
        assert!(virsh(&["list", "--all", "--with-managed-save"]).await.contains("web"));
        virsh(&["start", "web"]).await;
        assert_eq!(virsh(&["domstate", "web", "--reason"]).await.trim(), "running (restored)");
        virsh(&["destroy", "web"]).await;
        virsh(&["domrename", "web", "shop"]).await;
        virsh(&["undefine", "shop", "--managed-save"]).await;
        assert_eq!(virsh(&["list", "--all", "--name"]).await.trim(), "");

        // Bytes go into a volume and come back.
        let folder = served.root.path().join("pool").display().to_string();
        virsh(&["pool-create-as", "--build", "pool", "dir", "--target", &folder]).await;
        virsh(&["vol-create-as", "pool", "copy.img", "1M", "--format", "raw"]).await;
        virsh(&["vol-upload", "--pool", "pool", "copy.img", &disk]).await;
        let back = served.root.path().join("back").display().to_string();
        let length = std::fs::metadata(&disk).unwrap().len().to_string();
        virsh(&["vol-download", "--pool", "pool", "copy.img", &back, "--length", &length]).await;
        assert!(std::fs::read(&back).unwrap() == std::fs::read(&disk).unwrap());
        virsh(&["vol-delete", "--pool", "pool", "copy.img"]).await;
        virsh(&["pool-destroy", "pool"]).await;
        served.stack.stop().await.unwrap();
    }
}

/// A script of ours, in another language, which says that it is content.
async fn script(served: &Served, interpreter: &str, name: &str, domain: &str, files: &Path) {
    let (xml, disk) = counting(served, domain, files);
    let said = served.does(interpreter, &[&program(name), &xml, &disk]).await;
    assert!(said.contains("content"), "{said}");
}

#[tokio::test]
async fn perl_does_what_scripts_do() {
    let Some(files) = guest() else { return };
    let served = Served::new().await;
    if !served.said("perl", &["-MSys::Virt", "-e", "1"]).await.1 {
        return skip("no libvirt for Perl; libsys-virt-perl has it");
    }
    script(&served, "perl", "life.pl", "perl", &files).await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_desktops_program_does_what_it_does_through_glib() {
    let Some(files) = guest() else { return };
    let served = Served::new().await;
    let imports =
        "import gi; gi.require_version('LibvirtGObject', '1.0'); import gi.repository.LibvirtGObject";
    if !served.said(PYTHON, &["-c", imports]).await.1 {
        return skip("no libvirt-glib for python; gir1.2-libvirt-glib-1.0 and python3-gi have it");
    }
    script(&served, PYTHON, "life.py", "glib", &files).await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn virt_install_boots_a_kernel_that_greets() {
    let Some(files) = guest() else { return };
    if !has(&[("virt-install", "virtinst"), ("virsh", "libvirt-clients")]) {
        return;
    }
    let served = Served::new().await;
    let (serial, files) = (served.root.path().join("images/serial"), files.display());
    let kernel = format!(
        "kernel={files}/vmlinuz,initrd={files}/initramfs-tiny.cpio.gz,kernel_args=\"console=ttyS0 quiet panic=-1\""
    );
    let output = format!("file,path={}", serial.display());
    let install = [
        "--name",
        "linux",
        "--memory",
        "256",
        "--vcpus",
        "1",
        "--virt-type",
        "qemu",
        "--osinfo",
        "generic",
        "--disk",
        "none",
        "--network",
        "user",
        "--graphics",
        "none",
        "--serial",
        &output,
        "--import",
        "--boot",
        &kernel,
        "--noautoconsole",
    ];
    served.does("virt-install", &install).await;
    let greeted = || async {
        let text = std::fs::read_to_string(&serial).unwrap_or_default();
        if text.contains("Bulkhead guest is up") { Ok(()) } else { Err(text) }
    };
    wait_for("the kernel greets", SOON, greeted).await;
    assert!(
        served.virsh(&["dumpxml", "linux", "--inactive"]).await.contains("initramfs-tiny.cpio.gz</initrd>")
    );
    // The guest goes by itself, and its definition stays.
    served.virsh(&["shutdown", "linux"]).await;
    wait_for("it is off", SOON, || async {
        let state = served.virsh(&["domstate", "linux", "--reason"]).await;
        if state.contains("shut off (shutdown)") { Ok(()) } else { Err(state) }
    })
    .await;
    served.virsh(&["undefine", "linux"]).await;
    served.stack.stop().await.unwrap();
}

#[tokio::test]
async fn virt_xml_edits_a_definition() {
    let Some(files) = guest() else { return };
    if !has(&[("virt-xml", "virtinst"), ("virsh", "libvirt-clients")]) {
        return;
    }
    let served = Served::new().await;
    let (xml, _) = counting(&served, "web", &files);
    let second = served.ticker_disk("second.img", &files).display().to_string();
    served.virsh(&["define", &xml]).await;
    let added = format!("{second},format=raw,bus=virtio,readonly=on");
    let edits: [(&[&str], &str); 9] = [
        (&["--edit", "--memory", "64"], "<memory unit='KiB'>65536</memory>"),
        (&["--edit", "--vcpus", "2,maxvcpus=4"], "<vcpu placement='static' current='2'>4</vcpu>"),
        (&["--edit", "--metadata", "title=a title,description=words"], "<description>words</description>"),
        (&["--edit", "--boot", "menu=on"], "<bootmenu enable='yes'/>"),
        (&["--edit", "--cpu", "host-model"], "<cpu mode='host-model'"),
        (&["--add-device", "--disk", &added], "<target dev='vda' bus='virtio'/>"),
        (&["--edit", "target=vda", "--disk", "cache=none"], "cache='none'"),
        (&["--add-device", "--network", "user,model=virtio"], "<interface type='user'>"),
        (&["--add-device", "--rng", "/dev/urandom"], "<backend model='random'>/dev/urandom</backend>"),
    ];
    for (edit, wanted) in edits {
        served.does("virt-xml", &[&["web"], edit].concat()).await;
        let xml = served.virsh(&["dumpxml", "web"]).await;
        assert!(xml.contains(wanted), "{edit:?}: {xml}");
    }
    served.does("virt-xml", &["web", "--remove-device", "--disk", "target=vda"]).await;
    let xml = served.virsh(&["dumpxml", "web"]).await;
    assert!(!xml.contains(&second) && xml.contains("web.img"), "{xml}");
    // Nothing of it is left away, and nothing invented: the next reading of the same gives no difference.
    let same = served.does("virt-xml", &["web", "--edit", "--memory", "64", "--print-diff"]).await;
    assert!(!same.contains("@@"), "{same}");
    served.does("virt-xml", &["web", "--edit", "--vcpus", "1,maxvcpus=1", "--start"]).await;
    assert_eq!(served.virsh(&["domstate", "web"]).await.trim(), "running");
    served.virsh(&["destroy", "web"]).await;
    served.stack.stop().await.unwrap();
}

/// A bus of the test's own, and libvirt-dbus on it, which goes to the stack at the place where it looks for libvirt's.
struct Bus {
    address: String,
    _bus: Child,
    _service: Child,
}

const POLICY: &str = "<policy context='default'><allow user='*'/><allow own='*'/><allow send_destination='*'/>\
    <allow receive_sender='*'/></policy>";

impl Bus {
    async fn new(served: &Served) -> Self {
        let folder = served.root.path();
        let address = format!("unix:path={}", folder.join("bus").display());
        let text = format!(
            "<busconfig><type>session</type><listen>{address}</listen><auth>EXTERNAL</auth>{POLICY}</busconfig>"
        );
        let configuration = served.file("bus.conf", &text);
        let mut bus = served.command("dbus-daemon");
        bus.arg(format!("--config-file={configuration}"))
            .args(["--nofork", "--nopidfile"])
            .stderr(Stdio::null());
        let bus = bus.spawn().unwrap();
        wait_for("the bus listens", SOON, || async {
            if folder.join("bus").exists() { Ok(()) } else { Err("no socket".to_owned()) }
        })
        .await;
        // It opens `qemu:///session`, which for root is below /run: a view of the test's own has the stack's sockets there.
        let enter = "mount -t tmpfs tmpfs /run && mkdir /run/libvirt && mount --bind \"$1\" /run/libvirt && exec libvirt-dbus --session";
        let mut service = served.command("unshare");
        service.args(["--mount", "--propagation", "private", "sh", "-c", enter, "-"]).arg(folder.join("run"));
        service.env("DBUS_SESSION_BUS_ADDRESS", &address).stdout(Stdio::null()).stderr(Stdio::null());
        let made = Self { address, _bus: bus, _service: service.spawn().unwrap() };
        wait_for("libvirt-dbus serves", SOON, || async {
            let names = ["org.freedesktop.DBus", "/", "org.freedesktop.DBus.ListNames"];
            let names = made.ask(served, names, &[]).await;
            if names.contains("org.libvirt") { Ok(()) } else { Err(names) }
        })
        .await;
        made
    }

    /// What a method of a destination's object answers.
    async fn ask(
        &self,
        served: &Served,
        [destination, path, method]: [&str; 3],
        arguments: &[&str],
    ) -> String {
        let mut command = served.command("dbus-send");
        command.args([
            &format!("--bus={}", self.address),
            "--print-reply",
            &format!("--dest={destination}"),
            path,
            method,
        ]);
        let output = timeout(SOON, command.args(arguments).output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        assert!(output.status.success(), "{method} {arguments:?}: {text}");
        text
    }

    async fn libvirt(&self, served: &Served, path: &str, method: &str, arguments: &[&str]) -> String {
        self.ask(served, ["org.libvirt", path, &format!("org.libvirt.{method}")], arguments).await
    }
}

#[tokio::test]
async fn libvirt_dbus_serves_the_stack() {
    const QEMU: &str = "/org/libvirt/QEMU";
    let Some(files) = guest() else { return };
    let needed = [
        ("libvirt-dbus", "libvirt-dbus"),
        ("dbus-daemon", "dbus-daemon"),
        ("dbus-send", "dbus-bin"),
        ("dbus-monitor", "dbus-bin"),
    ];
    if !has(&needed) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("libvirt-dbus is given a view of its own, which takes root");
    }
    let served = Served::new().await;
    let (xml, _) = counting(&served, "bus", &files);
    let bus = Bus::new(&served).await;
    let mut monitor = served.command("stdbuf");
    monitor.args([
        "-oL",
        "dbus-monitor",
        "--address",
        &bus.address,
        "sender='org.libvirt',member='DomainEvent'",
    ]);
    let mut monitor = monitor.spawn().unwrap();
    let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();

    let text = format!("string:{}", std::fs::read_to_string(&xml).unwrap());
    let defined = bus.libvirt(&served, QEMU, "Connect.DomainDefineXML", &[&text]).await;
    let path = defined.split('"').nth(1).unwrap().to_owned();
    assert!(path.starts_with("/org/libvirt/QEMU/domain/_"), "{defined}");
    assert!(bus.libvirt(&served, QEMU, "Connect.ListDomains", &["uint32:0"]).await.contains(&path));
    bus.libvirt(&served, &path, "Domain.Create", &["uint32:0"]).await;
    let get = ["org.libvirt", &path, "org.freedesktop.DBus.Properties.GetAll"];
    let properties = bus.ask(&served, get, &["string:org.libvirt.Domain"]).await;
    for wanted in ["string \"bus\"", "boolean true", "string \"hvm\"", "uint32 1"] {
        assert!(properties.contains(wanted), "{wanted}: {properties}");
    }
    let state = bus.libvirt(&served, &path, "Domain.GetState", &["uint32:0"]).await;
    assert!(state.contains("int32 1"), "{state}");
    let stats = bus.libvirt(&served, &path, "Domain.GetStats", &["uint32:0", "uint32:0"]).await;
    assert!(stats.contains("block.count") && stats.contains("balloon.current"), "{stats}");
    assert!(
        bus.libvirt(&served, &path, "Domain.GetXMLDesc", &["uint32:0"]).await.contains("<name>bus</name>")
    );
    bus.libvirt(&served, &path, "Domain.Suspend", &[]).await;
    bus.libvirt(&served, &path, "Domain.Resume", &[]).await;
    bus.libvirt(&served, &path, "Domain.Destroy", &["uint32:0"]).await;
    bus.libvirt(&served, &path, "Domain.Undefine", &["uint32:0"]).await;

    // The events came in libvirt's order: defined; running, started; suspended; resumed; stopped; undefined.
    let (mut events, mut numbers) = (Vec::new(), Vec::new());
    let reading = async {
        while events.len() < 7 {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(number) = line.trim().strip_prefix("int32 ") {
                numbers.push(number.parse::<i32>().unwrap());
                if let [event, detail] = numbers[..] {
                    events.push((event, detail));
                    numbers.clear();
                }
            }
        }
    };
    let came = timeout(SOON, reading).await.is_ok();
    assert_eq!(events, [(0, 0), (4, 0), (2, 0), (3, 0), (4, 0), (5, 1), (1, 0)], "all came: {came}");
    served.stack.stop().await.unwrap();
}

/// What the exporter answers to one scrape.
async fn scrape(port: u16) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(text)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(text)?;
    Ok(answer)
}

#[tokio::test]
async fn the_prometheus_exporter_counts_what_is_there() {
    let Some(files) = guest() else { return };
    if !has(&[("prometheus-libvirt-exporter", "prometheus-libvirt-exporter"), ("virsh", "libvirt-clients")]) {
        return;
    }
    let served = Served::new().await;
    for name in ["runs", "rests"] {
        let (xml, _) = counting(&served, name, &files);
        served.virsh(&["define", &xml]).await;
    }
    served.virsh(&["start", "runs"]).await;
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let mut exporter = served.command("prometheus-libvirt-exporter");
    exporter.args(["--libvirt.uri", &served.uri(), "--web.listen-address", &format!("127.0.0.1:{port}")]);
    let _exporter = exporter.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let value = |metrics: &str, name: &str, domain: &str| -> Option<f64> {
        let line = metrics.lines().find(|line| {
            line.starts_with(name) && (domain.is_empty() || line.contains(&format!("domain=\"{domain}\"")))
        })?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    let metrics = wait_for("the guest has read its disk", Duration::from_secs(30), || async {
        let metrics = scrape(port).await?;
        match value(&metrics, "libvirt_domain_block_stats_read_bytes_total", "runs") {
            Some(bytes) if bytes >= 512.0 => Ok(metrics),
            _ => Err(metrics),
        }
    })
    .await;
    for (name, domain, wanted) in [
        ("libvirt_up", "", 1.0),
        // It asks for those that run.
        ("libvirt_domains_number", "", 1.0),
        ("libvirt_domain_state_code", "runs", 1.0),
        ("libvirt_domain_info_virtual_cpus", "runs", 1.0),
        ("libvirt_domain_info_memory_usage_bytes", "runs", 16_777_216.0),
        ("libvirt_domain_info_maximum_memory_bytes", "runs", 16_777_216.0),
        ("libvirt_domain_block_stats_write_bytes_total", "runs", 0.0),
    ] {
        let found = value(&metrics, name, domain);
        assert!(
            found.is_some_and(|found| (found - wanted).abs() < 0.5),
            "{name} of {domain}: {found:?} in {metrics}"
        );
    }
    assert!(value(&metrics, "libvirt_domain_info_cpu_time_seconds_total", "runs").unwrap() > 0.0);
    served.virsh(&["destroy", "runs"]).await;
    served.stack.stop().await.unwrap();
}
