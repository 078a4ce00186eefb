//! The qemu driver dies at every fault point of a domain's life: afterwards the domain is as it was before or as it was to be,
//! and nothing is left behind.
//!
//! Which points there are is not written down here: a life without a fault shows what each call passes, and the table of all
//! points shows whether one was missed.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::wire::table::{CallInfo, Driver, domain as calls};
use bulkhead::wire::types::{DomainRef, State, Uuid};
use bulkhead::{Connection, FaultRule, Intensity};
use bulkhead_base::points::{FILE_KINDS, FILE_MOMENTS, POINTS};
use bulkhead_tests::app::runs;
use bulkhead_tests::fixture::{Root, SERIAL_PTY, figure, guest_files, libexec, skip, ticker_xml, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
const NAME: &str = "web";
const UUID: &str = "5b3d9c7e-0c5e-4d0a-9f3b-6a1f2e4c8d10";
/// Stacks that are open at one time.
const LANES: usize = 2;

/// What is done to the domain, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Define,
    Autostart,
    Start,
    Redefine,
    Suspend,
    Resume,
    Destroy,
    Undefine,
}

const LIFE: [Act; 8] = [
    Act::Define,
    Act::Autostart,
    Act::Start,
    Act::Redefine,
    Act::Suspend,
    Act::Resume,
    Act::Destroy,
    Act::Undefine,
];

/// Points of this driver's table that this life does not pass, and why.
const NOT_PASSED: &[(&str, &str)] = &[
    ("dump", "tests/tests/breadth.rs has the driver die at each of them"),
    ("save", "tests/tests/saved.rs has the driver die at each of them"),
    ("plug", "tests/tests/hotplug.rs has the driver die at each of them"),
    ("unplug", "tests/tests/hotplug.rs has the driver die at each of them"),
    ("medium", "tests/tests/hotplug.rs has the driver die at each of them"),
    (
        "pending",
        "it is written when a stack is opened with a domain to start; tests/tests/clumsy.rs has a driver die at that",
    ),
    ("variables", "firmware variables are made by guests with UEFI; the file is written as all others are"),
    ("tpm", "a TPM takes seconds to be made; tests/tests/tpm.rs kills the driver of a guest with one"),
    ("authority", "it is written with the first TPM, as all other files are"),
    ("host", "it is written when a client asks what the host can do, as all other files are"),
];

impl Act {
    fn call(self) -> &'static CallInfo {
        match self {
            Self::Define | Self::Redefine => &calls::domain_define_xml_flags::INFO,
            Self::Autostart => &calls::domain_set_autostart::INFO,
            Self::Start => &calls::domain_create_with_flags::INFO,
            Self::Suspend => &calls::domain_suspend::INFO,
            Self::Resume => &calls::domain_resume::INFO,
            Self::Destroy => &calls::domain_destroy_flags::INFO,
            Self::Undefine => &calls::domain_undefine_flags::INFO,
        }
    }
}

/// The domain, known without asking for it: looking it up would pass points too.
fn web() -> DomainRef {
    DomainRef { name: NAME.to_owned(), uuid: Uuid::parse(UUID).unwrap(), id: -1 }
}

fn xml(root: &Root, title: &str) -> String {
    let disk = root.path().join("disk.img");
    let named = format!("<name>{NAME}</name>");
    let whole = format!("{named}<uuid>{UUID}</uuid><title>{title}</title>");
    ticker_xml(NAME, &disk, SERIAL_PTY).replace(&named, &whole)
}

/// All that is to be seen of the domain, by asking, on disk and among the processes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Title, state, and whether it starts with the stack.
    domain: Option<(String, i32, bool)>,
    /// The title on disk.
    definition: Option<String>,
    /// Processes whose command line names the root.
    processes: usize,
    /// Files below the root, with the domain's records by name.
    files: BTreeSet<String>,
}

fn title_of(xml: &str) -> String {
    let rest = xml.split_once("<title>").map_or("", |(_, rest)| rest);
    rest.split_once('<').map_or(rest, |(title, _)| title).to_owned()
}

/// Files and sockets below a folder; folders count by what is in them.
fn walk(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &path, found);
        } else {
            found.insert(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
}

/// Processes of guests below the root.
fn processes(root: &Path) -> Vec<u32> {
    let name = root.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_root = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&name)
    };
    pids.filter(of_root).collect()
}

/// Children of this process that live, by the name of their program.
fn children() -> BTreeMap<u32, String> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let child = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, fields) = stat.rsplit_once(") ")?;
        let parent = fields.split(' ').nth(1)?;
        (parent == own).then(|| (pid, name.split_once('(').map_or("", |(_, name)| name).to_owned()))
    };
    entries.filter_map(child).collect()
}

fn descriptors(process: &str) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

/// One stack and the domain in it.
struct Lane {
    root: Root,
    stack: Connection,
}

impl Lane {
    /// A stack that makes this fault, and knows what QEMU can do already if it is told.
    async fn open(files: &Path, fault: FaultRule, cache: Option<&Path>) -> Self {
        let root = Root::new();
        std::fs::create_dir_all(root.path().join("cache/qemu")).unwrap();
        std::fs::copy(files.join("ticker.img"), root.path().join("disk.img")).unwrap();
        for file in cache.into_iter().flat_map(|cache| std::fs::read_dir(cache).unwrap().flatten()) {
            std::fs::copy(file.path(), root.path().join("cache/qemu").join(file.file_name())).unwrap();
        }
        let often = Intensity { deaths: 100, within: Duration::from_secs(1) };
        let builder = Connection::builder(&root.uri()).libexec(libexec()).restart_intensity(often);
        let stack = builder.faults(vec![fault]).open().await.unwrap();
        Self { root, stack }
    }

    async fn act(&self, act: Act) -> Result<(), String> {
        let domains = self.stack.domains();
        let done = match act {
            Act::Define => domains.domain_define_xml_flags(xml(&self.root, "old"), 0).await.map(drop),
            Act::Redefine => domains.domain_define_xml_flags(xml(&self.root, "new"), 0).await.map(drop),
            Act::Autostart => domains.domain_set_autostart(web(), 1).await,
            Act::Start => domains.domain_create_with_flags(web(), 0).await.map(drop),
            Act::Suspend => domains.domain_suspend(web()).await,
            Act::Resume => domains.domain_resume(web()).await,
            Act::Destroy => domains.domain_destroy_flags(web(), 0).await,
            Act::Undefine => domains.domain_undefine_flags(web(), 0).await,
        };
        done.map_err(|error| error.message)
    }

    /// What is to be seen; an error while something of it contradicts itself.
    async fn seen(&self) -> Result<Seen, String> {
        let domains = self.stack.domains();
        let domain = match domains.domain_get_state(web(), 0).await {
            Ok(state) => {
                let autostart = domains.domain_get_autostart(web()).await.map_err(|error| error.message)?;
                let xml = domains.domain_get_xml_desc(web(), 2).await.map_err(|error| error.message)?;
                Some((title_of(&xml), state.state, autostart == 1))
            }
            Err(error) if error.message.contains("not found") => None,
            Err(error) => return Err(error.message),
        };
        let mut files = BTreeSet::new();
        walk(self.root.path(), self.root.path(), &mut files);
        // What is made again whenever it is needed, and what was said.
        files.retain(|file| !file.starts_with("cache/") && !file.starts_with("log/"));
        let definition = std::fs::read_to_string(self.root.path().join(format!("etc/qemu/{NAME}.xml")));
        let processes = processes(self.root.path());
        let mut recorded = self.root.helpers();
        recorded.sort_unstable();
        let mut known: Vec<u32> =
            self.stack.status().await.unwrap().helpers.iter().map(|helper| helper.pid).collect();
        known.sort_unstable();
        if processes != recorded || processes != known || !processes.iter().copied().all(runs) {
            return Err(format!("processes {processes:?}, recorded {recorded:?}, known {known:?}"));
        }
        let definition = definition.ok().map(|text| title_of(&text));
        Ok(Seen { domain, definition, processes: processes.len(), files })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log/qemu.driver.log")).unwrap_or_default()
    }

    /// Descriptors that each driver has open.
    async fn drivers(&self) -> BTreeMap<String, usize> {
        let status = self.stack.status().await.unwrap();
        let drivers = status.drivers.into_iter();
        drivers.map(|driver| (driver.name, descriptors(&driver.pid.unwrap_or(0).to_string()))).collect()
    }
}

/// A fault: in this call, when this point is passed for the so manieth time since the driver began.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Case {
    act: Act,
    point: String,
    nth: u32,
}

/// What a life without a fault shows.
struct Learnt {
    cases: Vec<Case>,
    /// What is to be seen before each act, and after the last.
    seen: Vec<Seen>,
    cache: Root,
}

fn never() -> FaultRule {
    // Armed, so that the log tells which points are passed.
    FaultRule { driver: Driver::Qemu, point: "start.before_taps".to_owned(), nth: u32::MAX, hang: false }
}

async fn learn(files: &Path) -> Learnt {
    let lane = Lane::open(files, never(), None).await;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let (mut cases, mut seen) = (Vec::new(), vec![lane.seen().await.unwrap()]);
    let mut read = 0;
    let mut points = |count: &mut dyn FnMut(&str, u32)| {
        let log = lane.log();
        for line in log[read..].lines() {
            let Some((_, point)) = line.split_once("fault point ") else { continue };
            let hits = counts.entry(point.trim().to_owned()).or_default();
            *hits += 1;
            count(point.trim(), *hits);
        }
        read = log.len();
    };
    for act in LIFE {
        points(&mut |_, _| ());
        lane.act(act).await.unwrap();
        points(&mut |point, nth| cases.push(Case { act, point: point.to_owned(), nth }));
        seen.push(wait_for("the act's effects", SOON, || lane.seen()).await);
    }
    let cache = Root::new();
    std::fs::create_dir_all(cache.path()).unwrap();
    for file in std::fs::read_dir(lane.root.path().join("cache/qemu")).unwrap().flatten() {
        std::fs::copy(file.path(), cache.path().join(file.file_name())).unwrap();
    }
    lane.stack.stop().await.unwrap();
    Learnt { cases, seen, cache }
}

/// Demands that nothing that the table names was left out.
fn assert_complete(cases: &[Case]) {
    let passed: BTreeSet<&str> = cases.iter().map(|case| case.point.as_str()).collect();
    let own = POINTS.iter().filter(|point| point.driver == "qemu");
    let own = own.map(|point| (point.subject, point.moment));
    let kinds = FILE_KINDS.iter().filter(|kind| kind.driver == "qemu");
    let files = kinds.flat_map(|kind| {
        let moments = FILE_MOMENTS.iter().map(|(moment, _)| (kind.subject, *moment));
        // What QEMU can do is never forgotten.
        moments.filter(|(subject, moment)| *subject != "capabilities" || !moment.ends_with("remove"))
    });
    let calls = LIFE.iter().flat_map(|act| [(act.call().name, "before"), (act.call().name, "after")]);
    for (subject, moment) in own.chain(files).chain(calls) {
        let excepted = NOT_PASSED.iter().any(|(not, _)| *not == subject);
        let point = format!("{subject}.{moment}");
        assert!(passed.contains(point.as_str()) != excepted, "{point}: give this life an act that passes it");
    }
}

/// Has the driver die there, looks what became of the domain, and goes on with its life to the end and through another one.
async fn die(files: &Path, learnt: &Learnt, case: &Case) -> Lane {
    let fault = FaultRule { driver: Driver::Qemu, point: case.point.clone(), nth: case.nth, hang: false };
    let cache = (!case.point.starts_with("capabilities.")).then(|| learnt.cache.path());
    let lane = Lane::open(files, fault, cache).await;
    let at = LIFE.iter().position(|act| *act == case.act).unwrap();
    for act in &LIFE[..at] {
        lane.act(*act).await.unwrap_or_else(|error| panic!("{case:?}, on the way there, {act:?}: {error}"));
    }
    let done = lane.act(case.act).await;
    match &done {
        // Sent again, and done by the next incarnation.
        Ok(()) => assert!(case.act.call().repeatable, "{case:?} had no effect"),
        Err(error) => assert!(error.contains("ended while it served"), "{case:?}: {error}"),
    }
    let (old, new) = (&learnt.seen[at], &learnt.seen[at + 1]);
    let found = wait_for(&format!("{case:?}: the old state or the new one"), SOON, || async {
        let seen = lane.seen().await?;
        let fits = seen == *new || (seen == *old && done.is_err());
        if fits { Ok(seen) } else { Err(format!("{seen:#?}\nold {old:#?}\nnew {new:#?}")) }
    })
    .await;
    let qemu = lane.stack.status().await.unwrap().drivers;
    let qemu = qemu.into_iter().find(|driver| driver.name == "qemu").unwrap();
    assert_eq!((qemu.incarnation, qemu.restarts), (2, 1), "{case:?}");
    // Life goes on from there, and is a whole one afterwards.
    if found.domain.as_ref().is_some_and(|(_, state, _)| *state != State::Shutoff as i32) {
        lane.act(Act::Suspend).await.unwrap_or_else(|error| panic!("{case:?}, then: {error}"));
        lane.act(Act::Destroy).await.unwrap_or_else(|error| panic!("{case:?}, then: {error}"));
    }
    if found.domain.is_some() {
        lane.act(Act::Undefine).await.unwrap_or_else(|error| panic!("{case:?}, then: {error}"));
    }
    for act in LIFE {
        lane.act(act).await.unwrap_or_else(|error| panic!("{case:?}, in the next life, {act:?}: {error}"));
    }
    ended(&lane, learnt, &format!("{case:?}")).await;
    lane
}

/// Demands that of a whole life nothing is left.
async fn ended(lane: &Lane, learnt: &Learnt, what: &str) {
    let last = learnt.seen.last().unwrap();
    wait_for(&format!("{what}: nothing is left"), SOON, || async {
        let seen = lane.seen().await?;
        let mut all = BTreeSet::new();
        walk(lane.root.path(), lane.root.path(), &mut all);
        let half = all.iter().find(|file| file.ends_with(".new") || file.contains("unreadable"));
        if seen == *last && half.is_none() { Ok(()) } else { Err(format!("{seen:#?}, {half:?}")) }
    })
    .await;
}

/// What a pair of stacks has open after a whole life.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Open {
    own: usize,
    drivers: Vec<BTreeMap<String, usize>>,
    children: Vec<String>,
}

async fn open(lanes: &[Lane]) -> Open {
    let mut drivers = Vec::new();
    for lane in lanes {
        drivers.push(lane.drivers().await);
    }
    let mut children: Vec<String> = children().into_values().collect();
    children.sort_unstable();
    Open { own: descriptors("self"), drivers, children }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_death_at_any_point_a_domain_is_in_its_old_state_or_its_new_one() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let began = Instant::now();
    let learnt: &'static Learnt = Box::leak(Box::new(learn(&files).await));
    assert_complete(&learnt.cases);
    // What is open when nothing went wrong: the second time, since the first opens what stays open.
    let mut reference = None;
    for _ in 0..2 {
        let mut lanes = Vec::new();
        for _ in 0..LANES {
            let lane = Lane::open(&files, never(), Some(learnt.cache.path())).await;
            for act in LIFE.into_iter().chain(LIFE) {
                lane.act(act).await.unwrap();
            }
            ended(&lane, learnt, "without a fault").await;
            lanes.push(lane);
        }
        reference = Some(open(&lanes).await);
        for lane in lanes {
            lane.stack.stop().await.unwrap();
        }
    }
    let reference = reference.unwrap();
    for cases in learnt.cases.chunks(LANES) {
        let mut dying = Vec::new();
        for case in cases {
            let files = files.clone();
            dying.push(tokio::spawn(async move { die(&files, learnt, case).await }));
        }
        let mut lanes = Vec::new();
        for lane in dying {
            lanes.push(lane.await.unwrap());
        }
        wait_for(&format!("{cases:?}: no process and no descriptor is left"), SOON, || async {
            let now = open(&lanes).await;
            let drivers = now.drivers.iter().zip(&reference.drivers);
            let fewer = drivers.into_iter().all(|(now, then)| now.iter().all(|(name, n)| *n <= then[name]));
            let pair = lanes.len() == LANES;
            let fits = now.own <= reference.own && fewer && (!pair || now.children == reference.children);
            if fits { Ok(()) } else { Err(format!("{now:?}, without a fault {reference:?}")) }
        })
        .await;
        for lane in lanes {
            lane.stack.stop().await.unwrap();
        }
    }
    figure(&format!(
        "deaths of the qemu driver at {} points of {} calls: each time the old state or the new one, in {} s",
        learnt.cases.len(),
        LIFE.len(),
        began.elapsed().as_secs()
    ));
}
