//! What `tools/install` installs: it is all there, systemd has nothing against it, guests run under it, and it goes again.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead_broker::manifest;
use bulkhead_tests::fixture::{Root, figure, guest_files, libexec, skip, ticker_xml};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

/// The most that systemd may find open in the host's unit, of ten. Stock libvirtd's has 9.4. It may only shrink.
const EXPOSURE_MAX: f64 = 4.8;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Runs `tools/install` for a folder in front of all paths.
fn install(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(repository().join("tools/install"));
    command.env_remove("PREFIX").env("DESTDIR", folder).args(["--prefix", "/usr"]).args(arguments);
    if !arguments.contains(&"--uninstall") {
        command.arg("--built").arg(libexec());
    }
    command.output().unwrap()
}

fn installed(arguments: &[&str]) -> Root {
    let folder = Root::new();
    std::fs::create_dir_all(folder.path()).unwrap();
    let output = install(folder.path(), arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// All files below a folder, as they would be called on the host.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next = vec![folder.to_owned()];
    while let Some(below) = next.pop() {
        for entry in std::fs::read_dir(below).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                next.push(path);
            } else {
                found.insert(format!("/{}", path.strip_prefix(folder).unwrap().display()));
            }
        }
    }
    found
}

/// The values that a unit gives a setting, in all of its lines.
fn values<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).collect()
}

#[test]
fn all_that_units_name_is_installed_and_goes_again() {
    let folder = installed(&["--drop-in"]);
    let all = files(folder.path());
    let programs: BTreeSet<String> = manifest::programs()
        .chain(["bulkheadd"])
        .map(|program| format!("/usr/libexec/bulkhead/{program}"))
        .collect();
    let found: BTreeSet<String> =
        all.iter().filter(|file| file.starts_with("/usr/libexec/")).cloned().collect();
    assert_eq!(found, programs);
    for of in ["system", "user"] {
        let units: Vec<&String> =
            all.iter().filter(|file| file.starts_with(&format!("/usr/lib/systemd/{of}/bulkheadd"))).collect();
        assert!(units.len() >= 4, "{units:?}");
        for unit in units {
            let text = std::fs::read_to_string(folder.path().join(&unit[1..])).unwrap();
            assert!(!text.contains('@') || text.contains("@system-service"), "{unit}: {text}");
            for program in values(&text, "ExecStart").iter().filter(|word| word.starts_with('/')) {
                assert!(
                    all.contains(*program) || programs.contains(&format!("{program}/bulkheadd")),
                    "{unit}: {program}"
                );
            }
            for setting in ["Service", "Also", "Wants"] {
                for named in values(&text, setting) {
                    assert!(all.contains(&format!("/usr/lib/systemd/{of}/{named}")), "{unit}: {named}");
                }
            }
            // The daemon knows them by these names alone.
            for name in values(&text, "FileDescriptorName") {
                let listens = values(&text, "ListenStream");
                assert!(
                    listens.iter().any(|path| path.ends_with(&format!("/{name}"))),
                    "{unit}: {listens:?}"
                );
            }
        }
    }
    for file in [
        "/usr/bin/bulkhead",
        "/usr/lib/sysusers.d/bulkhead.conf",
        "/usr/lib/sysusers.d/bulkhead-libvirt.conf",
        "/usr/lib/tmpfiles.d/bulkhead.conf",
        "/usr/share/man/man1/bulkhead.1",
        "/usr/share/man/man1/bulkhead-import.1",
        "/usr/share/bash-completion/completions/bulkhead",
        "/usr/share/zsh/site-functions/_bulkhead",
        "/usr/share/fish/vendor_completions.d/bulkhead.fish",
        "/usr/lib/systemd/system/bulkheadd.socket.d/libvirt.conf",
    ] {
        let length = std::fs::metadata(folder.path().join(&file[1..])).map_or(0, |file| file.len());
        assert!(length > 0, "{file}");
    }

    // What the next one does not put there does not stay; what others put there does.
    let strangers = folder.path().join("usr/lib/sysusers.d/others.conf");
    std::fs::write(&strangers, "").unwrap();
    assert!(install(folder.path(), &[]).status.success());
    let fewer = files(folder.path());
    let gone: Vec<&String> = all.difference(&fewer).collect();
    assert!(gone.len() == 5 && gone.iter().all(|file| file.contains("libvirt")), "{gone:?}");
    let output = install(folder.path(), &["--uninstall"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(files(folder.path()), BTreeSet::from(["/usr/lib/sysusers.d/others.conf".to_owned()]));
    assert!(!folder.path().join("usr/libexec/bulkhead").exists());

    let again = install(folder.path(), &["--uninstall"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("nothing is installed"), "{said}");
    for wrong in [&["--prefix", "usr"][..], &["--prefix", "/a b"], &["--everything"]] {
        assert!(!install(folder.path(), wrong).status.success(), "{wrong:?}");
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn systemd_has_nothing_against_the_units_and_finds_little_open() {
    if !has("systemd-analyze") {
        return skip("systemd-analyze is not installed");
    }
    for arguments in [&[][..], &["--drop-in"]] {
        let folder = installed(arguments);
        for of in ["system", "user"] {
            let units = folder.path().join("usr/lib/systemd").join(of);
            let (mut verify, mut names) = (Command::new("systemd-analyze"), Vec::new());
            for entry in std::fs::read_dir(&units).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    // Where the programs really are.
                    let text = std::fs::read_to_string(&path).unwrap();
                    let here = format!("{}/usr/libexec", folder.path().display());
                    std::fs::write(&path, text.replace("/usr/libexec", &here)).unwrap();
                    names.push(path);
                }
            }
            let output = verify
                .args([&format!("--{of}"), "verify", "--man=no", "--recursive-errors=no"])
                .args(names)
                .env("XDG_RUNTIME_DIR", folder.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // An older systemd ignores what it does not know yet.
            let wrong: Vec<&str> = said.lines().filter(|line| !line.contains("Unknown key name")).collect();
            assert!(output.status.success() && wrong.is_empty(), "{of}: {said}");
        }
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(folder.path().join("usr/lib/systemd/system/bulkheadd.service"))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let overall = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or(&said);
        let level = overall.rsplit(": ").next().unwrap().split(' ').next().unwrap();
        let level: f64 = level.parse().unwrap_or_else(|_| panic!("{overall}"));
        figure(&format!("systemd finds {level} of 10 open in bulkheadd.service"));
        assert!(level <= EXPOSURE_MAX, "{said}");
    }
}

/// What is missing for a systemd of the test's own.
fn rig_lacks() -> Option<&'static str> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !nix::unistd::geteuid().is_root() {
        Some("a systemd of the test's own takes root")
    } else if !Path::new("/lib/systemd/systemd").exists() || !has("systemctl") {
        Some("systemd is not installed")
    } else if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        Some("control groups of version 2 are not mounted")
    } else if !has("virsh") {
        Some("virsh is not installed")
    } else {
        None
    }
}

/// What a script said in a rig, fact by fact, and all that there is to read if it is not as it should be.
struct Rig {
    facts: BTreeMap<String, String>,
    whole: String,
}

impl Rig {
    /// Runs it; `None`, and said so, where that can't be done.
    fn run(script: &str, arguments: &[&str]) -> Option<Self> {
        let guest = guest_files();
        if let Some(why) =
            rig_lacks().or(guest.is_none().then_some("no guest files; tools/guest/build makes them"))
        {
            skip(why);
            return None;
        }
        let folder = installed(arguments);
        let work = Root::new();
        std::fs::create_dir_all(work.path()).unwrap();
        let write = |name: &str, text: &str| std::fs::write(work.path().join(name), text).unwrap();
        std::fs::copy(guest?.join("ticker.img"), work.path().join("ticker.img")).unwrap();
        let serial = "<interface type='user'/><serial type='pty'><log file='/home/ticks'/></serial><console type='pty'/>";
        write("guest.xml", &ticker_xml("web", Path::new("/home/disk"), serial));
        let addresses = "<ip address='192.168.213.1' prefix='24'><dhcp><range start='192.168.213.2' end='192.168.213.9'/></dhcp></ip>";
        let kind = "<forward mode='nat'/><bridge name='bulkhead0'/>";
        write("network.xml", &format!("<network><name>lan</name>{kind}{addresses}</network>"));
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        std::fs::copy(programs.join(script), work.path().join(script)).unwrap();
        let output = Command::new("/bin/bash")
            .arg(programs.join("unit-rig.sh"))
            .args([work.path(), folder.path(), Path::new(script)])
            .output()
            .unwrap();
        let read = |name: &str| std::fs::read_to_string(work.path().join(name)).unwrap_or_default();
        let said = read("output");
        let whole = format!("{said}\n{}\n{}", read("console"), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{whole}");
        let fact = |(name, text): (&str, &str)| (name.to_owned(), text.trim().to_owned());
        Some(Self { facts: said.lines().filter_map(|line| line.split_once(':')).map(fact).collect(), whole })
    }

    fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("no {name}: {}", self.whole))
    }

    fn is(&self, expected: &[(&str, &str)]) {
        for (name, text) in expected {
            assert_eq!(self.fact(name), *text, "{name}: {}", self.whole);
        }
    }
}

#[test]
fn a_guest_runs_under_the_hosts_unit_and_outlives_its_daemon() {
    let Some(rig) = Rig::run("unit-life.sh", &[]) else { return };
    let whole = &rig.whole;
    rig.is(&[
        ("sockets", ""),
        (
            "rights",
            "/run/bulkhead-clients/libvirt-sock 660 root:bulkhead /run/bulkhead-clients/libvirt-sock-ro 666 root:root \
             /run/bulkhead-clients/libvirt-admin-sock 600 root:root",
        ),
        // Nobody had come yet.
        ("before", "inactive"),
        ("after", "active"),
        ("counts", "yes"),
        ("reader", "running"),
        ("console", "ticks"),
        // Of the unit alone: drivers and helpers keep less.
        ("capabilities", "000000000020350b"),
        ("guest-capabilities", "0000000000000000"),
        ("network", ""),
        ("forwarding", "1"),
        ("volume-path", "/home/images/disk.qcow2"),
        ("killed", "running"),
        ("same-guest", "yes"),
        ("restarts", "1"),
        ("stopped", "inactive"),
        ("counts-alone", "yes"),
        ("come-again", "running"),
        ("same-guest-again", "yes"),
        ("gone", ""),
        ("left-over", ""),
    ]);
    assert!(rig.fact("network-state").contains("Active: yes"), "{whole}");
    assert!(rig.fact("reader-destroys").contains("read"), "{whole}");
    // Nothing of what confines a process by itself is missing because of what is refused to the unit; what the machine itself may
    // not do is not the unit's.
    assert!(rig.fact("confined").contains("mount namespace: own files only"), "{whole}");
    let missing: Vec<&str> = rig.fact("confined").split("missing: ").skip(1).collect();
    assert!(missing.iter().all(|what| what.starts_with("memory is not locked")), "{whole}");
}

#[test]
fn in_drop_in_mode_stock_clients_find_it_by_themselves() {
    let Some(rig) = Rig::run("unit-drop-in.sh", &["--drop-in"]) else { return };
    rig.is(&[
        ("sockets", ""),
        ("rights", "/run/libvirt/libvirt-sock 660 root:libvirt /run/libvirt/libvirt-sock-ro 666 root:root"),
        ("links", "/run/libvirt/libvirt-sock /run/libvirt/libvirt-sock-ro"),
        ("list", "web"),
        ("reads", "shut off"),
        ("pools", ""),
        ("served", "active"),
        ("own", ""),
    ]);
}
