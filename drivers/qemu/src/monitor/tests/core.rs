//! The pure core.

use crate::monitor::error::Cause;
use crate::monitor::event::{Event, EventKind, Timestamp};
use crate::monitor::message::{Message, Refusal};
use crate::monitor::options::{Entry, Limits};
use crate::monitor::table::{Action, State};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const GREETING: &[u8] =
    b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n";

fn state(entry: Entry) -> State<&'static str> {
    State::new(entry, Limits::default(), 0xabc)
}

fn ready() -> State<&'static str> {
    let mut state = state(Entry::Fresh);
    say(&mut state, GREETING).unwrap();
    state
}

fn say(state: &mut State<&'static str>, bytes: &[u8]) -> Result<Vec<Action<&'static str>>, Cause> {
    let mut actions = Vec::new();
    state.on_bytes(bytes, &mut actions).map(|()| actions)
}

fn ask(state: &mut State<&'static str>, ticket: &'static str, deadline: Instant) -> String {
    let (_, line) = state.request("x", &Value::Null, deadline, ticket).unwrap();
    let start = usize::from(line.first() == Some(&0xff));
    let request: Value = serde_json::from_slice(&line[start..]).unwrap();
    request["id"].as_str().unwrap().to_owned()
}

fn reply(id: &str, value: &Value) -> Vec<u8> {
    format!("{}\r\n", json!({"return": value, "id": id})).into_bytes()
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn offence(result: Result<Vec<Action<&'static str>>, Cause>) -> String {
    match result {
        Err(Cause::Offence(reason)) => reason,
        other => panic!("expected an offence, got {other:?}"),
    }
}

#[test]
fn the_request_is_one_line_with_id_and_arguments() {
    let mut state = ready();
    let arguments = json!({"a": "line\nbreak"});
    let (_, line) = state.request("x", &arguments, later(), "a").unwrap();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(line.last(), Some(&b'\n'));
    let request: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(request, json!({"execute": "x", "arguments": arguments, "id": "0000000000000abc-0"}));
}

#[test]
fn replies_find_their_requests_in_any_order_and_in_pieces() {
    let mut state = ready();
    let first = ask(&mut state, "first", later());
    let second = ask(&mut state, "second", later());
    let mut bytes = reply(&second, &json!(2));
    bytes.extend(reply(&first, &json!(1)));
    let mut actions = Vec::new();
    for byte in bytes {
        state.on_bytes(&[byte], &mut actions).unwrap();
    }
    assert_eq!(actions, [Action::Answer("second", Ok(json!(2))), Action::Answer("first", Ok(json!(1)))]);
    assert_eq!(state.pending(), 0);
}

#[test]
fn a_late_reply_is_dropped_once_and_a_second_one_is_an_offence() {
    let mut state = ready();
    let now = Instant::now();
    let id = ask(&mut state, "late", now + Duration::from_secs(1));
    assert_eq!(state.next_deadline(), Some(now + Duration::from_secs(1)));
    assert!(state.on_deadline(now).is_empty());
    assert_eq!(state.on_deadline(now + Duration::from_secs(1)), [(0, "late")]);
    assert!(state.on_deadline(now + Duration::from_secs(2)).is_empty());
    assert_eq!(state.next_deadline(), None);
    assert_eq!(state.pending(), 1);
    assert_eq!(say(&mut state, &reply(&id, &json!({}))), Ok(vec![]));
    assert_eq!(state.pending(), 0);
    assert!(offence(say(&mut state, &reply(&id, &json!({})))).contains("nobody waits"));
}

#[test]
fn requests_without_reply_are_bounded_late_ones_included() {
    let limits = Limits { pending: 2, ..Limits::default() };
    let mut state = State::new(Entry::Fresh, limits, 1);
    let now = Instant::now();
    assert!(state.request("x", &Value::Null, now, "a").is_ok());
    assert_eq!(state.on_deadline(now).len(), 1);
    assert!(state.request("x", &Value::Null, now, "b").is_ok());
    assert_eq!(state.request("x", &Value::Null, now, "c"), Err("c"));
    assert_eq!(state.withdraw(1), Some("b"));
    assert!(state.request("x", &Value::Null, now, "d").is_ok());
    assert_eq!(state.abandon(), ["d"]);
}

#[test]
fn breaches_of_the_protocol_are_offences() {
    for line in [
        "garbage",
        "",
        "[]",
        "{}",
        "{\"return\": {}}",
        "{\"return\": {}, \"id\": 0}",
        "{\"return\": {}, \"id\": \"0000000000000abc-1\"}",
        "{\"return\": {}, \"id\": \"0000000000000abc-+0\"}",
        "{\"return\": {}, \"id\": \"0000000000000abc-00\"}",
        "{\"return\": {}, \"id\": \"0000000000000abd-0\"}",
        "{\"return\": {}, \"error\": {}, \"id\": \"0000000000000abc-0\"}",
        "{\"error\": \"x\", \"id\": \"0000000000000abc-0\"}",
        "{\"error\": {\"class\": 1, \"desc\": \"x\"}, \"id\": \"0000000000000abc-0\"}",
        "{\"event\": 1, \"timestamp\": {\"seconds\": 1, \"microseconds\": 1}}",
        "{\"event\": \"STOP\"}",
        "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": \"1\", \"microseconds\": 1}}",
        "{\"event\": \"X\", \"data\": 1, \"timestamp\": {\"seconds\": 1, \"microseconds\": 1}}",
        "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": 1}, \"timestamp\": {\"seconds\": 1, \"microseconds\": 1}}",
        "{\"return\": \"\u{0}\", \"id\": \"0000000000000abc-0\"}",
    ] {
        let mut state = ready();
        ask(&mut state, "a", later());
        let reason = offence(say(&mut state, format!("{line}\r\n").as_bytes()));
        assert!(!reason.is_empty() && !reason.contains('\n'), "{line}: {reason}");
    }
    let mut state = ready();
    assert!(offence(say(&mut state, GREETING)).contains("second time"));
    let mut state = self::state(Entry::Fresh);
    assert!(offence(say(&mut state, &reply("x", &json!(1)))).contains("not a greeting"));
}

#[test]
fn lines_are_bounded_in_length_depth_and_values() {
    let limits =
        Limits { line: 1000, greeting: 300, event: 500, nesting: 4, values: 20, ..Limits::default() };
    let fresh = || State::new(Entry::Fresh, limits, 0xabc);
    // Without a newline: the bound does not wait for one.
    assert!(offence(say(&mut fresh(), &[b' '; 301])).contains("300 bytes"));
    let ready = || {
        let mut state = fresh();
        say(&mut state, GREETING).unwrap();
        ask(&mut state, "a", later());
        state
    };
    assert_eq!(say(&mut ready(), &[b' '; 1000]), Ok(vec![]));
    assert!(offence(say(&mut ready(), &[b' '; 1001])).contains("1000 bytes"));

    let id = "0000000000000abc-0";
    assert!(say(&mut ready(), &reply(id, &json!([[["[[[[[[\\\"["]]]))).is_ok());
    assert!(offence(say(&mut ready(), &reply(id, &json!([[[[]]]])))).contains("deeper"));
    assert!(say(&mut ready(), &reply(id, &json!([0; 16].as_slice()))).is_ok());
    assert!(offence(say(&mut ready(), &reply(id, &json!(vec![0; 30])))).contains("values"));

    let event = |length| {
        let data = json!({"x": "x".repeat(length)});
        let at = json!({"seconds": 1, "microseconds": 2});
        format!("{}\n", json!({"event": "X", "data": data, "timestamp": at})).into_bytes()
    };
    assert!(say(&mut ready(), &event(100)).is_ok());
    assert!(offence(say(&mut ready(), &event(500))).contains("event is longer"));
}

#[test]
fn an_adopted_connection_drops_leftovers_but_not_events() {
    let mut state = state(Entry::Adopted);
    let (_, line) = state.request("x", &Value::Null, later(), "mine").unwrap();
    assert_eq!(line.first(), Some(&0xff), "half a request must be cut off");
    let mut bytes = b"rn\": {}, \"id\": \"0000000000000abc-0\"}\r\n\r\n".to_vec();
    bytes.extend_from_slice(GREETING);
    bytes.extend(reply("0000000000000123-0", &json!({"stale": true})));
    bytes
        .extend_from_slice(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\r\n");
    bytes.extend_from_slice(
        b"{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5, \"microseconds\": -1}}\r\n",
    );
    bytes.extend(reply("0000000000000abc-0", &json!({})));
    let at = Timestamp { seconds: 5, microseconds: -1 };
    let stop = Event { at, name: "STOP".to_owned(), data: serde_json::Map::new(), kind: EventKind::Stop };
    assert_eq!(say(&mut state, &bytes), Ok(vec![Action::Event(stop), Action::Answer("mine", Ok(json!({})))]));
    // From here on it is as strict as any other.
    offence(say(&mut state, &reply("0000000000000123-1", &json!({}))));
    let (_, line) = state.request("x", &Value::Null, later(), "next").unwrap();
    assert_eq!(line.first(), Some(&b'{'));
}

#[test]
fn a_refusal_is_quoted_short_and_on_one_line() {
    let description = format!("a\nb\u{1b}{}", "x".repeat(10_000));
    let line = json!({"error": {"class": "GenericError", "desc": description}, "id": 1}).to_string();
    match Message::read(line.as_bytes(), &Limits::default()) {
        Ok(Message::Reply { result: Err(Refusal { class, description }), .. }) => {
            assert_eq!(class, "GenericError");
            assert!(description.starts_with("a b xx") && description.len() < 600, "{description}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn events_have_types() {
    let read = |name: &str, data: Value| {
        let at = json!({"seconds": 1, "microseconds": 2});
        let line = json!({"event": name, "data": data, "timestamp": at}).to_string();
        match Message::read(line.as_bytes(), &Limits::default()) {
            Ok(Message::Event(event)) => event.kind,
            other => panic!("{name}: {other:?}"),
        }
    };
    let kind = read("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"}));
    assert!(matches!(kind, EventKind::Shutdown(it) if it.guest && it.reason == "guest-shutdown"));
    let kind = read("RESET", json!({"guest": false, "reason": "host-qmp-system-reset", "new": 1}));
    assert!(matches!(kind, EventKind::Reset(it) if !it.guest));
    for (name, expected) in [
        ("STOP", EventKind::Stop),
        ("RESUME", EventKind::Resume),
        ("POWERDOWN", EventKind::Powerdown),
        ("SUSPEND", EventKind::Suspend),
        ("SUSPEND_DISK", EventKind::SuspendDisk),
        ("WAKEUP", EventKind::Wakeup),
    ] {
        assert_eq!(read(name, json!({})), expected);
    }
    let kind = read("GUEST_PANICKED", json!({"action": "pause"}));
    assert!(matches!(kind, EventKind::GuestPanicked(it) if it.action == "pause" && it.info.is_none()));
    let kind = read("WATCHDOG", json!({"action": "reset"}));
    assert!(matches!(kind, EventKind::Watchdog(it) if it.action == "reset"));
    let kind = read(
        "BLOCK_IO_ERROR",
        json!({"device": "", "node-name": "n", "operation": "write", "action": "stop", "nospace": true, "reason": "full"}),
    );
    assert!(
        matches!(kind, EventKind::BlockIoError(it) if it.nospace == Some(true) && it.node_name.as_deref() == Some("n"))
    );
    let kind = read("RTC_CHANGE", json!({"offset": -78, "qom-path": "/machine/rtc"}));
    assert!(matches!(kind, EventKind::RtcChange(it) if it.offset == -78));
    let kind = read("DEVICE_DELETED", json!({"path": "/machine/peripheral/x"}));
    assert!(matches!(kind, EventKind::DeviceDeleted(it) if it.device.is_none()));
    let kind = read("DEVICE_TRAY_MOVED", json!({"device": "", "id": "cd", "tray-open": true}));
    assert!(matches!(kind, EventKind::TrayMoved(it) if it.tray_open && it.id == "cd"));
    let kind = read("BALLOON_CHANGE", json!({"actual": 1_u64 << 40}));
    assert!(matches!(kind, EventKind::BalloonChange(it) if it.actual == 1 << 40));
    let kind = read("VSERPORT_CHANGE", json!({"id": "agent", "open": true}));
    assert!(matches!(kind, EventKind::PortChange(it) if it.open));
    let kind = read("NEW_ONE", json!({"a": 1}));
    assert!(matches!(kind, EventKind::Other { name, data } if name == "NEW_ONE" && data["a"] == 1));
}

/// Fragments that get further than random bytes would.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        Just(GREETING.to_vec()),
        Just(b"{\"return\": {}, \"id\": \"0000000000000007-0\"}\r\n".to_vec()),
        Just(b"{\"return\": [[[[[[\r\n".to_vec()),
        Just(b"{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\n".to_vec()),
        Just(b"{\"error\": {\"class\": \"a\", \"desc\": \"b\"}}\n".to_vec()),
        "[\\[\\]{}\",:0-9a-z \\\\\n]{0,100}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_neither_panic_nor_exceed_bounds(
        adopted in any::<bool>(),
        fragments in proptest::collection::vec(fragment(), 0..20),
    ) {
        let limits = Limits { line: 400, greeting: 300, event: 200, nesting: 8, values: 50, pending: 2 };
        let entry = if adopted { Entry::Adopted } else { Entry::Fresh };
        let mut state = State::new(entry, limits, 7);
        let now = Instant::now();
        prop_assert!(state.request("x", &Value::Null, now, 0).is_ok());
        let mut answers = 0;
        for bytes in fragments {
            let mut actions = Vec::new();
            let result = state.on_bytes(&bytes, &mut actions);
            answers += actions.iter().filter(|action| matches!(action, Action::Answer(..))).count();
            prop_assert!(state.held() <= limits.line);
            if result.is_err() {
                break;
            }
        }
        prop_assert!(answers <= 1, "one request, one answer");
        prop_assert_eq!(state.abandon().len(), 1 - answers);
    }

    #[test]
    fn what_is_cut_anywhere_means_the_same(cuts in proptest::collection::vec(1_usize..40, 1..40)) {
        let bytes = [
            GREETING,
            b"{\"event\": \"RESUME\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n",
            b"{\"return\": \"\xc3\xa4\", \"id\": \"0000000000000abc-0\"}\r\n",
        ].concat();
        let mut whole = state(Entry::Fresh);
        ask(&mut whole, "a", later());
        let expected = say(&mut whole, &bytes).unwrap();
        prop_assert_eq!(expected.len(), 3);
        let mut state = state(Entry::Fresh);
        ask(&mut state, "a", later());
        let (mut rest, mut actions) = (bytes.as_slice(), Vec::new());
        for cut in cuts.iter().cycle() {
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            state.on_bytes(head, &mut actions).unwrap();
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(actions, expected);
    }
}
