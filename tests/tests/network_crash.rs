//! The network driver dies at each point of each turn of a network's life; afterwards the network is as it was or as it was to
//! be, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead::wire::table::Driver;
use bulkhead::wire::types::network::NetworkRef;
use bulkhead::{Connection, Error, FaultRule};
use bulkhead_tests::fixture::{Root, driver, figure, libexec, wait_for};
use bulkhead_tests::lab::{alone, kernel};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const NET: &str = "<network><name>lab</name><uuid>1b0a5f7e-6a37-4bd5-9a0e-8d4f9c3f2a11</uuid><forward mode='nat'/><bridge name='bhlab'/>\
    <ip address='10.99.8.1' prefix='24'><dhcp><range start='10.99.8.10' end='10.99.8.20'/></dhcp></ip></network>";
const HOST: &str = "<host mac='52:54:00:00:00:09' name='web' ip='10.99.8.9'/>";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Define,
    Autostart,
    Start,
    Update,
    Stop,
    Undefine,
}

const LIFE: [Act; 6] = [Act::Define, Act::Autostart, Act::Start, Act::Update, Act::Stop, Act::Undefine];
const WRITE: [&str; 5] = ["before_write", "before_sync", "before_rename", "after_rename", "after_write"];
const REMOVE: [&str; 2] = ["before_remove", "after_remove"];
const CALL: [&str; 2] = ["before", "after"];

const START: [&str; 4] = ["after_record", "after_bridge", "after_rules", "before_running"];
const STOP: [&str; 4] = ["after_record", "after_services", "after_rules", "before_told"];

/// What is done, what it passes, and the how-manieth of its kind that is in this life.
fn points() -> Vec<(Act, String, u32)> {
    const STEPS: [(Act, &str, &[&str], u32); 17] = [
        (Act::Define, "network", &WRITE, 1),
        (Act::Define, "network_define_xml", &CALL, 1),
        (Act::Autostart, "network_autostart", &WRITE, 1),
        (Act::Start, "network_live", &WRITE, 1),
        (Act::Start, "network_start", &START, 1),
        (Act::Start, "network_live", &WRITE, 2),
        (Act::Start, "network_create", &CALL, 1),
        (Act::Update, "network", &WRITE, 2),
        (Act::Update, "network_live", &WRITE, 3),
        (Act::Update, "network_update", &CALL, 1),
        (Act::Stop, "network_live", &WRITE, 4),
        (Act::Stop, "network_stop", &STOP, 1),
        (Act::Stop, "network_live", &REMOVE, 1),
        (Act::Stop, "network_destroy", &CALL, 1),
        (Act::Undefine, "network_autostart", &REMOVE, 1),
        (Act::Undefine, "network", &REMOVE, 1),
        (Act::Undefine, "network_undefine", &CALL, 1),
    ];
    let named = |(act, subject, moments, nth): &(Act, &str, &'static [&str], u32)| {
        let (act, subject, nth) = (*act, (*subject).to_owned(), *nth);
        moments.iter().map(move |moment| (act, format!("{subject}.{moment}"), nth))
    };
    STEPS.iter().flat_map(named).collect()
}

fn network() -> NetworkRef {
    let uuid = bulkhead::wire::types::Uuid::parse("1b0a5f7e-6a37-4bd5-9a0e-8d4f9c3f2a11").unwrap();
    NetworkRef { name: "lab".to_owned(), uuid }
}

async fn act(stack: &Connection, act: Act) -> Result<(), Error> {
    let networks = stack.networks();
    match act {
        Act::Define => networks.network_define_xml(NET.to_owned()).await.map(drop),
        Act::Autostart => networks.network_set_autostart(network(), 1).await,
        Act::Start => networks.network_create(network()).await,
        Act::Update => networks.network_update(network(), 3, 4, -1, HOST.to_owned(), 3).await,
        Act::Stop => networks.network_destroy(network()).await,
        Act::Undefine => networks.network_undefine(network()).await,
    }
}

/// All that somebody could see of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    defined: bool,
    autostart: bool,
    active: bool,
    /// A host, now and from the next start on.
    host: (bool, bool),
    bridge: bool,
    rules: bool,
    served: usize,
}

async fn seen(stack: &Connection, root: &Root) -> Result<Seen, Error> {
    let networks = stack.networks();
    let kernel = kernel();
    let mut seen = Seen {
        defined: networks.network_lookup_by_name("lab".to_owned()).await.is_ok(),
        autostart: false,
        active: false,
        host: (false, false),
        bridge: kernel.contains("bhlab: <"),
        rules: kernel.contains("bulkhead_bhlab"),
        served: root.helpers().len(),
    };
    if seen.defined {
        seen.autostart = networks.network_get_autostart(network()).await? != 0;
        seen.active = networks.network_is_active(network()).await? != 0;
        let has = |xml: String| xml.contains("10.99.8.9");
        let now = has(networks.network_get_xml_desc(network(), 0).await?);
        seen.host = (now, has(networks.network_get_xml_desc(network(), 1).await?));
    }
    Ok(seen)
}

async fn open(root: &Root, faults: Vec<FaultRule>) -> Connection {
    Connection::builder(&root.uri()).libexec(libexec()).faults(faults).open().await.unwrap()
}

async fn die(learnt: &[Seen], what: Act, point: &str, nth: u32, before: &str) {
    let root = Root::new();
    let fault = FaultRule { driver: Driver::Network, point: point.to_owned(), nth, hang: false };
    let stack = open(&root, vec![fault]).await;
    let at = LIFE.iter().position(|act| *act == what).unwrap();
    for step in &LIFE[..at] {
        act(&stack, *step).await.unwrap_or_else(|error| panic!("{point}, on the way, {step:?}: {error}"));
    }
    let done = act(&stack, what).await;
    match &done {
        Ok(()) => assert_eq!(what, Act::Autostart, "{point} {nth} did not fail"),
        Err(error) => assert!(error.message.contains("ended while it served"), "{point}: {error}"),
    }
    let (old, new) = (&learnt[at], &learnt[at + 1]);
    // An update of both sides may have reached one of them.
    let between = |seen: &Seen| what == Act::Update && Seen { host: old.host, ..seen.clone() } == *old;
    let found = wait_for(&format!("{point} {nth}: the old state or the new one"), SOON, || async {
        let (_, incarnation) = driver(&stack, "network").await?;
        let seen = seen(&stack, &root).await.map_err(|error| error.to_string())?;
        let fits = seen == *new || seen == *old && done.is_err() || between(&seen);
        if incarnation == 2 && fits {
            Ok(seen)
        } else {
            Err(format!("{seen:#?}\nold {old:#?}\nnew {new:#?}"))
        }
    })
    .await;
    // Life goes on to its end.
    let rest = if found == *new { at + 1 } else { at };
    for step in &LIFE[rest..] {
        let done = act(&stack, *step).await;
        let twice = *step == Act::Update && found != *old;
        assert!(done.is_ok() || twice, "{point} {nth}, afterwards, {step:?}: {done:?}");
    }
    assert_eq!(kernel(), before, "{point} {nth}");
    assert!(root.helpers_gone(), "{point} {nth}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn after_a_death_at_any_point_a_network_is_as_it_was_or_as_it_was_to_be() {
    if !alone() {
        return;
    }
    let before = kernel();
    let root = Root::new();
    let stack = open(&root, Vec::new()).await;
    let mut learnt = vec![seen(&stack, &root).await.unwrap()];
    for step in LIFE {
        act(&stack, step).await.unwrap();
        learnt.push(seen(&stack, &root).await.unwrap());
    }
    assert_eq!(learnt.first(), learnt.last());
    stack.stop().await.unwrap();
    let points = points();
    for (what, point, nth) in &points {
        die(&learnt, *what, point, *nth, &before).await;
    }
    figure(&format!("{} points at which the network driver died", points.len()));
}
