//! The ways down: asked, rebooted, destroyed, and what is done when QEMU's process has ended.

use super::agent::AgentLine;
use super::view::reason;
use super::{COMMAND_WITHIN, Guest, Running, lifecycle};
use crate::monitor::agent::ShutdownMode;
use bulkhead_actors::fault;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::State;
use std::sync::Arc;
use std::time::Duration;

/// Press the power button.
const ACPI: u32 = 1;
/// Ask the guest agent.
const AGENT: u32 = 2;
/// Time in which a killed QEMU must be gone; the kernel needs some for a large guest.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(8);

impl Guest {
    /// Asks the guest to shut down, or with `reboot` to do so and start again.
    pub(crate) async fn ask_down(&mut self, flags: u32, reboot: bool) -> Result<(), Error> {
        let monitor = self.attached().await?;
        if flags & !(ACPI | AGENT) != 0 {
            let message = format!(
                "Domain '{}': flags {flags:#x} ask for ways down other than ACPI and the guest agent",
                self.name
            );
            return Err(Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::QEMU, message));
        }
        if flags & AGENT != 0 {
            let asked = self.ask_agent(reboot).await;
            if asked.is_ok() || flags & ACPI == 0 {
                return asked;
            }
        }
        if let Some(running) = &mut self.running {
            running.reboot = reboot;
        }
        monitor.within(COMMAND_WITHIN).system_powerdown().await.map_err(|error| self.monitor_error(&error))
    }

    async fn ask_agent(&self, reboot: bool) -> Result<(), Error> {
        self.active()?;
        let view = self.view.get();
        let Some(live) = &view.live else {
            return Err(self.invalid("domain is not running"));
        };
        let line = AgentLine { name: &self.name, key: self.key(), stack: &self.environment.stack, live };
        line.shutdown(if reboot { ShutdownMode::Reboot } else { ShutdownMode::Powerdown }).await
    }

    /// Waits for the end of a QEMU that the broker was told to kill, and does what follows from it.
    pub(crate) async fn destroyed(&mut self) -> Result<(), Error> {
        // Killed before this operation's turn came, so that nothing in the mailbox could delay it; once more, since that kill
        // may have come before the process was there.
        self.end((reason::SHUTOFF_DESTROYED, lifecycle::STOPPED_DESTROYED)).await
    }

    /// Kills QEMU, if it runs, and does what follows from its end.
    pub(super) async fn end(&mut self, ending: (i32, (i32, i32))) -> Result<(), Error> {
        // A start that heard of it in time has given up by itself.
        let Some(running) = &mut self.running else { return Ok(()) };
        running.ending = Some(ending);
        let process = Arc::clone(&running.process);
        let _ = self.environment.stack.kill_helper(&self.key()).await;
        if tokio::time::timeout(GONE_WITHIN, process.readable()).await.is_err() {
            self.publish();
            let message = format!(
                "Domain '{}': QEMU (process {}) was killed and is still there; it waits for a device of the host",
                self.name,
                self.running.as_ref().map_or(0, |running| running.pid)
            );
            return Err(Error::new(Code::OPERATION_TIMEOUT, Origin::QEMU, message));
        }
        self.ended(Some(-9)).await;
        Ok(())
    }

    /// The broker says that a process of this guest has ended. It may speak of an earlier run, which is over and done with.
    pub(crate) async fn process_ended(&mut self, pid: u32, status: Option<i32>) {
        if self.running.as_ref().is_some_and(|running| running.pid == pid) {
            self.ended(status).await;
        }
    }

    /// QEMU's process has ended: everything that was its is given back.
    pub(crate) async fn ended(&mut self, status: Option<i32>) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.disown();
        let Running { ending, taps, tpm, live, .. } = running;
        let (why, event) = ending.unwrap_or_else(|| {
            tracing::warn!(domain = self.name, ?status, "QEMU ended unasked");
            (reason::SHUTOFF_CRASHED, lifecycle::STOPPED_FAILED)
        });
        fault::point("stop", "before_cleanup");
        self.close_taps(&taps).await;
        self.end_tpm(tpm).await;
        if self.persistent.is_none() {
            self.drop_tpm(&live, super::tpm::StateOf::Xml).await;
        }
        let (folder, name) = (self.environment.live.clone(), self.key());
        let removed = self.environment.on_disk("Live state", move || folder.remove(&name)).await;
        if let Err(error) = removed {
            tracing::error!(domain = self.name, %error, "live state is left behind");
        }
        fault::point("stop", "after_cleanup");
        (self.state, self.reason) = (State::Shutoff, why);
        self.publish();
        self.emit(event);
        self.forget_if_gone();
    }

    /// Asks QEMU to quit because its application has gone.
    pub(crate) async fn quit(&mut self) {
        if let Ok(monitor) = self.monitor() {
            let _ = monitor.within(Duration::from_millis(500)).quit().await;
        }
    }

    /// Is it to end with its application?
    pub(crate) fn is_autodestroy(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.autodestroy)
    }
}
