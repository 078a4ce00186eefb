//! Tries one forbidden thing out of a real profile; and, as `suite`, all of the matrix as the user who runs it.
//!
//! `escape-probe suite FOLDER` prints a line `PROCESS THING OUTCOME` for each pair. The folder holds copies of this program
//! and of the trampoline, and is the user's.
#![expect(unsafe_code, reason = "what is tried takes raw system calls")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "part of a test, though not one of the usual harness"
)]

use bulkhead_sandbox::matrix::{Forbidden, PROCESSES, Process, THINGS};
use bulkhead_sandbox::profile::{FileRule, Place};
use bulkhead_sandbox::{Access, Profile, confine, profiles};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The descriptor that the suite leaves open for its children.
const FORGOTTEN: i32 = 77;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |index: usize| words.get(index).map(String::as_str).unwrap_or_default();
    match word(0) {
        "suite" => suite(Path::new(word(1))),
        "try" => {
            put_in_force(word(1));
            attempt(word(2), &Context::parse(word(3)));
        }
        "attempt" => attempt(word(1), &Context::parse(word(2))),
        "wait" => {
            if !word(1).is_empty() {
                put_in_force(word(1));
            }
            println!("ready");
            let _ = io::stdin().read(&mut [0]);
        }
        // A driver's panic must get through the filter to its log, and its abort be one.
        "panic" => {
            put_in_force(word(1));
            let thread = std::thread::spawn(|| panic!("heard through the filter"));
            assert!(thread.join().is_err());
            std::process::abort();
        }
        other => panic!("'{other}' is no mode"),
    }
}

fn put_in_force(profile: &str) {
    let profile = Profile::from_json(&fs::read(profile).unwrap()).unwrap();
    let report = confine(&profile, &[]).unwrap();
    eprintln_report(&report);
}

fn eprintln_report(report: &bulkhead_sandbox::Report) {
    let text = format!("in force: {}; missing: {}\n", report.in_force.join(", "), report.missing.join(", "));
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

/// What an attempt aims at.
struct Context {
    folder: PathBuf,
    own: PathBuf,
    broker: i32,
    neighbour: i32,
    tcp: u16,
    udp: u16,
    terminal: String,
}

impl Context {
    fn parse(text: &str) -> Self {
        let mut parts = text.split('|');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        Self {
            folder: next().into(),
            own: next().into(),
            broker: next().parse().unwrap(),
            neighbour: next().parse().unwrap(),
            tcp: next().parse().unwrap(),
            udp: next().parse().unwrap(),
            terminal: next(),
        }
    }

    fn text(&self) -> String {
        format!(
            "{}|{}|{}|{}|{}|{}|{}",
            self.folder.display(),
            self.own.display(),
            self.broker,
            self.neighbour,
            self.tcp,
            self.udp,
            self.terminal
        )
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.folder.join("outside").join(name)
    }
}

fn attempt(thing: &str, context: &Context) {
    let thing = THINGS.iter().find(|known| format!("{known:?}") == thing).unwrap();
    match try_it(*thing, context) {
        Ok(()) => println!("allowed"),
        Err(error) => println!("denied {}", error.raw_os_error().unwrap_or(0)),
    }
}

fn raw(number: libc::c_long, arguments: [usize; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every caller passes numbers, null, or pointers to memory that outlives the call.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The first of these that succeeds; else the error of the last.
fn any(attempts: impl IntoIterator<Item = io::Result<i64>>) -> io::Result<()> {
    let mut last = Err(io::Error::other("nothing was tried"));
    for attempt in attempts {
        last = attempt.map(drop);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// A success counts if something was done: some are told so without.
fn really(path: &Path, attempt: impl FnOnce() -> io::Result<i64>) -> io::Result<i64> {
    let changed = || fs::metadata(path).map(|metadata| (metadata.ctime(), metadata.ctime_nsec())).ok();
    let before = changed();
    // The clock of files ticks slowly.
    std::thread::sleep(std::time::Duration::from_millis(10));
    let done = attempt()?;
    if changed() == before {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(done)
}

fn c_path(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

fn number(value: i32) -> usize {
    usize::from_ne_bytes(i64::from(value).to_ne_bytes())
}

fn read_byte(path: impl AsRef<Path>) -> io::Result<i64> {
    File::open(path)?.read(&mut [0]).map(|_| 0)
}

/// `AT_FDCWD`, as wide as an argument.
const AT_CWD: usize = usize::MAX - 99;

#[expect(clippy::too_many_lines, reason = "a list")]
fn try_it(thing: Forbidden, context: &Context) -> io::Result<()> {
    let secret = c_path(&context.outside("secret"));
    let secret_at = secret.as_ptr() as usize;
    let own = |name: &str| context.own.join(name);
    match thing {
        Forbidden::OpenShadow => File::open("/etc/shadow").map(drop),
        Forbidden::ReadOutside => File::open(context.outside("secret")).map(drop),
        Forbidden::ReadOtherState => File::open(context.folder.join("etc/other/state")).map(drop),
        Forbidden::ReadOtherGuest => File::open(context.folder.join("run/guests/other/state")).map(drop),
        Forbidden::MakeOutside => {
            File::create(context.outside(&format!("made-{}", std::process::id()))).map(drop)
        }
        Forbidden::WriteOutside => any([
            OpenOptions::new().append(true).open(context.outside("secret")).map(|_| 0),
            raw(libc::SYS_truncate, [secret_at, 3, 0, 0, 0, 0]),
        ]),
        Forbidden::ChmodOutside => {
            let mut tried = vec![
                really(&context.outside("secret"), || raw(libc::SYS_chmod, [secret_at, 0o644, 0, 0, 0, 0])),
                really(&context.outside("secret"), || {
                    raw(libc::SYS_fchmodat, [AT_CWD, secret_at, 0o644, 0, 0, 0])
                }),
                really(&context.outside("secret"), || {
                    raw(libc::SYS_fchmodat2, [AT_CWD, secret_at, 0o644, 0, 0, 0])
                }),
            ];
            // What may be read may be open, and its owner is this user: the library folders are, for root.
            for readable in [context.outside("secret"), "/etc/ld.so.cache".into()] {
                if let Ok(file) = File::open(&readable) {
                    tried.push(really(&readable, || {
                        raw(libc::SYS_fchmod, [number(file.as_raw_fd()), 0o644, 0, 0, 0, 0])
                    }));
                }
            }
            any(tried)
        }
        Forbidden::AttributesOutside => any([
            raw(libc::SYS_utimensat, [AT_CWD, secret_at, 0, 0, 0, 0]),
            raw(
                libc::SYS_setxattr,
                [secret_at, c"user.x".as_ptr() as usize, c"x".as_ptr() as usize, 1, 0, 0],
            ),
            raw(libc::SYS_chown, [secret_at, nix::unistd::getuid().as_raw() as usize, usize::MAX, 0, 0, 0]),
        ]),
        Forbidden::LinkOutside => fs::hard_link(context.outside("secret"), own("hard")),
        Forbidden::ThroughLink => {
            let _ = symlink(context.outside("secret"), own("soft"));
            any([
                read_byte(own("soft")),
                read_byte(format!("/proc/self/root{}", context.outside("secret").display())),
                read_byte(format!("/proc/{}/root{}", context.broker, context.outside("secret").display())),
                read_byte(own("..").join("../outside/secret")),
            ])
        }
        Forbidden::SeeOutside => fs::metadata(context.outside("secret")).map(drop),
        Forbidden::TcpOut => TcpStream::connect(("127.0.0.1", context.tcp)).map(drop),
        Forbidden::UdpOut => {
            UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", ("127.0.0.1", context.udp))?;
            Ok(())
        }
        Forbidden::UnixConnect => UnixStream::connect(context.outside("stream")).map(drop),
        Forbidden::UnixDatagram => {
            let path = context.outside("datagram");
            any([
                UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", &path)).map(|_| 0),
                UnixDatagram::pair().and_then(|(one, _)| one.send_to(b"x", &path)).map(|_| 0),
            ])
        }
        Forbidden::BindTcp => TcpListener::bind("127.0.0.1:0").map(drop),
        Forbidden::BindUnix => UnixListener::bind(own("bound")).map(drop),
        Forbidden::Exec => {
            let error = nix::unistd::execv(c"/bin/echo", &[c"echo", c"allowed"]).unwrap_err();
            Err(error.into())
        }
        Forbidden::ExecOwn => {
            let error = nix::unistd::execv(&c_path(&own("echo")), &[c"echo", c"allowed"]).unwrap_err();
            Err(error.into())
        }
        Forbidden::Fork => {
            let clone3 = [0_u64; 11];
            for call in 0..3 {
                let forked = match call {
                    0 => raw(libc::SYS_fork, [0; 6]),
                    1 => raw(libc::SYS_clone, [0; 6]),
                    _ => raw(libc::SYS_clone3, [clone3.as_ptr() as usize, size_of_val(&clone3), 0, 0, 0, 0]),
                };
                match forked {
                    // SAFETY: the child of a single-threaded process, which ends at once.
                    Ok(0) => unsafe { libc::_exit(0) },
                    Ok(_) => return Ok(()),
                    Err(_) => {}
                }
            }
            Err(io::Error::from_raw_os_error(libc::EPERM))
        }
        Forbidden::Trace => {
            const PTRACE_SEIZE: usize = 0x4206;
            let neighbour = number(context.neighbour);
            let vector = [secret_at, 1];
            any([
                raw(libc::SYS_ptrace, [PTRACE_SEIZE, neighbour, 0, 0, 0, 0]),
                File::open(format!("/proc/{}/mem", context.neighbour)).map(|_| 0),
                read_byte(format!("/proc/{}/environ", context.broker)),
                raw(
                    libc::SYS_process_vm_readv,
                    [number(context.broker), vector.as_ptr() as usize, 1, vector.as_ptr() as usize, 1, 0],
                )
                .or_else(|error| if error.raw_os_error() == Some(libc::EFAULT) { Ok(0) } else { Err(error) }),
            ])
        }
        Forbidden::OtherChannel => {
            let taken =
                raw(libc::SYS_pidfd_open, [number(context.broker), 0, 0, 0, 0, 0]).and_then(|pidfd| {
                    raw(libc::SYS_pidfd_getfd, [usize::try_from(pidfd).unwrap(), 0, 0, 0, 0, 0])
                });
            any([
                taken,
                File::open(format!("/proc/{}/fd/0", context.broker)).map(|_| 0),
                File::open(format!("/proc/{}/fd/0", context.neighbour)).map(|_| 0),
            ])
        }
        Forbidden::Inherited => nix::fcntl::fcntl(
            // SAFETY: only asks about the number.
            unsafe { std::os::fd::BorrowedFd::borrow_raw(FORGOTTEN) },
            nix::fcntl::FcntlArg::F_GETFD,
        )
        .map(drop)
        .map_err(Into::into),
        Forbidden::SignalBroker => {
            let (broker, signal) = (number(context.broker), number(libc::SIGURG));
            let pidfd = raw(libc::SYS_pidfd_open, [broker, 0, 0, 0, 0, 0]).and_then(|pidfd| {
                raw(libc::SYS_pidfd_send_signal, [usize::try_from(pidfd).unwrap(), signal, 0, 0, 0, 0])
            });
            any([
                raw(libc::SYS_kill, [broker, signal, 0, 0, 0, 0]),
                raw(libc::SYS_tkill, [broker, signal, 0, 0, 0, 0]),
                raw(libc::SYS_tgkill, [broker, broker, signal, 0, 0, 0]),
                pidfd,
                raw(libc::SYS_fcntl, [0, 8, broker, 0, 0, 0]),
            ])
        }
        Forbidden::LimitBroker => {
            let broker = number(context.broker);
            let limit = [4096_u64, 4096];
            any([
                raw(
                    libc::SYS_prlimit64,
                    [broker, libc::RLIMIT_CORE as usize, limit.as_ptr() as usize, 0, 0, 0],
                ),
                raw(libc::SYS_setpriority, [0, broker, 19, 0, 0, 0]),
            ])
        }
        Forbidden::Mount => {
            let target = c_path(&context.own);
            let tmpfs = c"tmpfs".as_ptr() as usize;
            any([
                raw(libc::SYS_mount, [tmpfs, target.as_ptr() as usize, tmpfs, 0, 0, 0]),
                raw(libc::SYS_fsopen, [tmpfs, 0, 0, 0, 0, 0]),
                raw(libc::SYS_open_tree, [AT_CWD, target.as_ptr() as usize, 1, 0, 0, 0]),
            ])
        }
        Forbidden::Unshare => any([
            raw(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0]),
            raw(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]),
            raw(libc::SYS_unshare, [libc::CLONE_NEWUTS as usize, 0, 0, 0, 0, 0]),
        ]),
        Forbidden::Bpf => {
            // BPF_MAP_CREATE of an array: type, key, value, entries.
            let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0];
            any([raw(libc::SYS_bpf, [0, attributes.as_ptr() as usize, size_of_val(&attributes), 0, 0, 0])])
        }
        Forbidden::Kernel => {
            let parameters = [0_u8; 128];
            any([
                raw(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as usize, 0, 0, 0, 0]),
                raw(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
                raw(libc::SYS_keyctl, [0, number(-3), 1, 0, 0, 0]),
                raw(libc::SYS_personality, [0, 0, 0, 0, 0, 0]),
            ])
        }
        Forbidden::ExecutableMemory => {
            let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
            let plain = raw(libc::SYS_mmap, [0, 4096, 3, flags, usize::MAX, 0])?;
            any([
                raw(libc::SYS_mmap, [0, 4096, 7, flags, usize::MAX, 0]),
                raw(libc::SYS_mprotect, [usize::try_from(plain).unwrap(), 4096, 5, 0, 0, 0]),
            ])
        }
        Forbidden::OtherTerminal => OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(&context.terminal)
            .map(drop),
        Forbidden::MakeDevice => {
            let path = c_path(&own("device"));
            any([raw(libc::SYS_mknod, [path.as_ptr() as usize, 0o020_666, 0x103, 0, 0, 0])])
        }
        Forbidden::OtherUser => {
            // What counts is what the process is afterwards: a helper may be
            // told that its group was changed, without any effect.
            let identity = || -> io::Result<(i64, i64, i64)> {
                Ok((
                    raw(libc::SYS_getuid, [0; 6])?,
                    raw(libc::SYS_getgid, [0; 6])?,
                    raw(libc::SYS_getgroups, [0; 6])?,
                ))
            };
            let before = identity()?;
            let asked = any([
                raw(libc::SYS_setuid, [65_534, 0, 0, 0, 0, 0]),
                raw(libc::SYS_setgid, [65_534, 0, 0, 0, 0, 0]),
                // A group more is a list that has grown, whatever it was.
                raw(
                    libc::SYS_setgroups,
                    [usize::try_from(before.2).unwrap() + 1, [65_534_u32; 65].as_ptr() as usize, 0, 0, 0, 0],
                ),
            ]);
            match identity()? == before {
                true => Err(asked.err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EPERM))),
                false => Ok(()),
            }
        }
    }
}

fn profile(process: Process, folder: &Path, program: &Path) -> (Profile, PathBuf) {
    let folders = |name: &str| profiles::Folders {
        etc: folder.join("etc").join(name),
        lib: folder.join("lib").join(name),
        run: folder.join("run").join(name),
        cache: folder.join("cache").join(name),
        log: folder.join("log"),
    };
    let driver = |name: &str| {
        let own = match name {
            "log" => folder.join("log"),
            "secret" => folder.join("lib").join(name),
            _ => folder.join("run").join(name),
        };
        (profiles::of_driver(name, &folders(name)).unwrap(), own)
    };
    let helper = |class: &str, network: bool| {
        let mut profile = profiles::helper(class, program, network.then(|| "a test".to_owned())).unwrap();
        let own = folder.join("run/guests/own");
        profile.files.push(FileRule {
            place: Place::Path(own.clone()),
            access: Access::Manage,
            reason: "the guest's own folder".to_owned(),
        });
        (profile, own)
    };
    match process {
        Process::QemuDriver => driver("qemu"),
        Process::NetworkDriver => driver("network"),
        Process::LogDriver => driver("log"),
        Process::SecretDriver => driver("secret"),
        Process::GatewayDriver => driver("gateway"),
        Process::StorageDriver => driver("storage"),
        Process::Qemu => helper("qemu", false),
        Process::QemuNetworked => helper("qemu", true),
        Process::QemuProbe => helper("qemu-probe", false),
        Process::Swtpm => helper("swtpm", false),
        Process::SwtpmSetup => helper("swtpm-setup", false),
        Process::Pool => helper("pool", false),
        Process::Dnsmasq => helper("dnsmasq", true),
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stand_in(program: &Path, profile: &str) -> Ended {
    let mut child = Command::new(program)
        .args(["wait", profile])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Ended(child)
}

fn suite(folder: &Path) {
    let program = folder.join("bin/escape-probe");
    let launch = folder.join("bin/bulkhead-launch");
    for name in ["qemu", "network", "log", "secret", "storage", "other"] {
        for kind in ["etc", "lib", "run", "cache"] {
            fs::create_dir_all(folder.join(kind).join(name)).unwrap();
        }
    }
    for name in ["outside", "scratch", "log", "run/guests/own", "run/guests/other"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for file in ["outside/secret", "etc/other/state", "run/guests/other/state"] {
        fs::write(folder.join(file), "secret").unwrap();
        fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let forgotten = File::open(folder.join("outside/secret")).unwrap();
    // SAFETY: nothing has this number yet.
    assert_eq!(unsafe { libc::dup2(forgotten.as_raw_fd(), FORGOTTEN) }, FORGOTTEN);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let _stream = UnixListener::bind(folder.join("outside/stream")).unwrap();
    let _datagram = UnixDatagram::bind(folder.join("outside/datagram")).unwrap();
    let terminal = terminal();
    let broker = stand_in(&program, "");
    let (log_profile, _) = profile(Process::LogDriver, folder, &program);
    let neighbour_profile = folder.join("neighbour.json");
    fs::write(&neighbour_profile, log_profile.to_json().unwrap()).unwrap();
    let neighbour = stand_in(&program, neighbour_profile.to_str().unwrap());
    let mut context = Context {
        folder: folder.to_owned(),
        own: folder.join("scratch"),
        broker: i32::try_from(broker.0.id()).unwrap(),
        neighbour: i32::try_from(neighbour.0.id()).unwrap(),
        tcp: tcp.local_addr().unwrap().port(),
        udp: udp.local_addr().unwrap().port(),
        terminal: terminal.1.clone(),
    };
    let report = |who: &str, thing: Forbidden, mut command: Command| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let said = if said.is_empty() {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " / ");
            format!("broken {}: {complaint}", output.status)
        } else {
            said
        };
        println!("{who} {thing:?} {said}");
    };
    let echo = |own: &Path| {
        let _ = fs::copy("/bin/echo", own.join("echo"));
    };
    // The same, unconfined: what fails here proves nothing below.
    for thing in THINGS {
        for left in ["hard", "soft", "bound", "device"] {
            let _ = fs::remove_file(context.own.join(left));
        }
        echo(&context.own);
        let mut command = Command::new(&program);
        command.args(["attempt", &format!("{thing:?}"), &context.text()]);
        report("Unconfined", *thing, command);
    }
    for process in PROCESSES {
        let (profile, own) = profile(*process, folder, &program);
        context.own = own;
        echo(&context.own);
        let text = profile.to_json().unwrap();
        let file = folder.join("profile.json");
        fs::write(&file, &text).unwrap();
        for thing in THINGS {
            let name = format!("{thing:?}");
            let command = match process {
                Process::QemuDriver
                | Process::NetworkDriver
                | Process::LogDriver
                | Process::SecretDriver
                | Process::GatewayDriver
                | Process::StorageDriver => {
                    let mut command = Command::new(&program);
                    command.args(["try", file.to_str().unwrap(), &name, &context.text()]);
                    report(&format!("{process:?}"), *thing, command);
                    continue;
                }
                _ => {
                    let memory =
                        nix::sys::memfd::memfd_create("profile", nix::sys::memfd::MFdFlags::empty()).unwrap();
                    let mut memory = File::from(memory);
                    io::Write::write_all(&mut memory, &text).unwrap();
                    io::Seek::rewind(&mut memory).unwrap();
                    let mut command = Command::new(&launch);
                    command.arg(memory.as_raw_fd().to_string()).arg("0").arg(&program).args([
                        "attempt",
                        &name,
                        &context.text(),
                    ]);
                    (command, memory)
                }
            };
            report(&format!("{process:?}"), *thing, command.0);
            drop(command.1);
        }
    }
    let mut command = Command::new(&program);
    let output = command.args(["panic", neighbour_profile.to_str().unwrap()]).output().unwrap();
    let heard = String::from_utf8_lossy(&output.stderr).contains("heard through the filter");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    println!("Panic {heard} {signal:?}");
    println!("{}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default());
    drop(terminal);
}

/// A terminal of somebody else's: the side that was made, and its path.
fn terminal() -> (OwnedFd, String) {
    // SAFETY: each call is given a descriptor that was just opened, or a buffer of the length that is named.
    unsafe {
        let side = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(side >= 0 && libc::unlockpt(side) == 0);
        let mut name = [0_u8; 64];
        assert_eq!(libc::ptsname_r(side, name.as_mut_ptr().cast(), name.len()), 0);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        (OwnedFd::from_raw_fd(side), String::from_utf8_lossy(name).into_owned())
    }
}
