//! Pools and volumes, as libvirt's own clients use them.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::wire::table::Driver;
use bulkhead::{Connection, FaultRule};
use bulkhead_base::points::{FILE_KINDS, FILE_MOMENTS, POINTS};
use bulkhead_tests::fixture::{Root, driver, kill, libexec, skip, wait_for};
use nix::sys::signal::Signal;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);

/// A stack with a gateway, and a folder for images.
struct Served {
    root: Root,
    stack: Connection,
}

impl Served {
    async fn new() -> Self {
        Self::with_faults(Vec::new()).await
    }

    async fn with_faults(faults: Vec<FaultRule>) -> Self {
        let root = Root::new();
        std::fs::create_dir_all(root.path().join("images")).unwrap();
        let stack = open(&root, faults).await;
        Self { root, stack }
    }

    fn images(&self) -> PathBuf {
        self.root.path().join("images")
    }

    fn image(&self, name: &str) -> String {
        self.images().join(name).display().to_string()
    }

    async fn said(&self, program: &str, arguments: &[&str]) -> (String, bool) {
        let socket = self.root.path().join("run/libvirt-sock");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("LIBVIRT_DEFAULT_URI", format!("qemu+unix:///session?socket={}", socket.display()))
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.root.path())
            .kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = timeout(SOON, command.output()).await.unwrap().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (text, output.status.success())
    }

    async fn virsh(&self, arguments: &[&str]) -> String {
        let (text, well) = self.said("virsh", arguments).await;
        assert!(well, "virsh {arguments:?}: {text}\n{}", self.log());
        text
    }

    async fn virsh_fails(&self, arguments: &[&str]) -> String {
        let (text, well) = self.said("virsh", arguments).await;
        assert!(!well, "virsh {arguments:?}: {text}");
        text
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log/storage.driver.log")).unwrap_or_default()
    }

    /// A pool of the images' folder.
    async fn pool(&self) {
        let images = self.images().display().to_string();
        self.virsh(&["pool-define-as", "images", "dir", "--target", &images]).await;
        self.virsh(&["pool-start", "images"]).await;
    }

    fn pools(&self) -> bulkhead::Pools {
        self.stack.pools()
    }
}

async fn open(root: &Root, faults: Vec<FaultRule>) -> Connection {
    let builder = Connection::builder(&root.uri()).libexec(libexec()).gateway(true).faults(faults);
    builder.open().await.unwrap()
}

/// Are these programs installed?
fn has(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs
        .iter()
        .find(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if let Some(program) = missing {
        skip(&format!("no {program}"));
    }
    missing.is_none()
}

/// The value of a line `NAME: VALUE`.
fn field(text: &str, name: &str) -> String {
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

fn sizes(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.len(), metadata.blocks() * 512)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_defined_started_refreshed_stopped_and_undefined() {
    if !has(&["virsh"]) {
        return;
    }
    let served = Served::new().await;
    std::fs::write(served.images().join("first.img"), [1; 4096]).unwrap();
    served.pool().await;
    let listed = served.virsh(&["pool-list", "--all", "--details"]).await;
    assert!(listed.contains("images") && listed.contains("running"), "{listed}");
    let listed = served.virsh(&["vol-list", "images"]).await;
    assert!(listed.contains("first.img"), "{listed}");
    std::fs::write(served.images().join("second.img"), [1; 4096]).unwrap();
    assert!(!served.virsh(&["vol-list", "images"]).await.contains("second.img"));
    served.virsh(&["pool-refresh", "images"]).await;
    assert!(served.virsh(&["vol-list", "images"]).await.contains("second.img"));
    let path = served.image("second.img");
    assert_eq!(served.virsh(&["vol-pool", &path]).await.trim(), "images");
    assert!(served.virsh_fails(&["vol-info", "/no/such/file"]).await.contains("Storage volume not found"));
    served.virsh(&["pool-autostart", "images"]).await;
    let info = served.virsh(&["pool-info", "images"]).await;
    assert_eq!(
        (field(&info, "State"), field(&info, "Autostart")),
        ("running".into(), "yes".into()),
        "{info}"
    );
    let xml = served.virsh(&["pool-dumpxml", "images"]).await;
    assert!(xml.contains("<mode>0") && xml.contains("<source>\n  </source>"), "{xml}");
    let again = served.virsh_fails(&["pool-define-as", "other", "dir", "--target", &served.image("")]).await;
    assert!(again.contains("'images'"), "{again}");
    served.virsh(&["pool-destroy", "images"]).await;
    assert!(served.virsh_fails(&["vol-list", "images"]).await.contains("not active"));
    served.virsh(&["pool-undefine", "images"]).await;
    assert!(!served.virsh(&["pool-list", "--all"]).await.contains("images"));
    assert!(served.images().join("first.img").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_made_cloned_resized_wiped_and_removed() {
    if !has(&["virsh", "qemu-img"]) {
        return;
    }
    let served = Served::new().await;
    served.pool().await;
    served.virsh(&["vol-create-as", "images", "raw.img", "8M", "--allocation", "1M"]).await;
    let raw = served.images().join("raw.img");
    assert_eq!(sizes(&raw), (8 << 20, 1 << 20));
    let twice = served.virsh_fails(&["vol-create-as", "images", "raw.img", "8M"]).await;
    assert!(twice.contains("'raw.img' already"), "{twice}");
    served.virsh(&["vol-create-as", "images", "base.qcow2", "16M", "--format", "qcow2"]).await;
    let base = served.image("base.qcow2");
    let over = ["--format", "qcow2", "--backing-vol", &base, "--backing-vol-format", "qcow2"];
    let made = [&["vol-create-as", "images", "top.qcow2", "16M"][..], &over[..]].concat();
    served.virsh(&made).await;
    let xml = served.virsh(&["vol-dumpxml", "top.qcow2", "images"]).await;
    assert!(
        xml.contains(&format!("<path>{base}</path>\n    <format type='qcow2'/>\n    <permissions>")),
        "{xml}"
    );
    served.virsh(&["pool-refresh", "images"]).await;
    let xml = served.virsh(&["vol-dumpxml", "top.qcow2", "images"]).await;
    for part in ["<compat>1.1</compat>", "<clusterSize unit='B'>65536</clusterSize>", "<features/>", &base] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
    // A clone has the bytes and the holes.
    let content: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::OpenOptions::new().write(true).open(&raw).unwrap(),
        &content,
        5 << 20,
    )
    .unwrap();
    served.virsh(&["vol-clone", "raw.img", "copy.img", "--pool", "images"]).await;
    let copy = served.images().join("copy.img");
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&raw).unwrap());
    assert!(sizes(&copy).1 < 2 << 20, "{:?}", sizes(&copy));
    served.virsh(&["vol-clone", "base.qcow2", "copy.qcow2", "--pool", "images"]).await;
    assert!(served.virsh(&["vol-info", "copy.qcow2", "images"]).await.contains("16.00 MiB"));
    // Sizes.
    served.virsh(&["vol-resize", "copy.img", "4M", "--delta", "--pool", "images"]).await;
    assert_eq!(sizes(&copy).0, 12 << 20);
    let smaller = served.virsh_fails(&["vol-resize", "copy.img", "9M", "--pool", "images"]).await;
    assert!(smaller.contains("SHRINK"), "{smaller}");
    served.virsh(&["vol-resize", "copy.img", "9M", "--shrink", "--pool", "images"]).await;
    served.virsh(&["vol-resize", "copy.qcow2", "32M", "--pool", "images"]).await;
    assert!(served.virsh(&["vol-info", "copy.qcow2", "images"]).await.contains("32.00 MiB"));
    // Nothing is left where there was something.
    served.virsh(&["vol-wipe", "copy.img", "--pool", "images"]).await;
    assert!(std::fs::read(&copy).unwrap().iter().all(|byte| *byte == 0));
    for name in ["raw.img", "copy.img", "top.qcow2", "base.qcow2", "copy.qcow2"] {
        served.virsh(&["vol-delete", name, "--pool", "images"]).await;
    }
    assert_eq!(std::fs::read_dir(served.images()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_is_downloaded() {
    if !has(&["virsh"]) {
        return;
    }
    let served = Served::new().await;
    served.pool().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 253) as u8).collect();
    let [given, back, part] = ["given", "back", "part"].map(|name| served.root.path().join(name));
    std::fs::write(&given, &content).unwrap();
    let path = |path: &PathBuf| path.display().to_string();
    served.virsh(&["vol-create-as", "images", "disk.img", "4M", "--allocation", "0"]).await;
    served.virsh(&["vol-upload", "disk.img", &path(&given), "--pool", "images"]).await;
    served.virsh(&["vol-download", "disk.img", &path(&back), "--pool", "images"]).await;
    let downloaded = std::fs::read(&back).unwrap();
    assert_eq!(downloaded.len(), 4 << 20);
    assert!(
        downloaded[..content.len()] == content[..]
            && downloaded[content.len()..].iter().all(|byte| *byte == 0)
    );
    let bounded = ["--offset", "1000", "--length", "5000", "--pool", "images"];
    served.virsh(&[&["vol-download", "disk.img", &path(&part)][..], &bounded[..]].concat()).await;
    assert!(std::fs::read(&part).unwrap() == content[1000..6000]);
    // What an upload made of a volume is seen at once.
    let info = wait_for("the upload is seen", SOON, || async {
        let info = served.virsh(&["vol-info", "disk.img", "images", "--bytes"]).await;
        let bytes: u64 = field(&info, "Allocation").trim_end_matches(" bytes").parse().unwrap();
        if bytes >= 3_000_000 { Ok(info) } else { Err(info) }
    });
    info.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_guests_write_and_what_lies_about_harms_nothing() {
    if !has(&["virsh", "qemu-img"]) {
        return;
    }
    let served = Served::new().await;
    let secret = served.root.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    symlink(&secret, served.images().join("out")).unwrap();
    symlink("in.img", served.images().join("in")).unwrap();
    std::fs::write(served.images().join("in.img"), [7; 8192]).unwrap();
    symlink("nowhere", served.images().join("dangling")).unwrap();
    nix::unistd::mkfifo(&served.images().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(served.images().join("socket")).unwrap();
    std::fs::write(served.images().join("two\nlines"), "x").unwrap();
    served.pool().await;
    served.virsh(&["vol-create-as", "images", "guest.img", "8M"]).await;
    // A guest makes its raw disk look like an image on top of somebody's file, or of a pipe that never answers.
    let guest = served.images().join("guest.img");
    for below in [secret.clone(), served.images().join("pipe"), "/etc/shadow".into()] {
        let hostile = served.root.path().join("hostile.qcow2");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(&below)
            .arg(&hostile)
            .arg("8M")
            .status();
        assert!(made.await.unwrap().success());
        let header = std::fs::read(&hostile).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&guest).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &header, 0).unwrap();
        std::fs::copy(&hostile, served.images().join("stranger.qcow2")).unwrap();
        served.virsh(&["pool-refresh", "images"]).await;
        let xml = served.virsh(&["vol-dumpxml", "guest.img", "images"]).await;
        assert!(xml.contains("<format type='raw'/>") && !xml.contains("backingStore"), "{xml}");
        // An image that nobody here made is told as it is, and what it names is not looked at.
        let xml = served.virsh(&["vol-dumpxml", "stranger.qcow2", "images"]).await;
        let (_, backing) = xml.split_once("<backingStore>").unwrap();
        assert!(!backing.contains("<permissions>") && !backing.contains("<timestamps>"), "{xml}");
    }
    let listed = served.virsh(&["vol-list", "images"]).await;
    let shown: Vec<&str> = listed.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(shown, ["guest.img", "in", "in.img", "stranger.qcow2"], "{listed}");
    // Links are for reading.
    let given = served.root.path().join("given");
    std::fs::write(&given, "overwritten").unwrap();
    served.virsh_fails(&["vol-upload", "in", &given.display().to_string(), "--pool", "images"]).await;
    assert!(std::fs::read(served.images().join("in.img")).unwrap() == [7; 8192]);
    for name in ["../escape.img", "..", ".", "a/b", "out/x"] {
        served.virsh_fails(&["vol-create-as", "images", name, "1M"]).await;
    }
    let taken = served.virsh_fails(&["vol-create-as", "images", "out", "1M"]).await;
    assert!(taken.contains("'out' already"), "{taken}");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    // Places that no pool may have.
    let root = served.root.path().display().to_string();
    for place in [root.as_str(), "/etc", "/", &format!("{root}/etc")] {
        served.virsh(&["pool-define-as", "greedy", "dir", "--target", place]).await;
        served.virsh_fails(&["pool-start", "greedy"]).await;
        served.virsh(&["pool-undefine", "greedy"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_outlive_their_driver_and_their_stack() {
    if !has(&["virsh"]) {
        return;
    }
    let mut served = Served::new().await;
    served.pool().await;
    served.virsh(&["vol-create-as", "images", "kept.img", "1M"]).await;
    let (pid, _) = driver(&served.stack, "storage").await.unwrap();
    kill(pid, Signal::SIGKILL);
    let pools = served.pools();
    let named = wait_for("the pool is known again", SOON, || async {
        pools.storage_pool_lookup_by_name("images".to_owned()).await.map_err(|error| error.to_string())
    });
    let named = named.await;
    let volumes = pools.storage_pool_list_all_volumes(named, 1, 0).await.unwrap();
    assert_eq!(volumes.count, 1);
    let helpers = served.stack.status().await.unwrap().helpers;
    assert_eq!(helpers.iter().filter(|helper| helper.class == "pool").count(), 1, "{helpers:?}");
    served.virsh(&["pool-autostart", "images"]).await;
    // What was active is active again; what is stopped starts by itself.
    served.stack.stop().await.unwrap();
    served.stack = open(&served.root, Vec::new()).await;
    assert!(served.virsh(&["vol-list", "images"]).await.contains("kept.img"));
    served.virsh(&["pool-destroy", "images"]).await;
    served.stack.stop().await.unwrap();
    served.stack = open(&served.root, Vec::new()).await;
    wait_for("the pool starts", SOON, || async {
        let listed = served.virsh(&["pool-list"]).await;
        if listed.contains("images") { Ok(()) } else { Err(listed) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_are_installed_on_volumes_and_cloned_with_them() {
    let Some(files) = bulkhead_tests::fixture::guest_files() else {
        return skip("the guests' files are not built; tools/guest/build makes them");
    };
    if !has(&["virsh", "virt-install", "virt-clone"]) {
        return;
    }
    let served = Served::new().await;
    let disk = served.image("ticker.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let common = [
        "--memory",
        "32",
        "--osinfo",
        "generic",
        "--virt-type",
        "qemu",
        "--network",
        "user",
        "--graphics",
        "none",
        "--noautoconsole",
    ];
    let imported = format!("{disk},format=raw,bus=ide");
    let install = [&["--name", "web", "--import", "--disk", &imported][..], &common[..]].concat();
    let (said, well) = served.said("virt-install", &install).await;
    assert!(well, "{said}\n{}", served.log());
    let xml = served.virsh(&["dumpxml", "web"]).await;
    assert!(xml.contains(&disk), "{xml}");
    // It made a pool of the image's folder.
    assert_eq!(served.virsh(&["vol-pool", &disk]).await.trim(), "images");
    served.virsh(&["destroy", "web"]).await;
    let clone = ["--original", "web", "--name", "copy", "--auto-clone"];
    let (said, well) = served.said("virt-clone", &clone).await;
    assert!(well, "{said}\n{}", served.log());
    let xml = served.virsh(&["dumpxml", "copy"]).await;
    let copy = served.image("ticker-clone.img");
    assert!(xml.contains("ticker-clone.img") || xml.contains("copy.img"), "{xml}\n{said}");
    let copy = if xml.contains(&copy) { copy } else { served.image("copy.img") };
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&disk).unwrap());
    served.virsh(&["start", "copy"]).await;
    served.virsh(&["destroy", "copy"]).await;
    // A disk made on the way.
    let sized = "size=0.01,pool=images,format=qcow2,bus=ide";
    let install = [&["--name", "fresh", "--boot", "hd", "--disk", sized][..], &common[..]].concat();
    let install = [&install[..], &["--install", "no_install=yes"][..]].concat();
    let (said, well) = served.said("virt-install", &install).await;
    assert!(well, "{said}\n{}", served.log());
    assert!(served.virsh(&["vol-list", "images"]).await.contains("fresh.qcow2"));
    served.virsh(&["destroy", "fresh"]).await;
}

/// What is left of a definition, of a record and of volumes after the driver died at a point.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_dies_leaves_the_old_state_or_the_new_one() {
    let kinds = FILE_KINDS.iter().filter(|kind| kind.driver == "storage");
    let moments = |subject| FILE_MOMENTS.iter().map(move |(moment, _)| format!("{subject}.{moment}"));
    let written = kinds.flat_map(|kind| moments(kind.subject));
    let own = POINTS.iter().filter(|point| point.driver == "storage");
    let points: Vec<_> =
        written.chain(own.map(|point| format!("{}.{}", point.subject, point.moment))).collect();
    assert!(points.len() > 20);
    for point in points {
        // The list of raw files is written beside the calls, and removed with the definition.
        let fault = FaultRule { driver: Driver::Storage, point: point.clone(), nth: 1, hang: false };
        let served = Served::with_faults(vec![fault]).await;
        let pools = served.pools();
        let target = served.images().display().to_string();
        let pool =
            format!("<pool type='dir'><name>images</name><target><path>{target}</path></target></pool>");
        let volume = "<volume><name>disk.img</name><capacity unit='MiB'>1</capacity></volume>";
        let mut died = 0;
        // Each is done, or not, and done again if not; none finds anything between the two.
        let known = loop {
            match pools.storage_pool_define_xml(pool.clone(), 0).await {
                Ok(known) => break known,
                Err(error) => died += dies(&point, &error),
            }
            if let Ok(known) = pools.storage_pool_lookup_by_name("images".to_owned()).await {
                break known;
            }
        };
        if let Err(error) = pools.storage_pool_set_autostart(known.clone(), 1).await {
            died += dies(&point, &error);
        }
        if let Err(error) = pools.storage_pool_create(known.clone(), 0).await {
            died += dies(&point, &error);
            if pools.storage_pool_is_active(known.clone()).await.unwrap() == 0 {
                pools.storage_pool_create(known.clone(), 0).await.unwrap();
            }
        }
        if let Err(error) = pools.storage_vol_create_xml(known.clone(), volume.to_owned(), 0).await {
            died += dies(&point, &error);
            let found = pools.storage_vol_lookup_by_name(known.clone(), "disk.img".to_owned()).await;
            if let Err(error) = found {
                assert_eq!(error.code, bulkhead::wire::error::Code::NO_STORAGE_VOL, "{point}: {error}");
                pools.storage_vol_create_xml(known.clone(), volume.to_owned(), 0).await.unwrap();
            }
        }
        let listed: Vec<_> =
            std::fs::read_dir(served.images()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(listed, ["disk.img"], "{point}");
        assert_eq!(sizes(&served.images().join("disk.img")), (1 << 20, 1 << 20), "{point}");
        if let Err(error) = pools.storage_pool_destroy(known.clone()).await {
            died += dies(&point, &error);
            if pools.storage_pool_is_active(known.clone()).await.unwrap() == 1 {
                pools.storage_pool_destroy(known.clone()).await.unwrap();
            }
        }
        if let Err(error) = pools.storage_pool_undefine(known.clone()).await {
            died += dies(&point, &error);
            if pools.storage_pool_lookup_by_uuid(known.uuid).await.is_ok() {
                pools.storage_pool_undefine(known.clone()).await.unwrap();
            }
        }
        let gone = pools.storage_pool_lookup_by_name("images".to_owned()).await.unwrap_err();
        assert_eq!(gone.code, bulkhead::wire::error::Code::NO_STORAGE_POOL, "{point}");
        let (_, incarnation) =
            wait_for("the driver is ready", SOON, || driver(&served.stack, "storage")).await;
        // Calls that may be repeated hide a death from their caller.
        assert!(incarnation == 2 && died <= 1, "{point}: incarnation {incarnation}, {died} calls died");
        let left =
            ["etc/storage", "run/storage"].map(|folder| left(&served.root.path().join(folder))).concat();
        assert!(left.is_empty(), "{point}: {left:?}");
        served.stack.stop().await.unwrap();
    }
}

/// One call that ended with its driver.
fn dies(point: &str, error: &bulkhead::Error) -> usize {
    assert!(error.message.contains("ended while it served"), "{point}: {error}");
    1
}

/// Files below a folder.
fn left(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { left(&path) } else { vec![path] }).collect()
}
