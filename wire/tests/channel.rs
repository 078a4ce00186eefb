//! Both ends of a channel, over a real socket pair; where a peer misbehaves, the test is that peer.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_wire::channel::{CREDIT, Caller, EventSink, Serve, serve};
use bulkhead_wire::codec;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::{Header, Kind, Token};
use bulkhead_wire::link::{self, LinkError, LinkReader, LinkWriter};
use bulkhead_wire::table::{CallContext, CallInfo, Class, Driver, Permission, REVISION};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

const fn info(operation: u16, name: &'static str) -> CallInfo {
    CallInfo { operation, name, driver: Driver::Qemu, deadline: Duration::from_secs(20), ..CallInfo::DEFAULT }
}

const ECHO: CallInfo = info(1, "echo");
const WAIT: CallInfo = info(2, "wait");
const SHORT: CallInfo = CallInfo { deadline: Duration::from_millis(60), ..info(3, "short") };
const LOOK: CallInfo =
    CallInfo { class: Class::Query, repeatable: true, permission: Permission::Read, ..info(4, "look") };
const SWAP: CallInfo = info(5, "swap");
const SUBSCRIBE: CallInfo = info(6, "subscribe");
const CALLS: &[CallInfo] = &[ECHO, WAIT, SHORT, LOOK, SWAP, SUBSCRIBE];

const WRITER: Token = Token([1; 16]);
const READER: Token = Token([2; 16]);

/// Counts a call for as long as it is being served.
struct Running(watch::Sender<usize>);

impl Running {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[derive(Default)]
struct Server {
    running: watch::Sender<usize>,
    release: Arc<Notify>,
    sink: Mutex<Option<EventSink>>,
}

impl Serve for Server {
    fn find(&self, operation: u16) -> Option<&'static CallInfo> {
        CALLS.iter().find(|info| info.operation == operation)
    }

    fn allow(&self, info: &CallInfo, token: Token) -> Result<(), Error> {
        let allowed = token == WRITER || (token == READER && info.permission == Permission::Read);
        let denied = || Error::new(Code::OPERATION_DENIED, Origin::RPC, format!("{} is refused", info.name));
        allowed.then_some(()).ok_or_else(denied)
    }

    fn serve(self: &Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        let server = Arc::clone(self);
        Box::pin(async move {
            match call.info.operation {
                2 | 3 => {
                    let _running = Running::begin(&server.running);
                    server.release.notified().await;
                    Ok((body, files))
                }
                5 => {
                    let file: Descriptor = codec::decode(&body, files).unwrap();
                    let mut peer = UnixStream::from(file.into_owned().unwrap());
                    peer.write_all(b"from the server").unwrap();
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    (&ours).write_all(b"from its own").unwrap();
                    Ok(codec::encode(&Descriptor::new(theirs.into())).unwrap())
                }
                6 => {
                    *server.sink.lock().unwrap() = Some(call.events.clone());
                    Ok(codec::encode(&()).unwrap())
                }
                _ => Ok((body, files)),
            }
        })
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (one, other) = UnixStream::pair().unwrap();
    (one.into(), other.into())
}

/// A caller with a link to a server, and how either end ends.
fn connected(token: Token) -> (Caller, Arc<Server>, tokio::task::JoinHandle<LinkError>) {
    let (ours, theirs) = pair();
    let (caller, server) = (Caller::new(Driver::Qemu), Arc::new(Server::default()));
    let serving = tokio::spawn(serve(theirs, Arc::clone(&server)));
    let running = caller.clone();
    tokio::spawn(async move { running.run(ours, token).await });
    (caller, server, serving)
}

/// A peer that is the test: speaks frames of its own.
async fn by_hand(socket: OwnedFd) -> (LinkReader, LinkWriter) {
    link::open(socket, REVISION).await.unwrap()
}

async fn running(server: &Server, wanted: usize) {
    let mut count = server.running.subscribe();
    let reached = tokio::time::timeout(Duration::from_secs(10), count.wait_for(|count| *count == wanted));
    reached
        .await
        .unwrap_or_else(|_| panic!("{} calls are served, not {wanted}", *server.running.borrow()))
        .unwrap();
}

fn call_header(info: &CallInfo, id: u64) -> Header {
    Header { operation: info.operation, id, token: WRITER, ..Header::new(Kind::Call) }
}

#[tokio::test]
async fn a_call_is_answered() {
    let (caller, _server, _serving) = connected(WRITER);
    let answer: String = caller.call(&ECHO, "hello".to_owned()).await.unwrap();
    assert_eq!(answer, "hello");
}

#[tokio::test]
async fn a_deadline_names_the_call_and_the_driver_and_frees_the_credit() {
    let (caller, server, _serving) = connected(WRITER);
    for _ in 0..2 * CREDIT {
        let calls = [(); 4].map(|()| caller.call::<_, u32>(&SHORT, 1u32));
        for call in calls {
            let error = call.await.unwrap_err();
            assert_eq!(error.code, Code::OPERATION_TIMEOUT);
            assert!(error.message.contains("short"), "{error}");
        }
        if server.running.borrow().eq(&0) {
            break;
        }
    }
    running(&server, 0).await;
    assert_eq!(caller.call::<_, u32>(&ECHO, 7u32).await.unwrap(), 7);
    // A server that says nothing at all.
    let (ours, theirs) = pair();
    let silent = Caller::new(Driver::Qemu);
    let run = silent.clone();
    tokio::spawn(async move { run.run(ours, WRITER).await });
    let _held = by_hand(theirs).await;
    let error = silent.call::<_, u32>(&SHORT, 1u32).await.unwrap_err();
    assert!(error.message.contains("short") && error.message.contains("qemu driver"), "{error}");
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_its_call() {
    let (caller, server, _serving) = connected(WRITER);
    let call = tokio::spawn(async move { caller.call::<_, u32>(&WAIT, 1u32).await });
    running(&server, 1).await;
    call.abort();
    running(&server, 0).await;
}

#[tokio::test]
async fn who_has_no_credit_waits_and_is_served_in_turn() {
    let (caller, server, _serving) = connected(WRITER);
    let calls: Vec<_> = (0..CREDIT)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.call::<_, u32>(&WAIT, 1u32).await })
        })
        .collect();
    running(&server, CREDIT).await;
    let mut next = Box::pin(caller.call::<_, u32>(&ECHO, 2u32));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
    assert!(early.is_err(), "call {} was not held back", CREDIT + 1);
    server.release.notify_one();
    assert_eq!(next.await.unwrap(), 2);
    for call in calls {
        call.abort();
    }
    running(&server, 0).await;
}

#[tokio::test]
async fn a_caller_that_takes_more_than_its_credit_loses_the_channel() {
    let (ours, theirs) = pair();
    let server = Arc::new(Server::default());
    let serving = tokio::spawn(serve(theirs, Arc::clone(&server)));
    let (_reader, mut writer) = by_hand(ours).await;
    for id in 0..=CREDIT as u64 {
        writer.write(call_header(&WAIT, id), &[], &[]).await.unwrap();
    }
    let end = serving.await.unwrap().to_string();
    assert!(end.contains(&format!("more than {CREDIT} calls")), "{end}");
    running(&server, 0).await;
}

#[tokio::test]
async fn frames_that_no_caller_sends_end_the_channel() {
    let unknown = Header { operation: 999, ..call_header(&ECHO, 1) };
    for (header, said) in [
        (Header::new(Kind::Reply), "does not send Reply"),
        (Header::new(Kind::Hello), "does not send Hello"),
        (Header::new(Kind::Control), "does not send Control"),
        (unknown, "unknown operation 999"),
    ] {
        let (ours, theirs) = pair();
        let serving = tokio::spawn(serve(theirs, Arc::new(Server::default())));
        let (_reader, mut writer) = by_hand(ours).await;
        writer.write(header, &[], &[]).await.unwrap();
        let end = serving.await.unwrap().to_string();
        assert!(end.contains(said), "{end}");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_awaits_is_ignored() {
    let (ours, theirs) = pair();
    let caller = Caller::new(Driver::Qemu);
    let run = caller.clone();
    tokio::spawn(async move { run.run(ours, WRITER).await });
    let (mut reader, mut writer) = by_hand(theirs).await;
    let reply = |id| Header { id, ..Header::new(Kind::Reply) };
    let gone = caller.clone();
    let gone = tokio::spawn(async move { gone.call::<_, u32>(&ECHO, 6u32).await });
    let late = reader.read().await.unwrap().header.id;
    gone.abort();
    assert_eq!(reader.read().await.unwrap().header.kind, Kind::Cancel);
    writer.write(reply(late), b"nonsense", &[]).await.unwrap();
    let call = tokio::spawn(async move { caller.call::<_, u32>(&ECHO, 7u32).await });
    let asked = reader.read().await.unwrap();
    assert!(asked.header.time_left_ms > 0 && asked.header.trace > 0);
    writer.write(reply(asked.header.id), &asked.body, &[]).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn only_what_may_be_repeated_is_sent_again() {
    let (ours, theirs) = pair();
    let caller = Caller::new(Driver::Qemu);
    let run = caller.clone();
    tokio::spawn(async move { run.run(ours, WRITER).await });
    let (mut reader, writer) = by_hand(theirs).await;
    let (one, other) = (caller.clone(), caller.clone());
    let change = tokio::spawn(async move { one.call::<_, u32>(&ECHO, 1u32).await });
    let look = tokio::spawn(async move { other.call::<_, u32>(&LOOK, 2u32).await });
    let mut names =
        [reader.read().await.unwrap(), reader.read().await.unwrap()].map(|frame| frame.header.operation);
    names.sort_unstable();
    assert_eq!(names, [ECHO.operation, LOOK.operation]);
    drop((reader, writer));
    let error = change.await.unwrap().unwrap_err();
    assert!(error.message.contains("qemu driver ended while it served echo"), "{error}");

    let (ours, theirs) = pair();
    let run = caller.clone();
    tokio::spawn(async move { run.run(ours, READER).await });
    let (mut reader, mut writer) = by_hand(theirs).await;
    let frame = reader.read().await.unwrap();
    assert_eq!((frame.header.operation, frame.header.token), (LOOK.operation, READER));
    let reply = Header { id: frame.header.id, ..Header::new(Kind::Reply) };
    writer.write(reply, &frame.body, &[]).await.unwrap();
    assert_eq!(look.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_held_driver_says_why_at_once_and_a_new_link_ends_that() {
    let caller = Caller::new(Driver::Network);
    caller.hold("ended 5 times".to_owned());
    let error = caller.call::<_, u32>(&ECHO, 1u32).await.unwrap_err();
    assert!(error.message.contains("network driver is out of service (ended 5 times)"), "{error}");
    caller.wait_for_link();
    let (ours, theirs) = pair();
    tokio::spawn(serve(theirs, Arc::new(Server::default())));
    let run = caller.clone();
    let calling = tokio::spawn(async move { caller.call::<_, u32>(&ECHO, 3u32).await });
    tokio::spawn(async move { run.run(ours, WRITER).await });
    assert_eq!(calling.await.unwrap().unwrap(), 3);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Happened {
    Tick(u64),
    Lagged(u64),
}

#[tokio::test]
async fn a_slow_reader_never_stops_the_server_and_learns_what_it_missed() {
    let (ours, theirs) = pair();
    let server = Arc::new(Server::default());
    tokio::spawn(serve(theirs, Arc::clone(&server)));
    let (mut reader, mut writer) = by_hand(ours).await;
    writer.write(call_header(&SUBSCRIBE, 1), &[], &[]).await.unwrap();
    assert_eq!(reader.read().await.unwrap().header.kind, Kind::Reply);
    let sink = server.sink.lock().unwrap().clone().unwrap();
    // Nobody reads: far more than socket and queue hold, without a wait.
    const SENT: u64 = 50_000;
    for number in 0..SENT {
        assert!(sink.send(&Happened::Tick(number), Happened::Lagged));
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let (mut ticks, mut missed) = (0, 0);
    while ticks + missed < SENT {
        // While the reader catches up the sink says more, so that the loss can be told.
        let frame = match tokio::time::timeout(Duration::from_millis(20), reader.read()).await {
            Ok(frame) => frame.unwrap(),
            Err(_) => {
                sink.send(&Happened::Tick(SENT), Happened::Lagged);
                continue;
            }
        };
        match codec::decode(&frame.body, Vec::new()).unwrap() {
            Happened::Tick(SENT) => {}
            Happened::Tick(_) => ticks += 1,
            Happened::Lagged(count) => missed += count,
        }
    }
    assert!(missed > 0 && ticks > 0, "{ticks} came, {missed} were missed");
    assert_eq!(ticks + missed, SENT);
    drop((reader, writer));
    let gone = async {
        while sink.send(&Happened::Tick(0), Happened::Lagged) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test]
async fn events_reach_the_queue_and_a_full_queue_is_told() {
    let (caller, server, _serving) = connected(WRITER);
    let (queue, mut events) = mpsc::channel(2);
    caller.deliver_events(queue);
    caller.call::<_, ()>(&SUBSCRIBE, ()).await.unwrap();
    let sink = server.sink.lock().unwrap().clone().unwrap();
    sink.send(&Happened::Tick(1), Happened::Lagged);
    let body = events.recv().await.unwrap();
    assert_eq!(codec::decode::<Happened>(&body, Vec::new()), Ok(Happened::Tick(1)));
}

#[tokio::test]
async fn descriptors_travel_both_ways() {
    let (caller, _server, _serving) = connected(WRITER);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let answer: Descriptor = caller.call(&SWAP, Descriptor::new(theirs.into())).await.unwrap();
    let mut text = [0; 15];
    ours.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"from the server");
    let mut text = String::new();
    UnixStream::from(answer.into_owned().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "from its own");
}

#[tokio::test]
async fn another_revision_is_refused_by_both_ends() {
    let (ours, theirs) = pair();
    let caller = Caller::new(Driver::Qemu);
    let (caller_end, _peer) = tokio::join!(caller.run(ours, WRITER), link::open(theirs, REVISION ^ 1));
    let (ours, theirs) = pair();
    let server = Arc::new(Server::default());
    let (server_end, _peer) = tokio::join!(serve(theirs, server), link::open(ours, REVISION ^ 1));
    for end in [caller_end, server_end] {
        let text = end.to_string();
        assert!(
            text.contains(&format!("{REVISION:016x}")) && text.contains(&format!("{:016x}", REVISION ^ 1)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_token_allows_what_it_allows_and_the_channel_goes_on() {
    let (caller, _server, _serving) = connected(READER);
    assert_eq!(caller.call::<_, u32>(&LOOK, 1u32).await.unwrap(), 1);
    let error = caller.call::<_, u32>(&ECHO, 1u32).await.unwrap_err();
    assert_eq!(error.code, Code::OPERATION_DENIED);
    let mut answers = BTreeMap::new();
    for (name, token) in [("writer", WRITER), ("nobody", Token::default()), ("wrong", Token([9; 16]))] {
        answers.insert(name, caller.with_token(token).call::<_, u32>(&ECHO, 1u32).await.is_ok());
    }
    assert_eq!(answers, BTreeMap::from([("writer", true), ("nobody", false), ("wrong", false)]));
}

#[tokio::test]
async fn a_link_whose_owner_is_dropped_is_closed_though_the_caller_lives() {
    let (ours, theirs) = pair();
    let caller = Caller::new(Driver::Qemu);
    let serving = tokio::spawn(serve(theirs, Arc::new(Server::default())));
    let run = caller.clone();
    let running = tokio::spawn(async move { run.run(ours, WRITER).await });
    assert_eq!(caller.call::<_, u32>(&ECHO, 1u32).await.unwrap(), 1);
    running.abort();
    let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
    assert!(matches!(ended.unwrap().unwrap(), LinkError::Closed));
}

/// A server of the tests' own making, which says what no server says.
async fn nonsense(answer: impl FnOnce(u64) -> (Header, Vec<u8>)) -> (Result<u32, Error>, LinkError) {
    let (ours, theirs) = pair();
    let caller = Caller::new(Driver::Qemu);
    let run = caller.clone();
    let running = tokio::spawn(async move { run.run(ours, WRITER).await });
    let (mut reader, mut writer) = link::open(theirs, REVISION).await.unwrap();
    let asking = tokio::spawn(async move { caller.call::<_, u32>(&ECHO, 1u32).await });
    let call = reader.read().await.unwrap();
    let (header, body) = answer(call.header.id);
    writer.write(header, &body, &[]).await.unwrap();
    let ended = running.await.unwrap();
    (asking.await.unwrap(), ended)
}

#[tokio::test]
async fn a_server_that_answers_nonsense_loses_its_channel() {
    let reply = |id| Header { id, ..Header::new(Kind::Reply) };
    let (answer, ended) = nonsense(|id| (reply(id), b"no number".to_vec())).await;
    assert!(answer.unwrap_err().message.contains("reply of the qemu driver"));
    assert!(matches!(&ended, LinkError::Violation(why) if why.contains("too many")), "{ended}");
    let (answer, ended) = nonsense(|id| (reply(id + 1), vec![0; 4])).await;
    assert!(answer.unwrap_err().message.contains("ended while it served"));
    assert!(matches!(&ended, LinkError::Violation(why) if why.contains("never made")), "{ended}");
    let failure = |id| (Header { id, ..Header::new(Kind::Failure) }, b"no error".to_vec());
    assert!(matches!(nonsense(failure).await.1, LinkError::Violation(_)));
    let call = |id| (Header { id, ..Header::new(Kind::Call) }, Vec::new());
    assert!(matches!(nonsense(call).await.1, LinkError::Violation(_)));
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let (ours, theirs) = pair();
    let server = Arc::new(Server::default());
    let serving = tokio::spawn(serve(theirs, Arc::clone(&server)));
    let (_reader, mut writer) = link::open(ours, REVISION).await.unwrap();
    let (body, _) = codec::encode(&1u32).unwrap();
    // The socket's buffer holds some answers and the outbox a few; then each call stays open until the credit is used up.
    let mut sent = 0u64;
    loop {
        let header = Header { id: sent, operation: ECHO.operation, token: WRITER, ..Header::new(Kind::Call) };
        if writer.write(header, &body, &[]).await.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 1_000_000, "calls are taken though no answer is read");
        tokio::task::yield_now().await;
    }
    let ended = serving.await.unwrap();
    assert!(matches!(&ended, LinkError::Violation(why) if why.contains("open at once")), "{ended}");
}
