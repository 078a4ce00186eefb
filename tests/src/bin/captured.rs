//! A driver that was taken over: it stands in the place of a real one, under that one's profile, and asks the broker for
//! everything that the matrix says no driver gets. Which driver it stands for is the name by which it was started.
//!
//! What became of each wish is a line of the driver's log: `WISH LABEL refused|granted WORDS`. Around it the test has laid
//! out a home; see `tests/tests/captured.rs`.
#![expect(clippy::unwrap_used, reason = "part of a test, though not one of the usual harness")]

use bulkhead_sandbox::matrix::Wish;
use bulkhead_sandbox::{Profile, confine};
use bulkhead_wire::codec;
use bulkhead_wire::control::{
    Access, FilePurpose, FromDriver, HelperRequest, Layout, Request, Response, Side, ToDriver,
};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::Error;
use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::link::{self, LinkReader, LinkWriter};
use bulkhead_wire::table::{Driver, REVISION};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    let [link, profile] = bulkhead_sandbox::inherited([3, 4]);
    let mut text = Vec::new();
    File::from(profile).read_to_end(&mut text).unwrap();
    let report = confine(&Profile::from_json(&text).unwrap(), &[3]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (reader, writer) = link::open(link, REVISION).await.unwrap();
        let mut captured = Captured {
            reader,
            writer,
            next: 0,
            channels: Vec::new(),
            // Stands in before there is a welcome, and names nothing.
            layout: Layout {
                etc: PathBuf::new(),
                lib: PathBuf::new(),
                run: PathBuf::new(),
                log: PathBuf::new(),
                cache: PathBuf::new(),
            },
            own: PathBuf::new(),
        };
        captured.say(&FromDriver::Confined { in_force: report.in_force, missing: report.missing }).await;
        captured.live(name.rsplit('-').next().unwrap_or_default()).await;
    });
}

/// One line of the record.
fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

struct Captured {
    reader: LinkReader,
    writer: LinkWriter,
    next: u64,
    /// Whom this driver was given channels to.
    channels: Vec<(Driver, OwnedFd)>,
    layout: Layout,
    /// The folder in which it may do anything.
    own: PathBuf,
}

fn null() -> Descriptor {
    Descriptor::new(File::open("/dev/null").map_or_else(|_| pipe(), OwnedFd::from))
}

fn pipe() -> OwnedFd {
    std::io::pipe().unwrap().0.into()
}

impl Captured {
    async fn say(&mut self, message: &FromDriver) {
        let (body, files) = codec::encode(message).unwrap();
        let _ = self.writer.write(Header::new(Kind::Control), &body, &files).await;
    }

    /// The next message that is not dealt with here; none when the driver is to leave.
    async fn hear(&mut self) -> Option<ToDriver> {
        loop {
            let frame = self.reader.read().await.ok()?;
            match codec::decode(&frame.body, frame.descriptors).unwrap() {
                ToDriver::Stop => return None,
                ToDriver::Heartbeat { number } => {
                    self.say(&FromDriver::Beat { number, busy: Vec::new() }).await;
                }
                ToDriver::ChannelUp { peer, side: Side::Call, socket, .. } => {
                    self.channels.push((peer, socket.into_owned()?));
                }
                message => return Some(message),
            }
        }
    }

    async fn any_answer(&mut self) -> Option<(u64, Result<Response, Error>)> {
        loop {
            if let ToDriver::Answer { id, result } = self.hear().await? {
                return Some((id, result));
            }
        }
    }

    async fn answer(&mut self, wanted: u64) -> Option<Result<Response, Error>> {
        loop {
            match self.any_answer().await? {
                (id, result) if id == wanted => return Some(result),
                _ => {}
            }
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Response, String> {
        self.next += 1;
        let id = self.next;
        self.say(&FromDriver::Ask { id, request }).await;
        match self.answer(id).await {
            Some(result) => result.map_err(|error| error.message),
            // The link has ended: nothing can be said any more.
            None => std::process::exit(0),
        }
    }

    /// A wish that must be refused.
    async fn attack(&mut self, wish: Wish, label: &str, request: Request) {
        let key = match &request {
            Request::HelperStart(request) => Some(request.key.clone()),
            _ => None,
        };
        let result = self.ask(request).await;
        let said = match &result {
            Ok(_) => "granted".to_owned(),
            Err(why) => format!("refused {}", why.replace('\n', " ").chars().take(300).collect::<String>()),
        };
        tell(&format!("{wish:?} {label} {said}"));
        if let (Ok(_), Some(key)) = (result, key) {
            let _ = self.ask(Request::HelperKill { key }).await;
        }
    }

    async fn helper(&mut self, wish: Wish, label: &str, change: impl FnOnce(&mut HelperRequest)) {
        self.next += 1;
        let mut request = helper(&format!("k-{}", self.next));
        change(&mut request);
        self.attack(wish, label, Request::HelperStart(Box::new(request))).await;
    }

    async fn file(&mut self, wish: Wish, label: &str, path: impl Into<PathBuf>) {
        let path: PathBuf = path.into();
        for (name, access) in [("read", Access::Read), ("write", Access::ReadWrite), ("all", Access::Folder)]
        {
            let file = (path.clone(), access);
            self.helper(wish, &format!("{label}:{name}"), |request| request.files.push(file)).await;
        }
    }

    async fn live(&mut self, name: &str) {
        let mut returned = 0;
        let welcome = loop {
            match self.hear().await {
                Some(ToDriver::Inheritance { deposits, .. }) => returned += deposits.len(),
                Some(ToDriver::Welcome(welcome)) => break welcome,
                _ => return,
            }
        };
        returned += welcome.deposits.len();
        tell(&format!("Returned {incarnation} {returned}", incarnation = welcome.incarnation));
        let incarnation = welcome.incarnation;
        self.layout = welcome.layout;
        self.own = if name == "log" { self.layout.log.clone() } else { self.layout.lib.join(name) };
        let _owner = welcome.owner;
        self.say(&FromDriver::Ready).await;
        // What its next life is there for is to show that it has one.
        if incarnation == 1 {
            self.control(name).await;
            // The test plants what is to be found in the folder of that helper.
            while !self.own.join("planted").exists() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            self.files().await;
            self.forms().await;
            self.others().await;
            self.amounts(name).await;
            self.swap(name).await;
            tell("Finished");
            // The end of it: wishes without end, of which it does not hear the answers.
            loop {
                self.next += 1;
                let request = Request::Withdraw { name: String::new() };
                self.say(&FromDriver::Ask { id: self.next, request }).await;
            }
        }
        while self.hear().await.is_some() {}
    }

    /// What is granted to the qemu driver: without this, refusals prove nothing.
    async fn control(&mut self, name: &str) {
        self.next += 1;
        let mut request = helper("control");
        request.files = vec![(self.home().join("disk.img"), Access::ReadWrite)];
        request.descriptors = vec![(7, null())];
        request.environment = vec![("LC_ALL".to_owned(), "C".to_owned())];
        let result = self.ask(Request::HelperStart(Box::new(request))).await;
        tell(&format!(
            "Control {name} {}",
            if result.is_ok() { "granted".to_owned() } else { format!("{result:?}") }
        ));
    }

    fn home(&self) -> PathBuf {
        self.layout.run.parent().and_then(Path::parent).unwrap().to_owned()
    }

    async fn files(&mut self) {
        let (home, layout) = (self.home(), self.layout.clone());
        for path in [
            "/etc/shadow",
            "/etc/shadow-",
            "/etc/passwd",
            "/etc/ssh",
            "/proc/1/mem",
            "/proc/kcore",
            "/sys/kernel",
            "/boot",
            "/run/systemd",
            "/var/backups",
            "/",
            "/root/.ssh",
            "/run/credentials",
        ] {
            self.file(Wish::HostFile, path, path).await;
        }
        let foreign = if self.own.ends_with("network") { "qemu" } else { "network" };
        for path in [
            layout.etc.join(foreign).join("state"),
            layout.lib.join(foreign),
            layout.run.join("lock"),
            layout.run.join("control.sock"),
            layout.run.join("broker"),
            layout.run.join("broker/helpers/foreign"),
            layout.log.join("network.driver.log"),
            layout.run.clone(),
        ] {
            self.file(Wish::OtherState, &name_of(&path), path).await;
        }
        let victim = layout.guest("foreign");
        for path in
            [victim.clone(), victim.join("disk"), victim.join("monitor.sock"), layout.run.join("guests")]
        {
            self.file(Wish::OtherGuest, &name_of(&path), path).await;
        }
        let link = self.own.join("link");
        let _ = symlink("/etc/shadow", &link);
        let folder = self.own.join("folder");
        let _ = symlink(layout.guest("foreign"), &folder);
        for path in [
            link,
            folder.join("disk"),
            self.own.join("../../../../../../../../../../etc/shadow"),
            layout.guest("k-1").join("../foreign/disk"),
            layout.lib.join(format!("{foreign}/../../bulkhead/{foreign}/state")),
            "/proc/self/fd/3".into(),
            "/proc/self/cwd/etc/shadow".into(),
            "/proc/self/root/etc/shadow".into(),
            "/proc/thread-self/root/etc/shadow".into(),
            "/dev/fd/5".into(),
            "/dev/stdin".into(),
            "disk.img".into(),
            "".into(),
            home.join("to-victim"),
            home.join("to-shadow"),
        ] {
            self.file(Wish::OtherName, &name_of(&path), path).await;
        }
        // One of its own making, and one that somebody else left.
        let made = fs::hard_link(layout.etc.join(foreign).join("state"), self.own.join("hard"));
        let made = if made.is_ok() { "granted" } else { "refused by the profile" };
        tell(&format!("HardLink made {made}"));
        self.file(Wish::HardLink, "its-own", self.own.join("hard")).await;
        self.file(Wish::HardLink, "of-passwd", home.join("hard-passwd")).await;
        self.file(Wish::HardLink, "of-state", self.own.join("hard-state")).await;
        for path in [
            "/dev/mem",
            "/dev/kmsg",
            "/dev/port",
            "/dev/tty",
            "/dev/ptmx",
            "/dev/pts/0",
            "/dev/fuse",
            "/dev/net/tun",
            "/dev/disk/root",
            "/dev/loop-control",
            "/dev/uinput",
        ] {
            self.file(Wish::DeviceNode, path, path).await;
        }
        self.file(Wish::DeviceNode, "own", home.join("node")).await;
        self.file(Wish::DeviceNode, "root", home.join("root-disk")).await;
        for path in [
            PathBuf::from("/etc/cron.d/x"),
            "/usr/bin/x".into(),
            "/run/x".into(),
            "/dev/mem".into(),
            "/proc/self/oom_score_adj".into(),
            home.join(".bashrc"),
            home.join("to-shadow"),
            home.join("hard-passwd"),
            home.join("node"),
            layout.etc.join(foreign).join("state"),
            layout.run.join("lock"),
            layout.run.join("broker/helpers/planted"),
            layout.log.join("network.driver.log"),
            layout.guest("foreign").join("disk"),
            layout.guest("foreign").join("new"),
            folder.join("disk"),
            self.own.join("../network/state"),
            home.join(".."),
            "/".into(),
            "".into(),
        ] {
            for append in [true, false] {
                let label = format!("{}:{append}", name_of(&path));
                let output = (9, path.clone(), append);
                self.helper(Wish::OutputOutside, &label, |request| request.outputs.push(output)).await;
            }
        }
    }

    async fn forms(&mut self) {
        let (home, own) = (self.home(), self.own.clone());
        let copy = own.join("qemu-system-x86_64");
        let _ = fs::write(&copy, "#!/bin/sh\n");
        for path in [
            PathBuf::from("/bin/sh"),
            "/usr/bin/env".into(),
            "/usr/bin/qemu-img".into(),
            "/usr/bin/qemu-system-".into(),
            "/usr/bin/qemu-system-x86_64/../sh".into(),
            "/usr/bin/../../bin/sh".into(),
            "/usr/bin/../bin/qemu-system-x86_64".into(),
            "qemu-system-x86_64".into(),
            format!("{QEMU}\0").into(),
            "/proc/self/exe".into(),
            "".into(),
            home.join("qemu-system-x86_64"),
            copy,
        ] {
            let program = path.clone();
            self.helper(Wish::OtherProgram, &name_of(&path), |request| request.program = program).await;
        }
        for class in ["", "root", "bulkhead-qemu", "qemu ", "qemu/../x", "dnsmasq", "log"] {
            let label = format!("'{}'", class.trim());
            self.helper(Wish::OtherClass, &label, |request| request.class = class.to_owned()).await;
        }
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "LD_AUDIT",
            "LD_",
            "GLIBC_TUNABLES",
            "GCONV_PATH",
            "LOCPATH",
            "NLSPATH",
            "QEMU_MODULE_DIR",
            "OPENSSL_CONF",
            "GIO_EXTRA_MODULES",
            "",
            "A=LD_PRELOAD",
            "LC_ALL\0LD_PRELOAD",
        ] {
            let label = name.replace('\0', "/");
            let variable = (name.to_owned(), "/tmp/x.so".to_owned());
            self.helper(Wish::SteeringEnvironment, &label, |request| request.environment.push(variable))
                .await;
        }
        for number in [i32::MIN, -1, 0, 2, 255, 256, 300, 511, 512, 1 << 20, i32::MAX] {
            let label = number.to_string();
            self.helper(Wish::DescriptorNumber, &label, |request| {
                request.descriptors.push((number, null()));
            })
            .await;
            let socket = ("s".to_owned(), number);
            self.helper(Wish::DescriptorNumber, &format!("{label}:listener"), |request| {
                request.listeners.push(socket);
            })
            .await;
        }
        self.helper(Wish::DescriptorNumber, "twice", |request| {
            request.descriptors = vec![(7, null()), (7, null())];
        })
        .await;
        let output = (7, home.join("new.log"), true);
        self.helper(Wish::DescriptorNumber, "twice:output", |request| {
            request.descriptors.push((7, null()));
            request.outputs.push(output);
        })
        .await;
        for name in ["", ".", "..", "../foreign/monitor.sock", "/tmp/x", "a/b", &"x".repeat(65), "a\0b"] {
            let label = format!("listener:{}", name.len());
            let socket = (name.to_owned(), 7);
            self.helper(Wish::OtherSocket, &label, |request| request.listeners.push(socket)).await;
        }
        self.helper(Wish::Network, "class", |request| {
            request.class = "qemu-probe".to_owned();
            request.network = true;
        })
        .await;
        for (label, network, port) in [("low", true, 22), ("zero", true, 0), ("without", false, 5900)] {
            self.helper(Wish::Network, label, |request| {
                request.network = network;
                request.ports.push(port);
            })
            .await;
        }
        for key in ["", ".", "..", "../broker", "../../etc", "/etc", "a/b", "a\0b", "ä", &"x".repeat(65)] {
            let label = format!("{}:{}", key.len(), key.chars().filter(char::is_ascii_graphic).count());
            let key = key.to_owned();
            self.helper(Wish::OddKey, &label, |request| request.key = key).await;
        }
    }

    async fn others(&mut self) {
        let foreign = || "foreign".to_owned();
        self.attack(Wish::OtherHelper, "kill", Request::HelperKill { key: foreign() }).await;
        self.attack(
            Wish::OtherHelper,
            "connect",
            Request::Connect { key: foreign(), socket: "monitor.sock".to_owned() },
        )
        .await;
        self.attack(
            Wish::OtherHelper,
            "terminal",
            Request::Terminal { key: foreign(), path: "/dev/pts/0".into() },
        )
        .await;
        let purpose = FilePurpose::Read;
        let open = Request::Open { key: foreign(), path: "/etc/hostname".into(), purpose };
        self.attack(Wish::OtherHelper, "open", open).await;
        self.attack(Wish::OtherHelper, "start", Request::HelperStart(Box::new(helper("foreign")))).await;
        for key in ["victim", "unknown", "", "../foreign", "1"] {
            self.attack(
                Wish::OtherHelper,
                &format!("kill:{key}"),
                Request::HelperKill { key: key.to_owned() },
            )
            .await;
        }
        for socket in [
            "",
            ".",
            "..",
            "../foreign/monitor.sock",
            "/run/dbus/system_bus_socket",
            "a/../b",
            "\0abstract",
            "absent",
            "link",
            "plain",
            "full",
        ] {
            let label = socket.replace('\0', "@");
            let request = Request::Connect { key: "control".to_owned(), socket: socket.to_owned() };
            self.attack(Wish::OtherSocket, &format!("connect:{label}"), request).await;
        }
        for path in [
            "/dev/pts/0",
            "/dev/pts/../tty",
            "/dev/pts/ptmx",
            "/dev/tty",
            "/dev/pts/4294967296",
            "/dev/pts/-1",
            "",
        ] {
            let request = Request::Terminal { key: "control".to_owned(), path: path.into() };
            self.attack(Wish::OtherTerminal, path, request).await;
        }
        let peers: Vec<String> = self.channels.iter().map(|(peer, _)| peer.to_string()).collect();
        tell(&format!("Channels {}", peers.join(" ")));
    }

    async fn amounts(&mut self, name: &str) {
        let large = "x".repeat(3 << 20);
        self.helper(Wish::TooMuch, "argument", |request| request.arguments.push(large.clone())).await;
        self.helper(Wish::TooMuch, "variable", |request| {
            request.environment.push(("LC_ALL".to_owned(), large.clone()));
        })
        .await;
        self.helper(Wish::TooMuch, "arguments", |request| request.arguments = vec!["x".repeat(100); 30_000])
            .await;
        let disk = self.home().join("disk.img");
        self.helper(Wish::TooMuch, "files", |request| {
            request.files = vec![(disk, Access::Read); 20_000];
        })
        .await;
        self.helper(Wish::TooMuch, "listeners", |request| {
            request.listeners = (0..5000).map(|number| (format!("s{number}"), number)).collect();
        })
        .await;
        self.helper(Wish::TooMuch, "key", |request| request.key = large.clone()).await;
        self.attack(Wish::TooMuch, "deposit", Request::Deposit { name: large.clone(), file: null() }).await;
        self.attack(Wish::TooMuch, "adopting", Request::Adopting { object: large }).await;
        // Deposits and helpers until there is an end of it.
        let mut deposits = 0;
        while self.ask(Request::Deposit { name: format!("d{deposits}"), file: null() }).await.is_ok() {
            deposits += 1;
            if deposits > 100_000 {
                break;
            }
        }
        tell(&format!("Deposits {deposits}"));
        self.attack(
            Wish::TooManyDeposits,
            "more",
            Request::Deposit { name: "more".to_owned(), file: null() },
        )
        .await;
        // The rest is for the next life: more than one message can carry.
        for number in 100.min(deposits)..deposits {
            let _ = self.ask(Request::Withdraw { name: format!("d{number}") }).await;
        }
        let mut probes = 0;
        while probes < 64 {
            let mut request = helper(&format!("probe-{probes}"));
            request.class = "qemu-probe".to_owned();
            if self.ask(Request::HelperStart(Box::new(request))).await.is_err() {
                break;
            }
            probes += 1;
        }
        tell(&format!("Probes {probes}"));
        self.helper(Wish::TooManyHelpers, "more", |request| request.class = "qemu-probe".to_owned()).await;
        for number in 0..probes {
            let _ = self.ask(Request::HelperKill { key: format!("probe-{number}") }).await;
        }
        // Thousands of wishes, none of which waits for another: refusals, and what does nothing.
        let mut refused = 0;
        for _ in 0..50 {
            let first = self.next + 1;
            for id in first..first + 100 {
                let request = if id % 2 == 0 {
                    Request::HelperKill { key: "foreign".to_owned() }
                } else {
                    Request::HelperStart(Box::new(HelperRequest {
                        program: "/bin/sh".into(),
                        ..helper("flood")
                    }))
                };
                self.say(&FromDriver::Ask { id, request }).await;
            }
            self.next += 100;
            // Those that look at programs are answered when that is done.
            for _ in 0..100 {
                refused += usize::from(self.any_answer().await.is_some_and(|(_, result)| result.is_err()));
            }
        }
        tell(&format!("Flood {name} {refused}"));
    }

    /// A link below its own folder points now here and now there, and what its helper then reads is kept where the test
    /// finds it.
    async fn swap(&mut self, name: &str) {
        let (harmless, link) = (self.own.join("harmless"), self.own.join("swap"));
        let _ = fs::write(&harmless, "harmless\n");
        let foreign = if name == "network" { "qemu" } else { "network" };
        let secret = self.layout.etc.join(foreign).join("state");
        let stop = Arc::new(AtomicBool::new(false));
        let swapping = std::thread::spawn({
            let (stop, link, own) = (Arc::clone(&stop), link.clone(), self.own.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for (number, target) in [&secret, &harmless].into_iter().enumerate() {
                        let sibling = own.join(format!("swap-{number}"));
                        let _ = symlink(target, &sibling);
                        let _ = fs::rename(&sibling, &link);
                    }
                }
            }
        });
        let (mut refused, mut granted) = (0, 0);
        for round in 0..40 {
            let key = format!("swap-{round}");
            let copy = self.home().join("copies").join(round.to_string());
            let mut request = helper(&key);
            request.class = "qemu-img".to_owned();
            request.program = "/usr/bin/qemu-img".into();
            request.arguments = ["convert", "-n", "-f", "raw", "-O", "raw"].map(str::to_owned).to_vec();
            // The broker looks at a name that is about to change.
            request.arguments.extend([&link, &copy].map(|path| path.display().to_string()));
            request.files = vec![(link.clone(), Access::Read), (copy, Access::ReadWrite)];
            match self.ask(Request::HelperStart(Box::new(request))).await {
                Ok(_) => {
                    granted += 1;
                    while let Some(message) = self.hear().await {
                        if matches!(message, ToDriver::HelperEnded { key: ended, .. } if ended == key) {
                            break;
                        }
                    }
                }
                Err(_) => refused += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
        let _ = swapping.join();
        tell(&format!("Swapped refused {refused} granted {granted}"));
    }
}

/// A wish for a helper that would be granted to the qemu driver.
fn helper(key: &str) -> HelperRequest {
    let words = ["-S", "-no-user-config", "-nodefaults", "-display", "none", "-machine", "none,accel=tcg"];
    HelperRequest {
        key: key.to_owned(),
        class: "qemu".to_owned(),
        program: QEMU.into(),
        arguments: words.map(str::to_owned).to_vec(),
        environment: Vec::new(),
        files: Vec::new(),
        listeners: Vec::new(),
        outputs: Vec::new(),
        descriptors: Vec::new(),
        ports: Vec::new(),
        network: false,
        errors: None,
        autodestroy: true,
    }
}

/// A path as one word.
fn name_of(path: &Path) -> String {
    let mut text = String::new();
    for letter in
        path.display().to_string().chars().map(|letter| if letter.is_ascii_graphic() { letter } else { '?' })
    {
        let _ = text.write_char(letter);
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}
