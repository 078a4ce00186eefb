//! A QEMU that hangs harms nobody: what is known of its guest is told as ever, calls that need it end in time with an error that
//! names it, it can be destroyed at once, and other guests notice nothing.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::wire::error::{Code, Error, Origin};
use bulkhead::wire::types::{Busy, DomainRef, State};
use bulkhead::{Connection, wire};
use bulkhead_tests::app::{runs, wait_gone};
use bulkhead_tests::fixture::{
    Root, SERIAL_PTY, domain, driver, figure, guest_files, kill, skip, ticker_xml, wait_for,
};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
/// "At once", with room for a machine that does other things too.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The time that QEMU has for one command, and room.
const ONE_COMMAND: Duration = Duration::from_millis(6500);
/// `VIR_DOMAIN_RUNNING_BOOTED`, `VIR_DOMAIN_RUNNING_UNPAUSED`.
const BOOTED: i32 = 1;
const UNPAUSED: i32 = 5;
/// `VIR_DOMAIN_PAUSED_STARTING_UP`.
const STARTING_UP: i32 = 11;
/// `VIR_DOMAIN_SHUTOFF_DESTROYED`, `VIR_DOMAIN_SHUTOFF_FAILED`.
const DESTROYED: i32 = 2;
const FAILED: i32 = 6;

async fn define(stack: &Connection, root: &Root, name: &str) -> DomainRef {
    let disk = root.path().join(format!("{name}.img"));
    std::fs::copy(guest_files().unwrap().join("ticker.img"), &disk).unwrap();
    stack.domains().domain_define_xml_flags(ticker_xml(name, &disk, SERIAL_PTY), 0).await.unwrap()
}

async fn start(stack: &Connection, guest: &DomainRef) {
    stack.domains().domain_create_with_flags(guest.clone(), 0).await.unwrap();
}

async fn state(stack: &Connection, guest: &DomainRef) -> (i32, i32) {
    let state = stack.domains().domain_get_state(guest.clone(), 0).await.unwrap();
    (state.state, state.reason)
}

/// The process of a guest, once the broker has written it down.
async fn process(root: &Path, guest: &DomainRef) -> u32 {
    let record = root.join("run/broker/helpers").join(guest.uuid.to_string());
    let deadline = Instant::now() + SOON;
    loop {
        let text = std::fs::read(&record).unwrap_or_default();
        let record: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
        let pid = record.and_then(|record| u32::try_from(record.get("pid")?.as_u64()?).ok());
        // The record of the one before may still be there.
        if let Some(pid) = pid.filter(|pid| runs(*pid)) {
            return pid;
        }
        assert!(Instant::now() < deadline, "no process of {}", guest.name);
        // Looked for as often as can be: it is to be caught before it says a word.
        tokio::task::yield_now().await;
    }
}

/// Demands an error of the qemu driver's about time, which names the guest.
fn assert_names(error: &Error, words: &[&str]) {
    assert_eq!((error.code, error.origin), (Code::OPERATION_TIMEOUT, Origin::QEMU), "{error}");
    for word in words {
        assert!(error.message.contains(word), "'{word}' is missing: {error}");
    }
}

/// Everything that is told of a guest without asking its QEMU, with the longest time that an answer took.
async fn looked_at(stack: &Connection, guest: &DomainRef, expected: (State, i32)) -> Duration {
    let domains = stack.domains();
    let mut longest = Duration::ZERO;
    for round in 0..20 {
        let began = Instant::now();
        let info = domains.domain_get_info(guest.clone()).await.unwrap();
        assert_eq!((info.state, info.vcpus), (expected.0 as u8, 1));
        longest = longest.max(began.elapsed());
        let began = Instant::now();
        assert_eq!(state(stack, guest).await, (expected.0 as i32, expected.1));
        longest = longest.max(began.elapsed());
        let began = Instant::now();
        let xml = domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap();
        assert!(xml.contains(&guest.name) && xml.contains(" id='"), "{round}: {xml}");
        longest = longest.max(began.elapsed());
        let began = Instant::now();
        let active = domains.connect_list_all_domains(1, 1).await.unwrap().domains;
        assert!(active.iter().any(|domain| domain.name == guest.name), "{active:?}");
        longest = longest.max(began.elapsed());
        assert_eq!(domains.domain_is_active(guest.clone()).await.unwrap(), 1);
        assert_eq!(domains.domain_lookup_by_name(guest.name.clone()).await.unwrap().uuid, guest.uuid);
    }
    longest
}

/// Median and 99th percentile of many looks at a guest, and of some commands to its QEMU.
#[derive(Debug)]
struct Latency {
    look: [Duration; 2],
    command: [Duration; 2],
}

async fn latency(stack: &Connection, guest: &DomainRef) -> Latency {
    let domains = stack.domains();
    let percentiles = |mut times: Vec<Duration>| {
        times.sort();
        [times[times.len() / 2], times[times.len() * 99 / 100]]
    };
    let (mut looks, mut commands) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        for _ in 0..20 {
            let began = Instant::now();
            domains.domain_get_info(guest.clone()).await.unwrap();
            looks.push(began.elapsed());
        }
        let began = Instant::now();
        domains.domain_suspend(guest.clone()).await.unwrap();
        commands.push(began.elapsed());
        let began = Instant::now();
        domains.domain_resume(guest.clone()).await.unwrap();
        commands.push(began.elapsed());
    }
    Latency { look: percentiles(looks), command: percentiles(commands) }
}

/// What the status says about the guest's work now, if that many wait for it.
async fn busy_now(stack: &Connection, guest: &DomainRef, waiting: u32) -> Result<Busy, String> {
    let status = stack.status().await.map_err(|error| error.to_string())?;
    let qemu = status.drivers.into_iter().find(|driver| driver.name == "qemu").ok_or("no driver")?;
    let object = format!("domain {}", guest.name);
    let seen = format!("{:?}", qemu.busy);
    qemu.busy.into_iter().find(|busy| busy.object == object && busy.waiting >= waiting).ok_or(seen)
}

async fn busy(stack: &Connection, guest: &DomainRef, waiting: u32) -> Busy {
    wait_for("the status shows what hangs", SOON, || busy_now(stack, guest, waiting)).await
}

#[tokio::test]
async fn a_hung_qemu_holds_nobody_up_but_those_who_need_it() {
    if guest_files().is_none() {
        return skip("no guest files; tools/guest/build makes them");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let (hung, other) = (define(&stack, &root, "hung").await, define(&stack, &root, "other").await);
    start(&stack, &hung).await;
    start(&stack, &other).await;
    let before = latency(&stack, &other).await;
    let pid = process(root.path(), &hung).await;
    kill(pid, Signal::SIGSTOP);

    // Three calls at once: the first is at work for as long as QEMU has, the second behind it, the third's time is up before.
    let began = Instant::now();
    let call = |stack: Connection, guest: DomainRef, which: u8| async move {
        let (domains, began) = (stack.domains(), Instant::now());
        let error = match which {
            0 => domains.domain_suspend(guest).await.unwrap_err(),
            1 => domains.domain_reset(guest, 0).await.unwrap_err(),
            _ => domains.domain_shutdown_flags(guest, 1).await.unwrap_err(),
        };
        (error, began.elapsed())
    };
    let mut calls = Vec::new();
    for which in 0..3 {
        calls.push(tokio::spawn(call(stack.clone(), hung.clone(), which)));
        // In this order into the guest's mailbox.
        if which == 0 {
            busy(&stack, &hung, 0).await;
        }
    }
    let seen = busy(&stack, &hung, 2).await;
    assert_eq!((seen.operation.as_str(), seen.waiting), ("domain_suspend", 2));
    assert!(seen.since_ms <= u64::try_from(began.elapsed().as_millis()).unwrap(), "{seen:?}");

    let longest = looked_at(&stack, &hung, (State::Running, BOOTED)).await;
    assert!(longest < AT_ONCE, "{longest:?}");
    let during = latency(&stack, &other).await;
    for (what, before, during) in
        [("look", before.look, during.look), ("suspend/resume", before.command, during.command)]
    {
        figure(&format!(
            "another guest's {what}, median/p99: {:?}/{:?}, while a QEMU hangs {:?}/{:?}",
            before[0], before[1], during[0], during[1]
        ));
        // Had anything waited for the hung one, it would be seconds.
        assert!(during[0] < before[0] * 5 + Duration::from_millis(20), "{what}: {before:?} {during:?}");
        assert!(during[1] < before[1] * 5 + Duration::from_millis(500), "{what}: {before:?} {during:?}");
    }

    let mut calls = calls.into_iter();
    let (error, took) = calls.next().unwrap().await.unwrap();
    assert_names(&error, &["hung", "QEMU did not answer", "'stop'"]);
    assert!(took < ONE_COMMAND, "{took:?}");
    for call in calls {
        let (error, took) = call.await.unwrap();
        // Named by the monitor or by the mailbox, whichever comes first: never by the caller's own clock.
        assert_names(&error, &["hung"]);
        assert!(took <= wire::table::domain::domain_reset::INFO.deadline, "{took:?}");
    }

    // Others still wait for it when it is destroyed.
    let waits = tokio::spawn(call(stack.clone(), hung.clone(), 0));
    busy(&stack, &hung, 0).await;
    let began = Instant::now();
    stack.domains().domain_destroy_flags(hung.clone(), 0).await.unwrap();
    let took = began.elapsed();
    figure(&format!("destroy of a guest whose QEMU hangs: {} ms", took.as_millis()));
    assert!(took < AT_ONCE, "{took:?}");
    wait_gone(&[pid], Duration::ZERO);
    assert_eq!(state(&stack, &hung).await, (State::Shutoff as i32, DESTROYED));
    let (error, _) = waits.await.unwrap();
    assert!(error.message.contains("hung"), "{error}");

    // It starts as if nothing had been.
    start(&stack, &hung).await;
    for guest in [hung, other] {
        stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    }
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn what_waits_behind_a_hung_qemu_for_too_long_is_told_for_what_and_taken_back() {
    if guest_files().is_none() {
        return skip("no guest files; tools/guest/build makes them");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let hung = define(&stack, &root, "hung").await;
    start(&stack, &hung).await;
    let pid = process(root.path(), &hung).await;
    kill(pid, Signal::SIGSTOP);
    let mut calls = Vec::new();
    for _ in 0..4 {
        let (domains, guest) = (stack.domains(), hung.clone());
        let began = Instant::now();
        calls.push(tokio::spawn(async move {
            (domains.domain_reset(guest, 0).await.unwrap_err(), began.elapsed())
        }));
    }
    let mut waited_behind = 0;
    for call in calls {
        let (error, took) = call.await.unwrap();
        assert_names(&error, &["hung"]);
        assert!(took <= wire::table::domain::domain_reset::INFO.deadline, "{took:?}");
        if error.message.contains("was not begun") {
            assert_names(&error, &["domain_reset", "it waits for domain_reset"]);
            waited_behind += 1;
        }
    }
    // Two have QEMU's five seconds within their ten, the others do not get that far.
    assert!(waited_behind >= 2, "{waited_behind}");
    // It was only slow: what was asked is done, what was taken back is not, and everything goes on.
    kill(pid, Signal::SIGCONT);
    wait_for("it answers again", SOON, || async {
        stack.domains().domain_suspend(hung.clone()).await.map_err(|error| error.message)
    })
    .await;
    assert_eq!(state(&stack, &hung).await.0, State::Paused as i32);
    stack.domains().domain_destroy_flags(hung, 0).await.unwrap();
    stack.stop().await.unwrap();
}

/// Starts a guest and stops its QEMU before it has said a word; gives the call that waits, and the process.
async fn hang_at_start(
    stack: &Connection,
    root: &Root,
    guest: &DomainRef,
) -> (tokio::task::JoinHandle<Result<DomainRef, Error>>, u32) {
    loop {
        let (domains, started) = (stack.domains(), guest.clone());
        let starting = tokio::spawn(async move { domains.domain_create_with_flags(started, 0).await });
        let pid = process(root.path(), guest).await;
        kill(pid, Signal::SIGSTOP);
        // The start may have been quicker; then it is no start that hangs.
        let hangs = wait_for("the start hangs or has ended", SOON, || async {
            if starting.is_finished() {
                return Ok(false);
            }
            let busy = busy_now(stack, guest, 0).await?;
            if busy.since_ms > 1000 { Ok(true) } else { Err(format!("{busy:?}")) }
        })
        .await;
        if hangs {
            return (starting, pid);
        }
        stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_qemu_that_hangs_while_it_is_started_is_seen_and_destroyed_at_once() {
    if guest_files().is_none() {
        return skip("no guest files; tools/guest/build makes them");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let guest = define(&stack, &root, "hung").await;
    // What QEMU can do is known from then on: the next start is QEMU's alone.
    start(&stack, &guest).await;
    stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();

    let (starting, pid) = hang_at_start(&stack, &root, &guest).await;
    looked_at(&stack, &guest, (State::Paused, STARTING_UP)).await;
    assert_eq!(busy(&stack, &guest, 0).await.operation, "domain_create");
    let again = stack.domains().domain_create_with_flags(guest.clone(), 0).await.unwrap_err();
    assert_eq!(again.code, Code::OPERATION_INVALID, "{again}");

    let began = Instant::now();
    stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
    let took = began.elapsed();
    figure(&format!("destroy of a guest whose QEMU hangs at its start: {} ms", took.as_millis()));
    assert!(took < AT_ONCE, "{took:?}");
    let error = starting.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::OPERATION_ABORTED, "{error}");
    assert!(error.message.contains("'hung' was destroyed"), "{error}");
    assert!(!runs(pid));
    assert_eq!(state(&stack, &guest).await, (State::Shutoff as i32, DESTROYED));
    assert!(root.helpers_gone());
    start(&stack, &guest).await;
    stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_whose_qemu_never_answers_fails_in_time_and_leaves_nothing() {
    if guest_files().is_none() {
        return skip("no guest files; tools/guest/build makes them");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let guest = define(&stack, &root, "hung").await;
    start(&stack, &guest).await;
    stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
    let began = Instant::now();
    let (starting, pid) = hang_at_start(&stack, &root, &guest).await;
    let error = starting.await.unwrap().unwrap_err();
    assert_names(&error, &["hung", "QEMU did not answer"]);
    assert!(began.elapsed() < wire::table::domain::domain_create_with_flags::INFO.deadline);
    assert!(!runs(pid));
    assert_eq!(state(&stack, &guest).await, (State::Shutoff as i32, FAILED));
    start(&stack, &guest).await;
    stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_qemu_that_hangs_is_adopted_as_it_was_and_served_when_it_answers_again() {
    if guest_files().is_none() {
        return skip("no guest files; tools/guest/build makes them");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let (hung, other) = (define(&stack, &root, "hung").await, define(&stack, &root, "other").await);
    start(&stack, &hung).await;
    start(&stack, &other).await;
    let pid = process(root.path(), &hung).await;
    kill(pid, Signal::SIGSTOP);
    for round in 0..2 {
        let (old, _) = driver(&stack, "qemu").await.unwrap();
        kill(old, Signal::SIGKILL);
        let began = Instant::now();
        // The next incarnation does not wait for it, nor do those who look.
        looked_at(&stack, &hung, (State::Running, if round == 0 { BOOTED } else { UNPAUSED })).await;
        let took = began.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
        assert_ne!(driver(&stack, "qemu").await.unwrap().0, old);
        // The other one's monitor is attached by then, or waited for.
        stack.domains().domain_suspend(other.clone()).await.unwrap();
        stack.domains().domain_resume(other.clone()).await.unwrap();
        let began = Instant::now();
        let error = stack.domains().domain_suspend(hung.clone()).await.unwrap_err();
        assert_names(&error, &["hung", "QEMU does not answer"]);
        assert!(began.elapsed() < ONE_COMMAND, "{:?}", began.elapsed());
        if round == 0 {
            // It was only slow.
            kill(pid, Signal::SIGCONT);
            stack.domains().domain_suspend(hung.clone()).await.unwrap();
            stack.domains().domain_resume(hung.clone()).await.unwrap();
            kill(pid, Signal::SIGSTOP);
        }
    }
    let began = Instant::now();
    stack.domains().domain_destroy_flags(hung.clone(), 0).await.unwrap();
    let took = began.elapsed();
    figure(&format!("destroy of an adopted guest whose QEMU hangs: {} ms", took.as_millis()));
    assert!(took < AT_ONCE, "{took:?}");
    assert!(!runs(pid));
    stack.domains().domain_destroy_flags(domain(&stack, "other").await.unwrap(), 0).await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_that_hangs_is_undone_when_its_driver_dies() {
    if guest_files().is_none() {
        return skip("no guest files; tools/guest/build makes them");
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let guest = define(&stack, &root, "hung").await;
    start(&stack, &guest).await;
    stack.domains().domain_destroy_flags(guest.clone(), 0).await.unwrap();
    let (starting, pid) = hang_at_start(&stack, &root, &guest).await;
    let (old, _) = driver(&stack, "qemu").await.unwrap();
    kill(old, Signal::SIGKILL);
    let error = starting.await.unwrap().unwrap_err();
    assert!(error.message.contains("ended while it served"), "{error}");
    // The first call that is answered is answered by an incarnation that has put things in order.
    assert_eq!(state(&stack, &guest).await.0, State::Shutoff as i32);
    assert!(!runs(pid));
    start(&stack, &guest).await;
    stack.domains().domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}
