//! An ordinary user runs guests: with user networking, and with a tap that an administrator made in advance.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead_broker::manifest::MANIFESTS;
use bulkhead_tests::fixture::{guest_files, libexec, skip, ticker_xml};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// An ordinary one; whether it has a name does not matter.
const USER: u32 = 12_345;
const WITHIN: Duration = Duration::from_secs(60);

/// A folder of the user's with the programs in it, and the guest that runs below it; both gone at the end.
struct Home {
    path: PathBuf,
    run: Option<Child>,
    /// A process in whose network namespace everything runs.
    network: Option<Child>,
}

impl Home {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bh-user-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let drivers = MANIFESTS.iter().map(|manifest| manifest.program);
        for program in drivers.chain(["bulkhead", "bulkhead-launch"]) {
            std::fs::copy(libexec().join(program), path.join(program)).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        Self { path, run: None, network: None }
    }

    fn file(&self, name: &str, from: &[u8]) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, from).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        path
    }

    /// The command as the user, in the network of this home.
    fn bulkhead(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "120"]);
        if let Some(network) = &self.network {
            command.args(["nsenter", "--net", "--target", &network.id().to_string()]);
        }
        command
            .args(["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"])
            .arg(self.path.join("bulkhead"))
            .arg("--root")
            .arg(self.path.join("root"))
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .current_dir(&self.path);
        command
    }

    fn status(&self) -> serde_json::Value {
        let output = self.bulkhead(&["--json", "status"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Runs a guest and returns the status once it runs.
    fn run(&mut self, xml: &str) -> serde_json::Value {
        let file = self.file("guest.xml", xml.as_bytes());
        let log = std::fs::File::create(self.path.join("said")).unwrap();
        let mut command = self.bulkhead(&["run", "--no-console", file.to_str().unwrap()]);
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.run = Some(command.spawn().unwrap());
        let deadline = Instant::now() + WITHIN;
        loop {
            let ended = self.run.as_mut().and_then(|run| run.try_wait().unwrap());
            let said = std::fs::read_to_string(self.path.join("said")).unwrap();
            assert!(ended.is_none(), "'run' ended: {ended:?}: {said}");
            // Before the stack is there, another command would open it itself.
            if !self.path.join("root/run/control.sock").exists() {
                assert!(Instant::now() < deadline, "no stack: {said}");
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let listed = output_of(self.bulkhead(&["--json", "list"]).output().unwrap());
            if listed.contains("\"running\"") {
                return self.status();
            }
            assert!(Instant::now() < deadline, "no guest runs: {said} {listed}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the guest, and with it the command.
    fn destroy(&mut self, name: &str) {
        let output = self.bulkhead(&["destroy", name]).output().unwrap();
        assert!(output.status.success(), "{}", output_of(output));
        let status = self.run.take().unwrap().wait().unwrap();
        let said = std::fs::read_to_string(self.path.join("said")).unwrap();
        assert!(status.success(), "{status}: {said}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Its guest goes with it: it was started to be ended with its application.
        if let Some(run) = &mut self.run {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(i32::try_from(run.id()).unwrap()),
                nix::sys::signal::Signal::SIGTERM,
            );
            let _ = run.wait();
        }
        if let Some(network) = &mut self.network {
            let _ = network.kill();
            let _ = network.wait();
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn output_of(output: Output) -> String {
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn ready() -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        skip("these tests change to an ordinary user, which takes root");
        return None;
    }
    let files = guest_files();
    if files.is_none() {
        skip("no guest files; tools/guest/build makes them");
    }
    files
}

fn guest(home: &Home, files: &Path, interface: &str) -> String {
    let disk = home.file("disk.img", &std::fs::read(files.join("ticker.img")).unwrap());
    ticker_xml("mine", &disk, &format!("<serial type='pty'/>{interface}"))
}

#[test]
fn a_user_runs_a_guest_with_user_networking_and_sees_how_it_is_confined() {
    let Some(files) = ready() else { return };
    let mut home = Home::new("net");
    let xml = guest(&home, &files, "<interface type='user'><model type='e1000'/></interface>");
    let status = home.run(&xml);
    let drivers = status["drivers"].as_array().unwrap();
    let confinement = |name: &str, field: &str| {
        let driver = drivers.iter().find(|driver| driver["name"] == name).unwrap();
        driver[field].to_string()
    };
    for driver in ["qemu", "network", "log"] {
        let in_force = confinement(driver, "confinement");
        assert!(in_force.contains("no_new_privs") && in_force.contains("seccomp"), "{in_force}");
    }
    let lacks = confinement("network", "confinement_missing") + &confinement("network", "confinement");
    assert!(lacks.contains("user namespace") || lacks.contains("CAP_NET_ADMIN (not root)"), "{lacks}");
    assert_eq!(status["helpers"][0]["class"], "qemu", "{status}");
    let pid = status["helpers"][0]["pid"].as_u64().unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).unwrap());
    assert_eq!(owner, USER);
    home.destroy("mine");
}

#[test]
fn a_user_runs_a_guest_on_a_tap_made_in_advance_and_the_tap_stays_as_it_was() {
    let Some(files) = ready() else { return };
    if !Path::new("/dev/net/tun").exists() || Command::new("ip").arg("-V").output().is_err() {
        return skip("taps take /dev/net/tun and the program 'ip'");
    }
    let mut home = Home::new("tap");
    let mut command = Command::new("unshare");
    command.args(["--net", "timeout", "120", "sleep", "120"]);
    home.network = Some(command.spawn().unwrap());
    let namespace = home.network.as_ref().unwrap().id().to_string();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let deadline = Instant::now() + WITHIN;
    while std::fs::read_link(format!("/proc/{namespace}/ns/net")).unwrap() == own {
        assert!(Instant::now() < deadline, "no network namespace");
        std::thread::yield_now();
    }
    let ip = |words: &str| {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &namespace, "ip"]);
        let output = command.args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {words}: {}", output_of(output));
        output_of(output)
    };
    ip("tuntap add dev bh0 mode tap user 12345");
    ip("link set bh0 address 52:54:00:ab:cd:ef");
    // What the kernel shows of it, less what says whether somebody has it open.
    let shown = || -> serde_json::Value {
        let mut links: serde_json::Value = serde_json::from_str(&ip("-json -details link show bh0")).unwrap();
        let link = &mut links[0];
        serde_json::json!({ "address": link["address"].take(), "mtu": link["mtu"].take(),
            "up": link["flags"].to_string().contains("\"UP\""), "master": link["master"].take(),
            "user": link["linkinfo"]["info_data"]["user"].take() })
    };
    let before = shown();
    let interface = "<interface type='ethernet'><mac address='52:54:00:00:00:01'/>\
                     <target dev='bh0' managed='no'/><model type='e1000'/></interface>";
    let xml = guest(&home, &files, interface);
    home.run(&xml);
    assert_eq!(shown(), before, "while the guest runs");
    home.destroy("mine");
    assert_eq!(shown(), before, "after the guest");
}
