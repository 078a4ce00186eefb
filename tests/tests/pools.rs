//! Pools and volumes, as libvirt's own clients use them.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::wire::table::{Driver, storage};
use bulkhead::{Connection, FaultRule};
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

    fn pools(&self) -> storage::Client {
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
