//! A guest that runs, as queries look at it: through its snapshot and its monitor, past its own task. So a query waits for
//! nothing that others do with the guest, and for its QEMU no longer than [`ANSWER_WITHIN`].

use crate::driver::{Environment, Qemu};
use crate::guest::agent::AgentLine;
use crate::guest::not_running;
use crate::guest::view::{LiveView, View};
use crate::monitor::Monitor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::DomainRef;
use bulkhead_xml::Element;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Time that QEMU gets to answer a query.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// A guest that runs.
pub(super) struct Observed<'a> {
    environment: &'a Arc<Environment>,
    view: Arc<View>,
    live: LiveView,
    within: Duration,
}

impl<'a> Observed<'a> {
    /// Looks at a domain; nothing if it does not run. Its QEMU gets so much time for each answer.
    pub(super) fn new(environment: &'a Arc<Environment>, view: Arc<View>, within: Duration) -> Option<Self> {
        let live = view.live.clone()?;
        Some(Self { environment, view, live, within })
    }

    pub(super) fn name(&self) -> &str {
        &self.view.name
    }

    pub(super) fn live(&self) -> &LiveView {
        &self.live
    }

    pub(super) fn root(&self) -> &Element {
        &self.live.root
    }

    pub(super) fn environment(&self) -> &'a Arc<Environment> {
        self.environment
    }

    /// QEMU's monitor, if it answers.
    pub(super) fn monitor(&self) -> Result<Monitor, Error> {
        let monitor = self.live.monitor.borrow().clone();
        monitor.ok_or_else(|| {
            let message = format!("Domain '{}': its QEMU does not answer on the monitor", self.view.name);
            Error::new(Code::OPERATION_TIMEOUT, Origin::QEMU, message)
        })
    }

    /// Asks QEMU.
    pub(super) async fn ask(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        let answer = self.monitor()?.execute(command, arguments, self.within).await;
        answer.map_err(|error| {
            let error = Error::from(&error);
            Error { message: format!("Domain '{}': {}", self.view.name, error.message), ..error }
        })
    }

    /// The way to its agent.
    pub(super) fn agent(&self) -> AgentLine<'_> {
        AgentLine {
            name: &self.view.name,
            key: self.view.uuid.to_string(),
            stack: &self.environment.stack,
            live: &self.live,
        }
    }

    /// An error of something that was asked for wrongly.
    pub(super) fn wrong(&self, code: Code, why: &str) -> Error {
        Error::new(code, Origin::QEMU, format!("Domain '{}': {why}", self.view.name))
    }
}

impl Qemu {
    /// The domain that a client means, which must run.
    pub(super) fn observed(&self, domain: &DomainRef) -> Result<Observed<'_>, Error> {
        let view = self.guest(domain)?.view.get();
        Observed::new(&self.environment, Arc::clone(&view), ANSWER_WITHIN)
            .ok_or_else(|| not_running(&view.name))
    }
}
