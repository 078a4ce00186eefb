//! The shell, against peers that follow a script. Time is paused: it moves only when everybody waits.

use crate::monitor::{
    Cause, Entry, EventKind, Limits, Monitor, MonitorError, Notice, Options, Plain, Transport,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio::sync::mpsc;

const SECOND: Duration = Duration::from_secs(1);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 4, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}"#;
const STOP: &str = r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#;

/// QEMU's end.
struct Peer(BufReader<DuplexStream>);

impl Peer {
    async fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// The next request: its command and its id.
    async fn hear(&mut self) -> (String, Value) {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await.unwrap();
        let start = usize::from(line.first() == Some(&0xff));
        let mut request: Value = serde_json::from_slice(&line[start..]).unwrap();
        (request["execute"].as_str().unwrap().to_owned(), request["id"].take())
    }

    async fn reply(&mut self, id: &Value, value: Value) {
        self.say(&json!({"return": value, "id": id}).to_string()).await;
    }

    async fn greet(&mut self) {
        self.say(GREETING).await;
        let (command, id) = self.hear().await;
        assert_eq!(command, "qmp_capabilities");
        self.reply(&id, json!({})).await;
    }

    async fn is_left(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap();
    }
}

fn ends() -> (Plain<DuplexStream>, Peer) {
    let (ours, theirs) = duplex(1 << 16);
    (Plain(ours), Peer(BufReader::new(theirs)))
}

async fn attached(options: Options, room: usize) -> (Monitor, Peer, mpsc::Receiver<Notice>) {
    let (stream, mut peer) = ends();
    let (sender, events) = mpsc::channel(room);
    let (monitor, ()) = tokio::join!(Monitor::attach(stream, sender, options), peer.greet());
    (monitor.unwrap(), peer, events)
}

async fn fresh() -> (Monitor, Peer, mpsc::Receiver<Notice>) {
    attached(Options::new(Entry::Fresh), 16).await
}

fn offence<T: std::fmt::Debug>(result: Result<T, MonitorError>) -> String {
    match result {
        Err(MonitorError::Closed { cause: Cause::Offence(reason), .. }) => reason,
        other => panic!("expected an offence, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn greets_negotiates_and_answers_out_of_order() {
    let (monitor, mut peer, _events) = fresh().await;
    assert_eq!((monitor.version().major, monitor.version().minor), (7, 2));
    let script = async {
        let (first, first_id) = peer.hear().await;
        let (second, second_id) = peer.hear().await;
        assert_eq!((first.as_str(), second.as_str()), ("query-status", "query-name"));
        peer.reply(&second_id, json!({"name": "guest"})).await;
        peer.reply(&first_id, json!({"running": true, "status": "running"})).await;
    };
    let commands = monitor.within(SECOND);
    let (status, name, ()) = tokio::join!(biased;commands.query_status(), commands.query_name(), script);
    assert!(status.unwrap().running);
    assert_eq!(name.unwrap().as_deref(), Some("guest"));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_names_command_and_time_and_the_late_reply_is_dropped() {
    let (monitor, mut peer, _events) = fresh().await;
    let (error, (_, late)) = tokio::join!(monitor.within(3 * SECOND).stop(), peer.hear());
    let error = error.unwrap_err();
    let (command, after) = ("stop".to_owned(), 3 * SECOND);
    assert_eq!(error, MonitorError::Deadline { command, after });
    assert!(error.to_string().contains("'stop' within 3s"), "{error}");
    peer.reply(&late, json!({})).await;
    let script = async {
        let (_, id) = peer.hear().await;
        peer.reply(&id, json!({})).await;
    };
    let (answer, ()) = tokio::join!(monitor.within(SECOND).cont(), script);
    answer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_never_written_is_taken_back() {
    let (ours, theirs) = duplex(256);
    let mut peer = Peer(BufReader::with_capacity(1, theirs));
    let (sender, _events) = mpsc::channel(1);
    let options = Options::new(Entry::Fresh);
    let (monitor, ()) = tokio::join!(Monitor::attach(Plain(ours), sender, options), peer.greet());
    let monitor = monitor.unwrap();
    let long = json!({"x": "x".repeat(1000)});
    let (first, second) = tokio::join!(biased;
        monitor.execute("first", long, SECOND),
        monitor.execute("second", Value::Null, SECOND)
    );
    assert!(matches!(first, Err(MonitorError::Deadline { .. })), "{first:?}");
    assert!(matches!(second, Err(MonitorError::Deadline { .. })), "{second:?}");
    let script = async {
        let (command, id) = peer.hear().await;
        assert_eq!(command, "first", "it was begun, so it must be ended");
        peer.reply(&id, json!({})).await;
        let (command, id) = peer.hear().await;
        assert_eq!(command, "third", "the second was taken back");
        peer.reply(&id, json!(3)).await;
    };
    let (third, ()) = tokio::join!(monitor.execute("third", Value::Null, SECOND), script);
    assert_eq!(third, Ok(json!(3)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_class_and_text() {
    let (monitor, mut peer, _events) = fresh().await;
    let script = async {
        let (_, id) = peer.hear().await;
        let error = json!({"class": "DeviceNotActive", "desc": "no balloon"});
        peer.say(&json!({"error": error, "id": id}).to_string()).await;
        let (_, id) = peer.hear().await;
        peer.reply(&id, json!({"actual": "much"})).await;
    };
    let calls = async {
        let refused = monitor.within(SECOND).query_balloon().await.unwrap_err();
        assert!(matches!(&refused, MonitorError::Refused { class, .. } if class == "DeviceNotActive"));
        let wrong = monitor.within(SECOND).query_balloon().await.unwrap_err();
        assert!(matches!(&wrong, MonitorError::Answer { .. }), "{wrong:?}");
    };
    tokio::join!(calls, script);
}

#[tokio::test(start_paused = true)]
async fn garbage_closes_the_connection_and_everyone_learns_why() {
    let (monitor, mut peer, mut events) = fresh().await;
    let script = async {
        peer.hear().await;
        peer.hear().await;
        peer.say(STOP).await;
        peer.say("garbage").await;
        peer.is_left().await;
    };
    let commands = monitor.within(SECOND);
    let (first, second, ()) = tokio::join!(commands.stop(), commands.cont(), script);
    assert!(offence(first).contains("not a JSON object"));
    assert!(offence(second).contains("not a JSON object"));
    assert!(offence(monitor.within(SECOND).stop().await).contains("not a JSON object"));
    assert!(matches!(monitor.closed().await, Cause::Offence(_)));
    assert!(matches!(events.recv().await, Some(Notice::Event(event)) if event.kind == EventKind::Stop));
    assert_eq!(events.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_id_and_an_endless_line_close_the_connection() {
    let (monitor, mut peer, _events) = fresh().await;
    let script = async {
        peer.hear().await;
        peer.reply(&json!("nobody's"), json!({})).await;
    };
    let (answer, ()) = tokio::join!(monitor.within(SECOND).stop(), script);
    assert!(offence(answer).contains("nobody's"));

    let mut options = Options::new(Entry::Fresh);
    options.limits.line = 100_000;
    let (monitor, mut peer, _events) = attached(options, 1).await;
    let flood = async { while peer.0.write_all(&[b'x'; 4096]).await.is_ok() {} };
    let (cause, ()) = tokio::join!(monitor.closed(), flood);
    assert!(matches!(cause, Cause::Offence(reason) if reason.contains("100000 bytes")));
}

#[tokio::test(start_paused = true)]
async fn end_of_file_is_told_and_is_what_quit_wants() {
    let (monitor, mut peer, _events) = fresh().await;
    let script = async {
        peer.hear().await;
        peer.hear().await;
        drop(peer);
    };
    let commands = monitor.within(SECOND);
    let (stop, quit, ()) = tokio::join!(commands.stop(), commands.quit(), script);
    let cause = Cause::EndOfFile;
    let command = "stop".to_owned();
    assert_eq!(stop, Err(MonitorError::Closed { command, cause }));
    assert_eq!(quit, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_lags_is_told_and_blocks_nobody() {
    let (monitor, mut peer, mut events) = attached(Options::new(Entry::Fresh), 4).await;
    let script = async {
        for _ in 0..10_000 {
            peer.say(STOP).await;
        }
        let (_, id) = peer.hear().await;
        peer.reply(&id, json!({})).await;
    };
    let (answer, ()) = tokio::join!(monitor.within(SECOND).cont(), script);
    answer.unwrap();
    for _ in 0..4 {
        assert!(matches!(events.recv().await, Some(Notice::Event(_))));
    }
    assert_eq!(events.recv().await, Some(Notice::Lagged(9_996)));
    peer.say(STOP).await;
    assert!(matches!(events.recv().await, Some(Notice::Event(_))));
    // The marker comes even when the connection ends first.
    for _ in 0..7 {
        peer.say(STOP).await;
    }
    drop(peer);
    assert_eq!(monitor.closed().await, Cause::EndOfFile);
    for _ in 0..4 {
        assert!(matches!(events.recv().await, Some(Notice::Event(_))));
    }
    assert_eq!(events.recv().await, Some(Notice::Lagged(3)));
    assert_eq!(events.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_left_blocks_nobody() {
    let (monitor, mut peer, events) = attached(Options::new(Entry::Fresh), 1).await;
    drop(events);
    let script = async {
        for _ in 0..100 {
            peer.say(STOP).await;
        }
        let (_, id) = peer.hear().await;
        peer.reply(&id, json!({})).await;
    };
    let (answer, ()) = tokio::join!(monitor.within(SECOND).cont(), script);
    answer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_refused() {
    let mut options = Options::new(Entry::Fresh);
    options.limits = Limits { pending: 2, ..options.limits };
    let (monitor, _peer, _events) = attached(options, 1).await;
    let commands = monitor.within(SECOND);
    let (first, second, third) = tokio::join!(biased;commands.stop(), commands.stop(), commands.cont());
    assert!(matches!(first, Err(MonitorError::Deadline { .. })));
    assert!(matches!(second, Err(MonitorError::Deadline { .. })));
    let command = "cont".to_owned();
    assert_eq!(third, Err(MonitorError::Busy { command, pending: 2 }));
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_sent_is_refused_alone() {
    let (monitor, mut peer, _events) = fresh().await;
    let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = monitor.within(SECOND).getfd("x", end.into()).await.unwrap_err();
    assert!(matches!(error, MonitorError::Unsendable { .. }), "{error:?}");
    let error = monitor.execute("stop", json!([1]), SECOND).await.unwrap_err();
    assert!(matches!(error, MonitorError::Unsendable { .. }), "{error:?}");
    let script = async {
        let (_, id) = peer.hear().await;
        peer.reply(&id, json!({})).await;
    };
    let (answer, ()) = tokio::join!(monitor.within(SECOND).stop(), script);
    answer.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_connection() {
    let (monitor, mut peer, mut events) = fresh().await;
    let other = monitor.clone();
    drop(monitor);
    let script = async {
        let (_, id) = peer.hear().await;
        peer.reply(&id, json!({})).await;
    };
    let (answer, ()) = tokio::join!(other.within(SECOND).stop(), script);
    answer.unwrap();
    drop(other);
    peer.is_left().await;
    assert_eq!(events.recv().await, None);
}

async fn attach<T: Transport>(stream: T, entry: Entry) -> Result<Monitor, MonitorError> {
    let (sender, _events) = mpsc::channel(1);
    Monitor::attach(stream, sender, Options::new(entry)).await
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_fails_says_so() {
    let (stream, _peer) = ends();
    let error = attach(stream, Entry::Fresh).await.unwrap_err();
    assert!(matches!(error, MonitorError::Deadline { .. }), "{error:?}");

    let (stream, peer) = ends();
    drop(peer);
    let error = attach(stream, Entry::Fresh).await.unwrap_err();
    assert!(matches!(&error, MonitorError::Closed { cause: Cause::EndOfFile, .. }), "{error:?}");

    let (stream, mut peer) = ends();
    peer.say("{\"return\": {}}").await;
    assert!(offence(attach(stream, Entry::Fresh).await).contains("not a greeting"));

    let (stream, mut peer) = ends();
    let script = async {
        peer.say(GREETING).await;
        let (_, id) = peer.hear().await;
        let error = json!({"class": "CommandNotFound", "desc": "already complete"});
        peer.say(&json!({"error": error, "id": id}).to_string()).await;
    };
    let (answer, ()) = tokio::join!(attach(stream, Entry::Fresh), script);
    assert!(matches!(answer, Err(MonitorError::Refused { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn adopts_a_connection_in_either_state() {
    for negotiated in [true, false] {
        let (stream, mut peer) = ends();
        let script = async {
            if negotiated {
                peer.say("e\"}, \"id\": \"half\"}").await;
                peer.say("{\"return\": {}, \"id\": \"stale\"}").await;
            } else {
                peer.say(GREETING).await;
            }
            let (command, id) = peer.hear().await;
            assert_eq!(command, "qmp_capabilities");
            peer.say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}").await;
            if negotiated {
                let error = json!({"class": "CommandNotFound", "desc": "already complete"});
                peer.say(&json!({"error": error, "id": id}).to_string()).await;
            } else {
                peer.reply(&id, json!({})).await;
            }
            let (command, id) = peer.hear().await;
            assert_eq!(command, "query-version");
            let qemu = json!({"major": 8, "minor": 2, "micro": 1});
            peer.reply(&id, json!({"qemu": qemu, "package": ""})).await;
        };
        let (monitor, ()) = tokio::join!(attach(stream, Entry::Adopted), script);
        assert_eq!(monitor.unwrap().version().major, 8);
    }
}
