//! The way to a guest's agent. One conversation at a time: its channel has one end on either side. It goes past the guest's
//! own task, so that an agent that is silent holds up nobody but those who want something of it.

use super::view::LiveView;
use crate::monitor::agent::{Agent, AgentError, ShutdownMode};
use bulkhead_actors::stack::Stack;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// Time that an agent gets for one command; below every deadline in the table.
pub(crate) const AGENT_WITHIN: Duration = Duration::from_secs(5);
/// The longest: whoever calls gives up then anyway.
const AGENT_LONGEST: Duration = Duration::from_secs(9);
/// Time after which an agent that was told to end its guest and says nothing is believed to be doing it.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Time that QEMU gets to tell whether an agent has opened its channel.
const MONITOR_WITHIN: Duration = Duration::from_secs(2);
/// The channel's name in the guest.
const CHANNEL: &str = "org.qemu.guest_agent.0";

/// Whoever holds it speaks with the agent. It says how long the agent is waited for, if a client said so.
pub(crate) type Turn = Arc<Mutex<Option<Duration>>>;

/// What a client's number of seconds means: -2 as long as it takes, -1 as long as usual, 0 not at all.
pub(crate) fn patience(seconds: i32) -> Option<Duration> {
    match seconds {
        -2 => Some(AGENT_LONGEST),
        -1 => None,
        seconds => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(AGENT_LONGEST)),
    }
}

/// The way to one guest's agent.
pub(crate) struct AgentLine<'a> {
    /// The domain, for error texts.
    pub(crate) name: &'a str,
    /// The guest's key.
    pub(crate) key: String,
    pub(crate) stack: &'a Stack,
    pub(crate) live: &'a LiveView,
}

fn alias(root: &Element) -> Option<&str> {
    let mut channels = root.child("devices")?.all("channel");
    channels.find(|channel| channel.path_attr("target", "name") == Some(CHANNEL))?.path_attr("alias", "name")
}

impl AgentLine<'_> {
    fn absent(&self, why: &str) -> Error {
        let message = format!("Domain '{}': guest agent is not responding: {why}", self.name);
        Error::new(Code::AGENT_UNRESPONSIVE, Origin::QEMU, message)
    }

    fn failed(&self, error: &AgentError) -> Error {
        let error = Error::from(error);
        Error { message: format!("Domain '{}': {}", self.name, error.message), ..error }
    }

    async fn connect(&self) -> Result<Agent<UnixStream>, Error> {
        let alias = alias(&self.live.root).ok_or_else(|| {
            let message =
                format!("Domain '{}': QEMU guest agent is not configured; add its channel", self.name);
            Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::QEMU, message)
        })?;
        // QEMU knows whether anybody in the guest has opened the channel: no need to wait for somebody who is not there.
        let monitor = self.live.monitor.borrow().clone();
        if let Some(monitor) = monitor
            && let Ok(devices) = monitor.within(MONITOR_WITHIN).query_chardev().await
        {
            let label = format!("char{alias}");
            if devices.iter().any(|device| device.label == label && !device.frontend_open) {
                return Err(
                    self.absent("nothing in the guest has opened its channel; start qemu-guest-agent there")
                );
            }
        }
        let socket = self.stack.connect_helper(&self.key, &format!("{alias}.sock")).await?;
        let stream = std::os::unix::net::UnixStream::from(socket);
        let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
        let stream = stream
            .map_err(|error| Error::system(Origin::QEMU, format!("Domain '{}': agent", self.name), &error))?;
        Ok(Agent::new(stream))
    }

    async fn turn(&self, within: Duration) -> Result<tokio::sync::MutexGuard<'_, Option<Duration>>, Error> {
        tokio::time::timeout(within, self.live.agent.lock())
            .await
            .map_err(|_elapsed| self.absent("it is still at an earlier command"))
    }

    /// Has the agent do something.
    pub(crate) async fn execute(
        &self,
        command: &str,
        arguments: Value,
        within: Duration,
    ) -> Result<Value, Error> {
        let turn = self.turn(within).await?;
        // Whoever has a time of its own for this command keeps it.
        let within = turn.filter(|_| within == AGENT_WITHIN).unwrap_or(within);
        let mut agent = self.connect().await?;
        agent.execute(command, arguments, within).await.map_err(|error| self.failed(&error))
    }

    /// Has the guest go to sleep. The agent does not answer that, if it does it.
    pub(crate) async fn suspend(&self, command: &str) -> Result<(), Error> {
        let _turn = self.turn(AGENT_WITHIN).await?;
        let mut agent = self.connect().await?;
        match agent.execute(command, Value::Null, SHUTDOWN_GRACE).await {
            Ok(_) | Err(AgentError::Deadline { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Has the agent end its guest. It does not answer that, if it does it.
    pub(crate) async fn shutdown(&self, mode: ShutdownMode) -> Result<(), Error> {
        let _turn = self.turn(AGENT_WITHIN).await?;
        let mut agent = self.connect().await?;
        agent.shutdown(mode, AGENT_WITHIN, SHUTDOWN_GRACE).await.map_err(|error| self.failed(&error))
    }
}
