//! What readers see of a domain. Queries are answered from it, whatever QEMU and the domain's own task are doing.

use super::agent::Turn;
use super::process::{self, Usage};
use crate::domain::Definition;
use crate::monitor::Monitor;
use bulkhead_wire::types::{DomainInfo, DomainRef, DomainState, State, Uuid};
use bulkhead_xml::Element;
use std::sync::Arc;
use tokio::sync::watch;

/// Reasons for states, numbered as libvirt numbers them per state.
pub(crate) mod reason {
    /// Running: started.
    pub(crate) const RUNNING_BOOTED: i32 = 1;
    /// Running: goes on from a stored state.
    pub(crate) const RUNNING_RESTORED: i32 = 3;
    /// Running: resumed.
    pub(crate) const RUNNING_UNPAUSED: i32 = 5;
    /// Running: a save of its state was canceled or failed.
    pub(crate) const RUNNING_SAVE_CANCELED: i32 = 7;
    /// Paused: by a client.
    pub(crate) const PAUSED_USER: i32 = 1;
    /// Paused: its state is being stored.
    pub(crate) const PAUSED_SAVE: i32 = 3;
    /// Paused: its memory is being written to a file.
    pub(crate) const PAUSED_DUMP: i32 = 4;
    /// Paused: a disk failed.
    pub(crate) const PAUSED_IO_ERROR: i32 = 5;
    /// Paused: the watchdog expired.
    pub(crate) const PAUSED_WATCHDOG: i32 = 6;
    /// Paused: on its way up.
    pub(crate) const PAUSED_STARTING: i32 = 11;
    /// In shutdown: the guest's own wish.
    pub(crate) const SHUTDOWN_USER: i32 = 1;
    /// Shut off: nobody knows.
    pub(crate) const SHUTOFF_UNKNOWN: i32 = 0;
    /// Shut off: the guest shut down.
    pub(crate) const SHUTOFF_SHUTDOWN: i32 = 1;
    /// Shut off: destroyed.
    pub(crate) const SHUTOFF_DESTROYED: i32 = 2;
    /// Shut off: QEMU ended unasked.
    pub(crate) const SHUTOFF_CRASHED: i32 = 3;
    /// Shut off: its state is stored.
    pub(crate) const SHUTOFF_SAVED: i32 = 5;
    /// Shut off: it did not start.
    pub(crate) const SHUTOFF_FAILED: i32 = 6;
    /// Crashed: the guest's kernel panicked.
    pub(crate) const CRASHED_PANICKED: i32 = 1;
    /// Asleep.
    pub(crate) const SUSPENDED_UNKNOWN: i32 = 0;
}

/// A domain that runs.
#[derive(Debug, Clone)]
pub(crate) struct LiveView {
    /// Its number, from 1.
    pub(crate) id: i32,
    /// QEMU's process.
    pub(crate) pid: u32,
    /// The XML as it runs, with aliases.
    pub(crate) root: Arc<Element>,
    /// What the guest has now, in KiB.
    pub(crate) memory_kib: u64,
    /// The way to QEMU for those who only look; nothing while it does not answer.
    pub(crate) monitor: watch::Receiver<Option<Monitor>>,
    /// Whose turn it is to speak with the guest's agent.
    pub(crate) agent: Turn,
}

/// A domain.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) state: State,
    pub(crate) reason: i32,
    pub(crate) autostart: bool,
    pub(crate) autostart_once: bool,
    /// A state is stored that the next start goes on from.
    pub(crate) saved: bool,
    /// The definition that outlives the run, if there is one.
    pub(crate) persistent: Option<Arc<Definition>>,
    /// While it runs.
    pub(crate) live: Option<LiveView>,
}

impl View {
    /// A domain that has just been named.
    pub(crate) fn new(name: &str, uuid: Uuid) -> Self {
        Self {
            name: name.to_owned(),
            uuid,
            state: State::Shutoff,
            reason: reason::SHUTOFF_UNKNOWN,
            autostart: false,
            autostart_once: false,
            saved: false,
            persistent: None,
            live: None,
        }
    }

    /// Is there anything to be seen yet, or still?
    pub(crate) fn exists(&self) -> bool {
        self.persistent.is_some() || self.live.is_some()
    }

    pub(crate) fn reference(&self) -> DomainRef {
        DomainRef {
            name: self.name.clone(),
            uuid: self.uuid,
            id: self.live.as_ref().map_or(-1, |live| live.id),
        }
    }

    pub(crate) fn domain_state(&self) -> DomainState {
        DomainState { state: self.state as i32, reason: self.reason }
    }

    /// The tree that describes it now.
    pub(crate) fn root(&self) -> Option<&Element> {
        match (&self.live, &self.persistent) {
            (Some(live), _) => Some(&live.root),
            (None, Some(definition)) => Some(&definition.root),
            (None, None) => None,
        }
    }

    /// Virtual CPUs: those that it has, and those that it may have.
    pub(crate) fn vcpus(&self) -> (u32, u32) {
        vcpus_of(self.root())
    }

    pub(crate) fn info(&self) -> DomainInfo {
        let number = |name: &str| -> u64 {
            let text = self.root().and_then(|root| root.child_text(name));
            text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        DomainInfo {
            state: u8::try_from(self.state as i32).unwrap_or(0),
            max_memory_kib: number("memory"),
            memory_kib: self.live.as_ref().map_or_else(|| number("currentMemory"), |live| live.memory_kib),
            vcpus: u16::try_from(self.vcpus().0).unwrap_or(u16::MAX),
            cpu_time_ns: self
                .live
                .as_ref()
                .and_then(|live| process::usage(live.pid))
                .map_or(0, Usage::total_ns),
        }
    }
}

/// Virtual CPUs of a definition: those in use, and all.
pub(crate) fn vcpus_of(root: Option<&Element>) -> (u32, u32) {
    let Some(vcpu) = root.and_then(|root| root.child("vcpu")) else { return (0, 0) };
    let most = vcpu.text().trim().parse().unwrap_or(0);
    (vcpu.attr("current").and_then(|current| current.parse().ok()).unwrap_or(most), most)
}
