//! An ordinary user runs guests: with user networking, and with a tap that an administrator made in advance.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead_broker::manifest::programs;
use bulkhead_tests::fixture::{guest_files, libexec, linux_xml, skip, ticker_xml};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An ordinary one; whether it has a name does not matter.
const USER: u32 = 12_345;
const WITHIN: Duration = Duration::from_secs(60);

/// A folder of the user's with the programs in it, and the guest that runs below it; both gone at the end.
struct Home {
    path: PathBuf,
    run: Option<Child>,
    /// A process in whose namespace everything runs, and of which kind that is, as `nsenter` calls it.
    inside: Option<(Child, &'static str)>,
}

impl Home {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bh-user-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for program in programs().chain(["bulkhead"]) {
            std::fs::copy(libexec().join(program), path.join(program)).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        Self { path, run: None, inside: None }
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
        if let Some((holder, kind)) = &self.inside {
            command.args(["nsenter", kind, "--target", &holder.id().to_string()]);
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
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
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

    /// Has everything run in the namespace of a process; returns that one's id.
    fn live_inside(&mut self, mut holder: Command, kind: &'static str, name: &str) -> String {
        let holder = holder.stdin(Stdio::piped()).spawn().unwrap();
        let id = holder.id().to_string();
        self.inside = Some((holder, kind));
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let deadline = Instant::now() + WITHIN;
        while std::fs::read_link(format!("/proc/{id}/ns/{name}")).unwrap() == own {
            assert!(Instant::now() < deadline, "no namespace of kind {name}");
            std::thread::yield_now();
        }
        id
    }

    /// Waits for a line of a guest's serial port.
    fn wait_for_line(&mut self, file: &str, words: &str) -> String {
        let deadline = Instant::now() + WITHIN;
        loop {
            let text = std::fs::read(self.path.join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            if let Some(line) = text.lines().find(|line| line.contains(words)) {
                return line.trim().to_owned();
            }
            assert!(self.run.as_mut().unwrap().try_wait().unwrap().is_none(), "'run' ended: {text}");
            assert!(Instant::now() < deadline, "no '{words}' in {text}");
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
        if let Some((holder, _)) = &mut self.inside {
            let _ = holder.kill();
            let _ = holder.wait();
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// What a driver says of its confinement: what is in force, and what is missing.
fn confinement(status: &serde_json::Value, name: &str) -> [String; 2] {
    let drivers = status["drivers"].as_array().unwrap();
    let driver = drivers.iter().find(|driver| driver["name"] == name).unwrap();
    ["confinement", "confinement_missing"].map(|field| driver[field].to_string())
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
    for driver in ["qemu", "network", "log"] {
        let [in_force, _] = confinement(&status, driver);
        assert!(in_force.contains("no_new_privs") && in_force.contains("seccomp"), "{in_force}");
    }
    let lacks = confinement(&status, "network").concat();
    assert!(lacks.contains("user namespace") || lacks.contains("CAP_NET_ADMIN (not root)"), "{lacks}");
    assert_eq!(status["helpers"][0]["class"], "qemu", "{status}");
    let pid = status["helpers"][0]["pid"].as_u64().unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).unwrap());
    assert_eq!(owner, USER);
    home.destroy("mine");
}

#[test]
fn a_users_linux_guest_gets_an_address_from_user_networking() {
    let Some(files) = ready() else { return };
    let mut home = Home::new("linux");
    for name in ["vmlinuz", "initramfs-tiny.cpio.gz"] {
        home.file(name, &std::fs::read(files.join(name)).unwrap());
    }
    let devices = format!(
        "<serial type='file'><source path='{}'/></serial>\
         <interface type='user'><mac address='52:54:00:00:00:02'/><model type='virtio'/></interface>",
        home.path.join("serial.txt").display()
    );
    home.run(&linux_xml("mine", &home.path, "net", &devices));
    // QEMU's own server of addresses has answered, over the guest's network card.
    let line = home.wait_for_line("serial.txt", "Bulkhead guest has ");
    assert_eq!(line, "Bulkhead guest has address: 10.0.2.15/24");
    home.destroy("mine");
}

#[test]
fn a_user_without_namespaces_runs_a_guest_and_status_says_what_is_missing() {
    let Some(files) = ready() else { return };
    let mut home = Home::new("bare");
    // The limit counts below the namespace in which it is set.
    let script = "echo in; read go; echo 0 >/proc/sys/user/max_user_namespaces && echo set && exec timeout 120 sleep 120";
    let mut holder = Command::new("unshare");
    holder.args(["--user", "--keep-caps", "sh", "-c", script]).stdout(Stdio::piped());
    let id = home.live_inside(holder, "--user", "user");
    let (holder, _) = home.inside.as_mut().unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    // Users get their names when the shell runs with the rights that it keeps.
    assert_eq!(lines.next().unwrap().unwrap(), "in");
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{id}/{map}"), "0 0 65536").unwrap();
    }
    writeln!(holder.stdin.as_ref().unwrap(), "go").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "set");

    let xml = guest(&home, &files, "<interface type='user'><model type='e1000'/></interface>");
    let status = home.run(&xml);
    for driver in ["qemu", "network", "log"] {
        let [in_force, missing] = confinement(&status, driver);
        assert!(in_force.contains("no_new_privs") && in_force.contains("seccomp"), "{driver}: {in_force}");
        assert!(!in_force.contains("namespace"), "{driver}: {in_force}");
        assert!(missing.contains("namespace"), "{driver}: {missing}");
    }
    // A person is told too.
    let told = output_of(home.bulkhead(&["status"]).output().unwrap());
    assert!(told.contains("missing") && told.contains("namespace"), "{told}");
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
    let namespace = home.live_inside(command, "--net", "net");
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
