//! A driver that was taken over asks its broker for everything that the matrix says no driver gets: each wish is refused and
//! logged, and harms nobody. `tests/src/bin/captured.rs` is that driver; the broker, the others and the profiles are real.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead::Connection;
use bulkhead::wire::control::Layout;
use bulkhead_broker::manifest::programs;
use bulkhead_sandbox::matrix::{DRIVERS, Process, WISHES, Wish};
use bulkhead_tests::fixture::{Root, driver, figure, libexec, skip, wait_for};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, SFlag, mknod};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const WITHIN: Duration = Duration::from_secs(120);
const SECRET: &str = "the state of somebody else\n";
/// Descriptors that the daemon may have, as on a machine whose owner changed nothing.
const OPEN_FILES: usize = 1024;

/// What the captured driver aims at, and what must be as it was afterwards.
struct Aims {
    home: Root,
    layout: Layout,
    victim: UnixListener,
    /// A helper of another driver.
    foreign: Child,
    /// What fills the queue of a socket.
    full: Vec<OwnedFd>,
}

/// Which other driver owns the foreign helper: one that leaves unknown helpers alone.
fn owner_of_foreign(captured: &str) -> &'static str {
    if captured == "log" { "secret" } else { "log" }
}

/// The folder in which a driver may do anything.
fn own_folder(layout: &Layout, driver: &str) -> PathBuf {
    if driver == "log" { layout.log.clone() } else { layout.lib.join(driver) }
}

impl Aims {
    fn new(captured: &str) -> Self {
        let home = Root::new();
        let layout = Layout::session(home.path(), &home.path().join("run"));
        for name in ["qemu", "network"] {
            fs::create_dir_all(layout.etc.join(name)).unwrap();
            fs::create_dir_all(layout.lib.join(name)).unwrap();
            fs::write(layout.etc.join(name).join("state"), SECRET).unwrap();
        }
        for folder in [&layout.log, &layout.run.join("broker/helpers"), &layout.guest("foreign")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(layout.guest("foreign").join("disk"), SECRET).unwrap();
        let victim = UnixListener::bind(layout.guest("foreign").join("monitor.sock")).unwrap();
        victim.set_nonblocking(true).unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(at("disk.img"), "disk\n").unwrap();
        fs::create_dir_all(at("copies")).unwrap();
        for number in 0..40 {
            fs::write(at("copies").join(number.to_string()), [0; 4096]).unwrap();
        }
        fs::copy("/bin/true", at("qemu-system-x86_64")).unwrap();
        symlink(layout.guest("foreign").join("disk"), at("to-victim")).unwrap();
        symlink("/etc/shadow", at("to-shadow")).unwrap();
        // Some machines have the folder for temporary files on another file system.
        let _ = fs::hard_link("/etc/passwd", at("hard-passwd"));
        let own = own_folder(&layout, captured);
        fs::create_dir_all(&own).unwrap();
        let foreign = if captured == "network" { "qemu" } else { "network" };
        fs::hard_link(layout.etc.join(foreign).join("state"), own.join("hard-state")).unwrap();
        // The memory of the host, and the disk that it runs from, by names of their own.
        let everybody = Mode::from_bits_truncate(0o666);
        mknod(&at("node"), SFlag::S_IFCHR, everybody, nix::sys::stat::makedev(1, 1)).unwrap();
        let root_disk = fs::metadata("/").unwrap().dev();
        if nix::sys::stat::major(root_disk) != 0 {
            mknod(&at("root-disk"), SFlag::S_IFBLK, everybody, root_disk).unwrap();
        }
        let foreign = Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
        let pid = foreign.id().unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let ticks: u64 =
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
        let record = serde_json::json!({ "key": "foreign", "class": "qemu", "owner": owner_of_foreign(captured),
            "pid": pid, "start_ticks": ticks, "autodestroy": false, "confinement": [] });
        fs::write(layout.run.join("broker/helpers/foreign"), record.to_string()).unwrap();
        Self { home, layout, victim, foreign, full: Vec::new() }
    }

    /// What lies in the folder of the driver's own guest may be the guest's doing.
    fn plant(&mut self, captured: &str) {
        let control = self.layout.guest("control");
        fs::create_dir_all(&control).unwrap();
        symlink(self.layout.guest("foreign").join("monitor.sock"), control.join("link")).unwrap();
        fs::write(control.join("plain"), "").unwrap();
        self.full = full_socket(&control.join("full"));
        let own = own_folder(&self.layout, captured);
        fs::write(own.join("planted"), "").unwrap();
    }

    /// A folder of programs in which one driver is the captured one.
    fn programs(&self, captured: &str) -> PathBuf {
        let folder = self.home.path().join("libexec");
        fs::create_dir_all(&folder).unwrap();
        for name in programs() {
            let real = if name == format!("bulkhead-{captured}") { "bulkhead-test-captured" } else { name };
            symlink(libexec().join(real), folder.join(name)).unwrap();
        }
        folder
    }

    fn daemon(&self, captured: &str) -> Child {
        let said = fs::File::create(self.home.path().join("said")).unwrap();
        Command::new("sh")
            .args(["-c", &format!("ulimit -n {OPEN_FILES}; exec \"$@\""), "sh"])
            .arg(libexec().join("bulkheadd"))
            .args(["--session", "--libexec"])
            .arg(self.programs(captured))
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path().join("run"))
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Nothing that the captured driver aimed at is another than before.
    fn are_unharmed(&mut self) {
        let layout = &self.layout;
        for path in [
            layout.etc.join("qemu/state"),
            layout.etc.join("network/state"),
            layout.guest("foreign").join("disk"),
        ] {
            assert_eq!(fs::read_to_string(&path).unwrap(), SECRET, "{}", path.display());
        }
        for path in [
            layout.guest("foreign").join("new"),
            layout.run.join("broker/helpers/planted"),
            self.home.path().join(".bashrc"),
            "/etc/cron.d/x".into(),
            "/usr/bin/x".into(),
        ] {
            assert!(!path.exists(), "{} was made", path.display());
        }
        assert!(self.victim.accept().is_err(), "somebody connected to another guest");
        assert!(self.foreign.try_wait().unwrap().is_none(), "the helper of another driver was ended");
        for guest in fs::read_dir(layout.run.join("guests")).unwrap().flatten() {
            let name = guest.file_name().into_string().unwrap();
            assert!(!name.starts_with("k-") && name != "flood", "a refused wish left the folder {name}");
        }
        for copy in fs::read_dir(self.home.path().join("copies")).unwrap().flatten() {
            let text = fs::read_to_string(copy.path()).unwrap();
            assert!(!text.contains(SECRET.trim()), "a helper has read the state of somebody else");
        }
    }
}

/// A socket whose listener does not accept, and whose queue is full; and what fills it.
fn full_socket(path: &Path) -> Vec<OwnedFd> {
    let make = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap()
    };
    let address = UnixAddr::new(path).unwrap();
    let listener = make();
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let mut files = vec![listener];
    loop {
        let client = make();
        if connect(client.as_raw_fd(), &address).is_err() {
            return files;
        }
        files.push(client);
    }
}

fn name(process: Process) -> &'static str {
    match process {
        Process::NetworkDriver => "network",
        Process::LogDriver => "log",
        _ => "qemu",
    }
}

fn descriptors(process: &Child) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.id().unwrap())).unwrap().count()
}

fn resident_kib(process: &Child) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", process.id().unwrap())).unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4
}

/// What the driver told, by the first word of its lines.
fn told<'a>(record: &'a str, word: &str) -> Vec<&'a str> {
    record.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
}

fn numbers(record: &str, word: &str) -> Vec<usize> {
    told(record, word)
        .iter()
        .flat_map(|line| line.split(' '))
        .filter_map(|number| number.parse().ok())
        .collect()
}

async fn attack(process: Process) {
    let captured = name(process);
    let mut aims = Aims::new(captured);
    let mut daemon = aims.daemon(captured);
    let stack = wait_for("the daemon answers", WITHIN, || async {
        Connection::attach_to(&aims.layout).await.map_err(|error| error.to_string())
    })
    .await;
    let others: Vec<&str> = ["qemu", "network", "log"].into_iter().filter(|name| *name != captured).collect();
    let mut lives = Vec::new();
    for other in &others {
        lives.push(wait_for("the others serve", WITHIN, || driver(&stack, other)).await);
    }
    let open = descriptors(&daemon);

    let path = aims.layout.log.join(format!("{captured}.driver.log"));
    wait_for("what is granted was asked for", WITHIN, || async {
        let record = fs::read_to_string(&path).unwrap_or_default();
        if record.contains("\nControl ") { Ok(()) } else { Err(record) }
    })
    .await;
    aims.plant(captured);
    let mut slowest = Duration::ZERO;
    let deadline = Instant::now() + WITHIN;
    // Until the captured one has tried all, and has been ended for not hearing the answers.
    loop {
        let asked = Instant::now();
        let life = driver(&stack, captured).await;
        slowest = slowest.max(asked.elapsed());
        if life.as_ref().is_ok_and(|(_, incarnation)| *incarnation == 2) {
            break;
        }
        let record = fs::read_to_string(&path).unwrap_or_default();
        assert!(Instant::now() < deadline, "{captured}: not done: {life:?}: {:?}", record.lines().last());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let record = fs::read_to_string(&path).unwrap();
    let said = fs::read_to_string(aims.home.path().join("said")).unwrap();
    assert!(record.contains("\nFinished\n"), "{record}");

    let granted: Vec<&str> = record
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some("granted") && !line.starts_with("Control"))
        .collect();
    assert!(granted.is_empty(), "{captured} got: {granted:#?}");
    for wish in WISHES {
        let tried = told(&record, &format!("{wish:?}"));
        match wish {
            Wish::OtherChannel => {
                let mut peers: Vec<&str> = told(&record, "Channels")[0].split_whitespace().collect();
                peers.sort_unstable();
                let named: &[&str] = if captured == "qemu" { &["log", "network", "secret"] } else { &[] };
                assert_eq!(peers, named);
            }
            Wish::SwappedLink => {
                let [refused, granted] = numbers(&record, "Swapped")[..] else { panic!("{record}") };
                assert_eq!(refused + granted, 40);
                // Read through the link was what it led to when the broker looked, or nothing.
                assert_eq!(granted > 0, captured == "qemu", "{refused} refused, {granted} granted");
            }
            _ => assert!(!tried.is_empty(), "{wish:?} was not tried"),
        }
    }
    let control = told(&record, "Control")[0];
    assert_eq!(control.ends_with(" granted"), captured == "qemu", "{control}");
    let deposits = numbers(&record, "Deposits")[0];
    assert!((1..OPEN_FILES / 2).contains(&deposits), "{deposits} deposits");
    let returned = told(&record, "Returned");
    assert_eq!(returned, ["1 0", &format!("2 {}", deposits.min(100))], "what the next life got back");
    let probes = numbers(&record, "Probes")[0];
    assert!(if captured == "qemu" { (1..=16).contains(&probes) } else { probes == 0 }, "{probes} probes");
    assert_eq!(numbers(&record, "Flood"), [5000], "wishes of a flood that were refused");

    // The record of the broker names what was refused to whom.
    for words in ["/etc/shadow", "foreign"] {
        let found = said
            .lines()
            .any(|line| line.contains("refused") && line.contains(words) && line.contains(captured));
        assert!(found || captured != "qemu", "nothing of {words} in the daemon's log:\n{said}");
    }
    assert!(said.contains("refused") && said.contains("does not read its control link"), "{said}");
    assert!(said.len() < 4 << 20, "the flood of wishes is a flood of {} bytes in the log", said.len());

    for (other, life) in others.iter().zip(lives) {
        assert_eq!(driver(&stack, other).await.as_ref(), Ok(&life), "{other} was ended");
    }
    aims.are_unharmed();
    let left = stack.status().await.unwrap().helpers;
    let foreign: Vec<&str> =
        left.iter().map(|helper| helper.key.as_str()).filter(|key| *key != "control").collect();
    assert_eq!(foreign, ["foreign"], "helpers that were not ended with their driver's wishes");
    let now = descriptors(&daemon);
    // The shelf has what the next life got back.
    assert!(now <= open + deposits.min(100) + 4, "{open} descriptors before, {now} after");
    let resident = resident_kib(&daemon) / 1024;
    assert!(resident < 160, "the broker has grown to {resident} MiB");
    assert!(slowest < Duration::from_secs(5), "the broker answered after {slowest:?}");
    let tried = record.lines().filter(|line| line.contains(" refused")).count();
    figure(&format!(
        "captured {captured}: {tried} wishes refused one by one, 5000 in a flood; slowest status {} ms; broker {resident} MiB",
        slowest.as_millis()
    ));

    drop(stack);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_captured_driver_gets_nothing_by_asking_for_it() {
    if !nix::unistd::geteuid().is_root() {
        return skip("what a captured driver aims at takes device nodes, which root makes");
    }
    for process in DRIVERS {
        attack(*process).await;
    }
}
