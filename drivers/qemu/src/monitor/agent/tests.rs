//! The agent's client against scripted guests. Time is paused.

use super::{Agent, AgentError, ShutdownMode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};

const SECOND: Duration = Duration::from_secs(1);

struct Guest(BufReader<DuplexStream>);

impl Guest {
    async fn hear(&mut self) -> Value {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await.unwrap();
        let start = usize::from(line.first() == Some(&0xff));
        let request: Value = serde_json::from_slice(&line[start..]).unwrap();
        assert_eq!(start == 1, request["execute"] == "guest-sync-delimited");
        request
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn synchronise(&mut self) {
        let request = self.hear().await;
        assert_eq!(request["execute"], "guest-sync-delimited");
        let token = &request["arguments"]["id"];
        self.say(b"\xff").await;
        self.say(format!("{{\"return\": {token}}}\n").as_bytes()).await;
    }
}

fn ends() -> (Agent<DuplexStream>, Guest) {
    let (ours, theirs) = duplex(1 << 16);
    (Agent::new(ours), Guest(BufReader::new(theirs)))
}

#[tokio::test(start_paused = true)]
async fn garbage_and_leftovers_are_skipped() {
    let (mut agent, mut guest) = ends();
    let script = async {
        guest.say(b"half a li").await;
        guest.say(b"\x00\xfe\n{\"return\": {\"stale\": 1}}\n{\"return\": 7}\n\n[[[[\n").await;
        guest.say(&vec![b'x'; super::LIMITS.line + 10]).await;
        guest.say(b"\nmore without end").await;
        guest.synchronise().await;
        assert_eq!(guest.hear().await, json!({"execute": "guest-ping"}));
        guest.say(b"{\"return\": {}}\n").await;
    };
    let (answer, ()) = tokio::join!(agent.ping(SECOND), script);
    assert_eq!(answer, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_costs_the_deadline_and_can_come_back() {
    let (mut agent, mut guest) = ends();
    let error = agent.ping(2 * SECOND).await.unwrap_err();
    let (command, after) = ("guest-ping".to_owned(), 2 * SECOND);
    assert_eq!(error, AgentError::Deadline { command, after });
    let script = async {
        // The late answer to the first call, then that to the second.
        guest.synchronise().await;
        guest.synchronise().await;
        guest.hear().await;
        guest.say(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n").await;
        guest.synchronise().await;
        guest.hear().await;
        guest.say(b"nonsense\n").await;
    };
    let calls = async {
        let refused = agent.ping(SECOND).await;
        let nonsense = agent.ping(SECOND).await;
        (refused, nonsense)
    };
    let ((refused, nonsense), ()) = tokio::join!(calls, script);
    assert!(matches!(refused, Err(AgentError::Refused { .. })), "{refused:?}");
    assert!(matches!(nonsense, Err(AgentError::Answer { .. })), "{nonsense:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_after_a_shutdown_is_consent_and_before_it_is_not() {
    let (mut agent, mut guest) = ends();
    let script = async {
        guest.synchronise().await;
        let request = guest.hear().await;
        assert_eq!(request, json!({"execute": "guest-shutdown", "arguments": {"mode": "reboot"}}));
    };
    let (answer, ()) = tokio::join!(agent.shutdown(ShutdownMode::Reboot, SECOND, SECOND), script);
    assert_eq!(answer, Ok(()));
    let answer = agent.shutdown(ShutdownMode::Halt, SECOND, SECOND).await;
    assert!(matches!(answer, Err(AgentError::Deadline { .. })), "{answer:?}");
    drop(guest);
    let answer = agent.shutdown(ShutdownMode::Powerdown, SECOND, SECOND).await;
    assert!(matches!(answer, Err(AgentError::Closed { .. })), "{answer:?}");
}
