//! The real driver under a real broker, called by another driver: this program itself, started under the name of one.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "this is a test, though not one of the usual harness"
)]

use bulkhead_actors::driver::{DriverLogic, Leave, Start, driver_main};
use bulkhead_broker::manifest::{Intensity, programs};
use bulkhead_broker::root::Mode;
use bulkhead_broker::{Config, Handle, open};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_wire::table::{CallContext, Driver, network};
use bulkhead_wire::types::{Busy, DriverStatus};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Set, to the folder, for the process that opens a stack.
const STACK: &str = "BULKHEAD_TEST_STACK";
/// An ordinary user; whether it has a name does not matter.
const USER: u32 = 12_345;
/// Longer than anything here takes.
const WITHIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let program = std::env::args().next().unwrap_or_default();
    if program.ends_with("/bulkhead-qemu") {
        return driver_main::<Caller>();
    }
    if let Some(folder) = std::env::var_os(STACK) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(async { tokio::time::timeout(WITHIN, stack(Path::new(&folder))).await });
        // Answers that do not come are not waited for.
        runtime.shutdown_background();
        ended.unwrap();
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        println!("skipped: taps take root and /dev/net/tun");
        return ExitCode::SUCCESS;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        println!("skipped: the program 'ip' prepares the test");
        return ExitCode::SUCCESS;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link add br0 up type bridge");
    ip(&format!("tuntap add dev mine mode tap user {USER}"));
    as_user(0);
    as_user(USER);
    ExitCode::SUCCESS
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Opens a stack in a process of that user's.
fn as_user(user: u32) {
    let folder = TemporaryFolder::new(user);
    let own = std::env::current_exe().unwrap();
    // The other drivers and the trampoline must be there; nothing here starts them.
    for program in programs().chain(["test"]) {
        let real = Path::new(env!("CARGO_BIN_EXE_bulkhead-network"));
        let file = if program == "bulkhead-network" { real } else { &own };
        fs::copy(file, folder.0.join(program)).unwrap();
    }
    let output = Command::new(folder.0.join("test"))
        .env(STACK, &folder.0)
        .current_dir("/")
        .uid(user)
        .gid(user)
        .output()
        .unwrap();
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "user {user}: {}\n{complaint}{}",
        output.status,
        logs(&folder.0.join("root/log"))
    );
    println!("user {user}: {}", said.trim());
}

/// What the drivers wrote.
fn logs(folder: &Path) -> String {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            format!("{}:\n{text}", file.path().display())
        })
        .collect()
}

struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new(user: u32) -> Self {
        let name = format!("bulkhead-network-driver-{}-{user}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens a stack with the network driver and the one that calls it, and looks at what comes of it.
async fn stack(folder: &Path) {
    let root = folder.join("root");
    let config = Config {
        sockets: None,
        mode: Mode::Embed,
        root: root.clone(),
        libexec: folder.to_owned(),
        intensity: Intensity::default(),
        faults: Vec::new(),
        kept: None,
    };
    // A pipe, so that reading waits for the answers.
    let answers = root.join("run/qemu/answers");
    fs::create_dir_all(answers.with_file_name("")).unwrap();
    nix::unistd::mkfifo(&answers, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A thread that nobody waits for: where no answer comes, the test ends without it.
    let (read, answered) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || read.send(fs::read_to_string(answers)));
    let (mut handle, _ended) = open(config, bulkhead_wire::control::Layout::embed(&root)).unwrap();
    handle.want(&[Driver::Network, Driver::Qemu]).await.unwrap();
    let answers = answered.await.unwrap().unwrap();
    let network = status(&handle, Driver::Network).await;
    assert!(network.confinement.contains(&"seccomp: listed calls only".to_owned()), "{network:?}");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(answers, "mine 1\nvnet0 2\nclosed\n");
        let bridged = || ip("-oneline link show master br0").contains("vnet0");
        assert!(bridged());
        // The guest's tap does not feel what becomes of the driver that made it.
        handle.hold(Driver::Network).await.unwrap();
        wait(&mut handle, Driver::Network, "held").await;
        assert!(bridged());
        // With the last descriptor it ends.
        handle.stop().await;
        assert!(!ip("-oneline link show").contains("vnet0"));
    } else {
        let lines: Vec<&str> = answers.lines().collect();
        assert_eq!((lines[0], lines[2]), ("mine 1", "closed"), "{answers}");
        assert!(lines[1].contains("CAP_NET_ADMIN") && lines[1].contains("'br0'"), "{answers}");
        handle.stop().await;
    }
    println!("ok");
}

async fn status(handle: &Handle, driver: Driver) -> DriverStatus {
    let status = handle.status().await.unwrap();
    status.drivers.into_iter().find(|status| status.name == driver.name()).unwrap()
}

async fn wait(handle: &mut Handle, driver: Driver, state: &str) {
    loop {
        let status = status(handle, driver).await;
        if status.state == state {
            return;
        }
        assert!(status.state != "held", "{status:?}");
        handle.driver_changed().await.unwrap();
    }
}

/// A driver that does nothing but call.
struct Caller {
    /// What it was given.
    taps: Mutex<Vec<OwnedFd>>,
}

impl Caller {
    async fn call(&self, network: network::Client, answers: PathBuf) -> Result<(), Error> {
        let mac = || "52:54:00:12:34:56".to_owned();
        let opened = [
            network.tap_open(Some("mine".to_owned()), false, None, mac(), 1).await,
            network.tap_open(None, true, Some("br0".to_owned()), mac(), 2).await,
        ];
        let mut text = String::new();
        for result in opened {
            match result {
                Ok(tap) => {
                    text += &format!("{} {}\n", tap.name, tap.queues.len());
                    let files = tap.queues.into_iter().filter_map(Descriptor::into_owned);
                    self.taps.lock().unwrap().extend(files);
                }
                Err(error) => text += &format!("{error}\n"),
            }
        }
        // One that never was is gone already.
        network.tap_close("vnet9".to_owned()).await?;
        text += "closed\n";
        fs::write(answers, text).map_err(|error| Error::system(Origin::NONE, "answers", &error))
    }
}

impl DriverLogic for Caller {
    const DRIVER: Driver = Driver::Qemu;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let caller = Arc::new(Self { taps: Mutex::default() });
        // There are channels between drivers that are ready, so this is for later.
        let (calling, network) = (Arc::clone(&caller), network::Client(start.stack.peer(Driver::Network)));
        let answers = start.welcome.layout.run.join("qemu/answers");
        tokio::spawn(async move { calling.call(network, answers).await.unwrap() });
        Ok(caller)
    }

    fn dispatch(self: Arc<Self>, call: CallContext, _body: Vec<u8>, _files: Vec<OwnedFd>) -> Answer {
        Box::pin(async move {
            Err(Error::system(Origin::NONE, call.info.name, &std::io::Error::other("nothing")))
        })
    }

    fn busy(&self) -> Vec<Busy> {
        Vec::new()
    }

    async fn leave(&self, _reason: Leave) {}
}
