//! The guest agent: the same framing, but the guest answers, so nothing is expected of it. A channel to it
//! outlives agents: it may hold leftovers of an earlier agent or of an earlier call, or lead to nobody at all.
//! So every call synchronises first, and garbage is skipped until its deadline.

use super::error::quote;
use super::line::Lines;
use super::message::{Message, Refusal};
use super::options::Limits;
use bulkhead_wire::error::{Code, Error, Origin};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::Duration;
use thiserror::Error as ThisError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// In no JSON text: both sides forget what they have so far when they read it.
const DELIMITER: u8 = 0xff;

const LIMITS: Limits =
    Limits { line: 4 << 20, greeting: 0, event: 0, nesting: 32, values: 1 << 16, pending: 1 };

/// Why a call to the guest agent failed.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum AgentError {
    /// Nobody answered in time.
    #[error(
        "the guest agent did not answer '{command}' within {after:?}; check that qemu-guest-agent runs in the guest"
    )]
    Deadline {
        /// The command.
        command: String,
        /// The time it was given.
        after: Duration,
    },
    /// The agent refused the command.
    #[error("the guest agent refused '{command}': {description}")]
    Refused {
        /// The command.
        command: String,
        /// The agent's error class.
        class: String,
        /// The agent's own text.
        description: String,
    },
    /// The agent said something that is no answer.
    #[error("the guest agent's answer to '{command}' can't be understood: {reason}")]
    Answer {
        /// The command.
        command: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The channel is gone.
    #[error("the channel to the guest agent failed during '{command}': {reason}")]
    Closed {
        /// The command.
        command: String,
        /// Why.
        reason: String,
    },
}

impl From<&AgentError> for Error {
    fn from(error: &AgentError) -> Self {
        let code = match error {
            AgentError::Refused { .. } | AgentError::Answer { .. } => Code::INTERNAL,
            AgentError::Deadline { .. } | AgentError::Closed { .. } => Code::AGENT_UNRESPONSIVE,
        };
        Self::new(code, Origin::QEMU, error.to_string())
    }
}

/// How a guest shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Off, with the power.
    Powerdown,
    /// And start again.
    Reboot,
    /// Stopped, with the power on.
    Halt,
}

/// A channel to a guest agent. Calls may be dropped at any point: the next one synchronises anew.
#[derive(Debug)]
pub struct Agent<S> {
    stream: S,
    lines: Lines,
    /// What was read but not yet looked at.
    unread: Vec<u8>,
    token: u32,
}

enum Failure {
    Refused(Refusal),
    Answer(String),
    Closed(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Closed(error.to_string())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Agent<S> {
    /// Takes over a connected channel. Nothing is sent before the first call.
    pub fn new(stream: S) -> Self {
        // Only has to differ from what an earlier owner of the channel used.
        let token = RandomState::new().hash_one(()).to_le_bytes();
        let [a, b, c, d, ..] = token;
        Self { stream, lines: Lines::default(), unread: Vec::new(), token: u32::from_le_bytes([a, b, c, d]) }
    }

    /// Whether an agent answers.
    ///
    /// # Errors
    ///
    /// As with [`Self::execute`].
    pub async fn ping(&mut self, deadline: Duration) -> Result<(), AgentError> {
        self.execute("guest-ping", Value::Null, deadline).await.map(drop)
    }

    /// Asks the guest to end. An agent that does so does not answer: once it has been given the command,
    /// silence for `grace` counts as consent, as does the end of the channel. Whether the guest ends is for
    /// the monitor to tell.
    ///
    /// # Errors
    ///
    /// As with [`Self::execute`]; the deadline is that for the agent to show that it is there.
    pub async fn shutdown(
        &mut self,
        mode: ShutdownMode,
        deadline: Duration,
        grace: Duration,
    ) -> Result<(), AgentError> {
        let command = "guest-shutdown";
        let mode = match mode {
            ShutdownMode::Powerdown => "powerdown",
            ShutdownMode::Reboot => "reboot",
            ShutdownMode::Halt => "halt",
        };
        let sent = timeout(deadline, self.send(command, json!({"mode": mode}))).await;
        finish(command, deadline, sent)?;
        match timeout(grace, self.answer()).await {
            Err(_) | Ok(Err(Failure::Closed(_))) => Ok(()),
            answer => finish(command, grace, answer).map(drop),
        }
    }

    /// Gives a command; `arguments` is an object, or null for none.
    ///
    /// # Errors
    ///
    /// The agent refused it or did not answer in time, or the channel ended.
    pub async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, AgentError> {
        let call = async {
            self.send(command, arguments).await?;
            self.answer().await
        };
        finish(command, deadline, timeout(deadline, call).await)
    }

    async fn send(&mut self, command: &str, arguments: Value) -> Result<(), Failure> {
        self.synchronise().await?;
        let request = match arguments {
            Value::Null => json!({"execute": command}),
            arguments => json!({"execute": command, "arguments": arguments}),
        };
        self.write(&format!("{request}\n").into_bytes()).await
    }

    /// Sends a token and skips everything until it comes back.
    async fn synchronise(&mut self) -> Result<(), Failure> {
        self.token = self.token.wrapping_add(1);
        let token = Value::from(self.token);
        let request = json!({"execute": "guest-sync-delimited", "arguments": {"id": token}});
        let mut line = vec![DELIMITER];
        line.extend_from_slice(format!("{request}\n").as_bytes());
        self.write(&line).await?;
        loop {
            if let Ok(Message::Reply { result: Ok(value), .. }) = self.message().await?
                && value == token
            {
                return Ok(());
            }
        }
    }

    async fn answer(&mut self) -> Result<Value, Failure> {
        match self.message().await? {
            Ok(Message::Reply { result, .. }) => result.map_err(Failure::Refused),
            Ok(_) => Err(Failure::Answer("it is no reply".into())),
            Err(reason) => Err(Failure::Answer(reason)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next line, understood or not.
    async fn message(&mut self) -> Result<Result<Message, String>, Failure> {
        loop {
            let mut input = self.unread.as_slice();
            let line = self.lines.next(&mut input, LIMITS.line);
            let message = line.map(|line| match line {
                Ok(line) => {
                    let start = line.iter().rposition(|byte| *byte == DELIMITER).map_or(0, |at| at + 1);
                    Message::read(line.get(start..).unwrap_or_default(), &LIMITS)
                }
                Err(_) => Err(format!("a line is longer than {} bytes", LIMITS.line)),
            });
            let used = self.unread.len() - input.len();
            self.unread.drain(..used);
            if let Some(message) = message {
                return Ok(message);
            }
            self.unread.reserve(8 << 10);
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(Failure::Closed("it was closed".into()));
            }
        }
    }
}

fn finish<T>(
    command: &str,
    after: Duration,
    result: Result<Result<T, Failure>, tokio::time::error::Elapsed>,
) -> Result<T, AgentError> {
    let command = command.to_owned();
    match result {
        Ok(Ok(value)) => Ok(value),
        Err(_) => Err(AgentError::Deadline { command, after }),
        Ok(Err(Failure::Refused(Refusal { class, description }))) => {
            Err(AgentError::Refused { command, class, description })
        }
        Ok(Err(Failure::Answer(reason))) => Err(AgentError::Answer { command, reason: quote(&reason) }),
        Ok(Err(Failure::Closed(reason))) => Err(AgentError::Closed { command, reason }),
    }
}

#[cfg(test)]
mod tests;
