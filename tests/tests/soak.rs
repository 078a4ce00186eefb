//! Random operations and faults, from a seed, against a model of what must hold. `tools/soak` runs it for long; without a
//! word from the environment it is a short round.
//!
//! `BULKHEAD_SOAK_SECONDS` is how long it lasts, `BULKHEAD_SEED` which round it is.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::{Connection, Intensity};
use bulkhead_tests::fixture::{
    Root, SERIAL_PTY, domain, driver, figure, guest_files, kill, libexec, skip, ticker_xml,
};
use bulkhead_wire::types::{DomainRef, State};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Guests of a round.
const GUESTS: usize = 4;
/// Time in which the stack must be as the model says.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// Operations that are told when something does not hold.
const TOLD: usize = 24;

/// Numbers from a seed (splitmix64): the same round on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Define,
    Start,
    Suspend,
    Resume,
    Destroy,
    Undefine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The driver is killed.
    Driver,
    /// The driver is killed while it does something.
    DriverDuring,
    /// The driver hangs until it is found out.
    DriverHangs,
    /// A guest's QEMU is killed.
    Qemu,
    /// A guest's QEMU hangs, and is destroyed.
    QemuHangs,
    /// The stack is closed and opened again.
    Reopen,
}

/// What is known of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Guest {
    defined: bool,
    /// Runs, or is paused.
    live: Option<Live>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Live {
    Running,
    Paused,
}

impl Guest {
    /// What it is after an operation; none if that must be refused.
    fn after(self, act: Act) -> Option<Self> {
        match (act, self.live) {
            (Act::Define, _) => Some(Self { defined: true, ..self }),
            (Act::Start, None) if self.defined => Some(Self { live: Some(Live::Running), ..self }),
            (Act::Suspend, Some(Live::Running)) => Some(Self { live: Some(Live::Paused), ..self }),
            (Act::Resume, Some(Live::Paused)) => Some(Self { live: Some(Live::Running), ..self }),
            (Act::Destroy, Some(_)) => Some(Self { live: None, ..self }),
            (Act::Undefine, _) if self.defined => Some(Self { defined: false, ..self }),
            _ => None,
        }
    }
}

struct Round {
    root: Root,
    stack: Connection,
    guests: [Guest; GUESTS],
    history: VecDeque<String>,
    counts: BTreeMap<String, u32>,
}

fn name(guest: usize) -> String {
    format!("soak{guest}")
}

fn uuid(guest: usize) -> String {
    format!("00000000-0000-4000-8000-00000000000{guest}")
}

fn xml(root: &Path, guest: usize) -> String {
    let disk = root.join(format!("{}.img", name(guest)));
    let uuid = format!("</name><uuid>{}</uuid>", uuid(guest));
    ticker_xml(&name(guest), &disk, SERIAL_PTY).replacen("</name>", &uuid, 1)
}

async fn open(root: &Root) -> Result<Connection, String> {
    // Deaths are what this is about.
    let intensity = Intensity { deaths: 100_000, within: Duration::from_secs(30) };
    let builder = Connection::builder(&root.uri()).libexec(libexec()).restart_intensity(intensity);
    builder.open().await.map_err(|error| error.to_string())
}

async fn act(stack: &Connection, root: &Path, guest: usize, act: Act) -> Result<(), String> {
    let domains = stack.domains();
    let done = match act {
        Act::Define => domains.domain_define_xml_flags(xml(root, guest), 0).await.map(drop),
        _ => match domain(stack, &name(guest)).await {
            Err(error) => Err(error),
            Ok(found) => match act {
                Act::Start => domains.domain_create_with_flags(found, 0).await.map(drop),
                Act::Suspend => domains.domain_suspend(found).await,
                Act::Resume => domains.domain_resume(found).await,
                Act::Destroy => domains.domain_destroy_flags(found, 0).await,
                Act::Define | Act::Undefine => domains.domain_undefine_flags(found, 0).await,
            },
        },
    };
    done.map_err(|error| error.message)
}

impl Round {
    async fn new() -> Self {
        let root = Root::new();
        let files = guest_files().unwrap();
        std::fs::create_dir_all(root.path()).unwrap();
        for guest in 0..GUESTS {
            std::fs::copy(files.join("ticker.img"), root.path().join(format!("{}.img", name(guest))))
                .unwrap();
        }
        let stack = open(&root).await.unwrap();
        Self {
            root,
            stack,
            guests: [Guest::default(); GUESTS],
            history: VecDeque::new(),
            counts: BTreeMap::new(),
        }
    }

    fn note(&mut self, what: &str) {
        *self.counts.entry(what.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        if self.history.len() == TOLD {
            self.history.pop_front();
        }
        self.history.push_back(what.to_owned());
    }

    async fn qemu(&self, guest: usize) -> Result<u32, String> {
        let status = self.stack.status().await.map_err(|error| error.message)?;
        let helper = status.helpers.iter().find(|helper| helper.key == uuid(guest));
        helper.map(|helper| helper.pid).ok_or(format!("{} has no QEMU", name(guest)))
    }

    /// The driver's process, once it serves.
    async fn driver(&self) -> Result<u32, String> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            match driver(&self.stack, "qemu").await {
                Ok((pid, _)) => return Ok(pid),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn operate(&mut self, guest: usize, what: Act) -> Result<(), String> {
        self.note(&format!("{what:?} {}", name(guest)));
        let done = act(&self.stack, self.root.path(), guest, what).await;
        match (self.guests[guest].after(what), done) {
            (Some(after), Ok(())) => self.guests[guest] = after,
            (Some(_), Err(error)) => return Err(format!("{what:?} {} failed: {error}", name(guest))),
            // What is so already may be asked for again.
            (None, Ok(())) if !matches!(what, Act::Suspend | Act::Resume) => {
                return Err(format!("{what:?} {} was done, which was {:?}", name(guest), self.guests[guest]));
            }
            (None, _) => {}
        }
        Ok(())
    }

    async fn fail(&mut self, guest: usize, fault: Fault, dice: &mut Dice) -> Result<(), String> {
        let live = self.guests[guest].live.is_some();
        match fault {
            Fault::Driver => {
                self.note("Driver killed");
                kill(self.driver().await?, Signal::SIGKILL);
            }
            Fault::DriverDuring => {
                let what = random_act(dice);
                self.note(&format!("DriverDuring {what:?} {}", name(guest)));
                let (pid, pause) = (self.driver().await?, Duration::from_millis(dice.roll(40)));
                let killing = async {
                    tokio::time::sleep(pause).await;
                    kill(pid, Signal::SIGKILL);
                };
                let (done, ()) = tokio::join!(act(&self.stack, self.root.path(), guest, what), killing);
                self.old_or_new(guest, what, done).await?;
            }
            Fault::DriverHangs => {
                self.note("DriverHangs");
                let pid = self.driver().await?;
                kill(pid, Signal::SIGSTOP);
                // The model is asked about below, and answered by the next one.
                let deadline = Instant::now() + SETTLES_WITHIN;
                while self.driver().await? == pid {
                    if Instant::now() > deadline {
                        return Err("a driver that hangs was not found out".to_owned());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Fault::Qemu if live => {
                self.note(&format!("Qemu {}", name(guest)));
                kill(self.qemu(guest).await?, Signal::SIGKILL);
                self.guests[guest].live = None;
            }
            Fault::QemuHangs if live => {
                self.note(&format!("QemuHangs {}", name(guest)));
                kill(self.qemu(guest).await?, Signal::SIGSTOP);
                act(&self.stack, self.root.path(), guest, Act::Destroy).await?;
                self.guests[guest].live = None;
            }
            Fault::Qemu | Fault::QemuHangs => {}
            Fault::Reopen => {
                self.note("Reopen");
                self.stack.stop().await.map_err(|error| error.message)?;
                self.stack = open(&self.root).await?;
            }
        }
        Ok(())
    }

    /// After a death in the middle a guest is what it was, or what it was to become.
    async fn old_or_new(&mut self, guest: usize, what: Act, done: Result<(), String>) -> Result<(), String> {
        let old = self.guests[guest];
        let new = old.after(what).unwrap_or(old);
        if done.is_ok() {
            self.guests[guest] = new;
            return Ok(());
        }
        self.driver().await?;
        let deadline = Instant::now() + SETTLES_WITHIN;
        loop {
            let seen = self.seen(guest).await;
            if let Some(found) = [old, new].into_iter().find(|one| seen.as_ref() == Ok(one)) {
                self.guests[guest] = found;
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{what:?} {}: {seen:?} is neither {old:?} nor {new:?}", name(guest)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the stack says of a guest.
    async fn seen(&self, guest: usize) -> Result<Guest, String> {
        let Ok(found) = domain(&self.stack, &name(guest)).await else {
            return Ok(Guest::default());
        };
        let state = self.stack.domains().domain_get_state(found.clone(), 0).await;
        let live = match state.map_err(|error| error.message)?.state {
            state if state == State::Running as i32 => Some(Live::Running),
            state if state == State::Paused as i32 => Some(Live::Paused),
            state if state == State::Shutoff as i32 => None,
            other => return Err(format!("state {other}")),
        };
        let defined = self.is_persistent(found).await?;
        Ok(Guest { defined, live })
    }

    async fn is_persistent(&self, found: DomainRef) -> Result<bool, String> {
        let answer = self.stack.domains().domain_is_persistent(found).await;
        answer.map(|answer| answer != 0).map_err(|error| error.message)
    }

    /// Everything is, at once or soon, as the model says: the guests, and the processes.
    async fn holds(&self) -> Result<(), String> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        'again: loop {
            let mut wrong = String::new();
            for guest in 0..GUESTS {
                let seen = self.seen(guest).await;
                if seen != Ok(self.guests[guest]) {
                    wrong = format!("{} is {seen:?}, not {:?}", name(guest), self.guests[guest]);
                    break;
                }
            }
            let live = self.guests.iter().filter(|guest| guest.live.is_some()).count();
            let processes = self.root.helpers().len();
            if wrong.is_empty() && processes == live {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{wrong}; {processes} processes of {live} guests"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue 'again;
        }
    }

    async fn run(&mut self, dice: &mut Dice, until: Instant) -> Result<(), String> {
        while Instant::now() < until {
            let guest = usize::try_from(dice.roll(GUESTS as u64)).unwrap();
            match dice.roll(100) {
                0..70 => {
                    let what = random_act(dice);
                    self.operate(guest, what).await?;
                }
                70..76 => self.fail(guest, Fault::Driver, dice).await?,
                76..84 => self.fail(guest, Fault::DriverDuring, dice).await?,
                84 => self.fail(guest, Fault::DriverHangs, dice).await?,
                85..90 => self.fail(guest, Fault::Qemu, dice).await?,
                90..94 => self.fail(guest, Fault::QemuHangs, dice).await?,
                _ => self.fail(guest, Fault::Reopen, dice).await?,
            }
            self.holds().await?;
        }
        for guest in 0..GUESTS {
            for what in [Act::Destroy, Act::Undefine] {
                if self.guests[guest].after(what).is_some() {
                    self.operate(guest, what).await?;
                }
            }
        }
        self.holds().await?;
        self.stack.stop().await.map_err(|error| error.message)
    }
}

fn random_act(dice: &mut Dice) -> Act {
    const ACTS: [Act; 10] = [
        Act::Define,
        Act::Define,
        Act::Start,
        Act::Start,
        Act::Start,
        Act::Suspend,
        Act::Resume,
        Act::Resume,
        Act::Destroy,
        Act::Undefine,
    ];
    ACTS[usize::try_from(dice.roll(ACTS.len() as u64)).unwrap()]
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Processes that name the root on their command line, or are children of this one.
fn processes(root: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let of = |entry: std::fs::DirEntry| -> Option<String> {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
        let ours = pid != std::process::id() && (parent == own || command.contains(root.to_str()?));
        ours.then(|| format!("{pid} {command}"))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// Files that must not be left when there are no guests any more.
fn left_over(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["etc", "lib", "run"].iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                if folder.ends_with("run/guests") {
                    found.push(path.clone());
                }
                folders.push(path);
            } else if !path.ends_with("run/lock") && !path.ends_with("run/control.sock") {
                found.push(path);
            }
        }
    }
    found
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test]
async fn whatever_happens_guests_are_what_the_model_says_and_nothing_is_left() {
    if guest_files().is_none() {
        return skip("no guest files; tools/guest/build makes them");
    }
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("BULKHEAD_SEED").unwrap_or(u64::from(clock.subsec_nanos()));
    let duration = Duration::from_secs(number("BULKHEAD_SOAK_SECONDS").unwrap_or(10));
    // What a runtime opens once is open before anything is counted.
    drop(Round::new().await.stack.stop().await);
    let open = descriptors();
    let mut round = Round::new().await;
    let (mut dice, began) = (Dice(seed), Instant::now());
    let ran = round.run(&mut dice, began + duration).await;
    let history = round.history.make_contiguous().join(", ");
    if let Err(error) = ran {
        panic!("seed {seed}, after {:?}: {error}; last: {history}", round.counts);
    }
    let Round { root, stack, counts, .. } = round;
    drop(stack);
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        let (left, files, now) = (processes(root.path()), left_over(root.path()), descriptors());
        if left.is_empty() && files.is_empty() && now <= open {
            break;
        }
        let what = format!("processes {left:?}, files {files:?}, descriptors {open} before and {now} now");
        assert!(Instant::now() < deadline, "seed {seed}: left behind: {what}; last: {history}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let operations: u32 = counts.values().sum();
    figure(&format!("soak, seed {seed}: {operations} operations in {:?}: {counts:?}", began.elapsed()));
}
