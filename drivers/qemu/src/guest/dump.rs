//! A guest's memory is written into a file that a client named, for those who look for the reason of a fault.

use super::live::Phase;
use super::save::Direction;
use super::view::reason;
use super::{COMMAND_WITHIN, Guest, lifecycle};
use crate::monitor::Monitor;
use bulkhead_actors::fault;
use bulkhead_actors::job::Job;
use bulkhead_wire::control::FilePurpose;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::State;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// End the guest as one that has crashed (`VIR_DUMP_CRASH`).
pub(crate) const CRASH: u32 = 1;
/// Let its CPUs run meanwhile (`VIR_DUMP_LIVE`).
pub(crate) const LIVE: u32 = 2;
/// Do not go through the host's cache (`VIR_DUMP_BYPASS_CACHE`). It is gone through in any case.
pub(crate) const BYPASS_CACHE: u32 = 4;
/// Reset its hardware then (`VIR_DUMP_RESET`).
pub(crate) const RESET: u32 = 8;
/// Its memory alone, in a format that debuggers read (`VIR_DUMP_MEMORY_ONLY`); else QEMU's whole state.
pub(crate) const MEMORY_ONLY: u32 = 16;

/// QEMU's names of `virDomainCoreDumpFormat`.
const FORMATS: [&str; 8] = [
    "elf",
    "kdump-zlib",
    "kdump-lzo",
    "kdump-snappy",
    "win-dmp",
    "kdump-raw-zlib",
    "kdump-raw-lzo",
    "kdump-raw-snappy",
];
/// Between two looks at how far QEMU has come.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What QEMU calls the thread that writes.
const WRITER: &str = "dump_thread";
/// Time that it gets to clean up.
const CLEANED_WITHIN: Duration = Duration::from_secs(5);

/// QEMU's name of a format.
pub(crate) fn format_name(format: u32) -> Option<&'static str> {
    usize::try_from(format).ok().and_then(|format| FORMATS.get(format).copied())
}

impl Guest {
    /// Writes the guest's memory into a file.
    pub(crate) async fn dump(
        &mut self,
        path: String,
        format: &'static str,
        flags: u32,
        job: &Job,
    ) -> Result<(), Error> {
        let monitor = self.attached().await?;
        let was_running = match self.state {
            State::Running => true,
            State::Paused | State::Crashed => false,
            _ => {
                return Err(self.invalid("its memory can be written while it runs, is paused or has crashed"));
            }
        };
        let what = format!("Memory of domain '{}'", self.name);
        let file = self.environment.open_file(&what, &path, FilePurpose::Fill).await?;
        let stops = was_running && flags & LIVE == 0;
        if stops {
            (self.state, self.reason) = (State::Paused, reason::PAUSED_DUMP);
        }
        // The intent: whoever finds it lets the guest go on.
        let written = match self.record(Phase::Dumping { was_running }).await {
            Ok(()) => {
                fault::point("dump", "before_write");
                self.write_memory(&monitor, file.into(), format, flags, stops, job).await
            }
            Err(error) => Err(error),
        };
        fault::point("dump", "after_write");
        if written.is_err() {
            // A core that is not whole misleads whoever looks at it.
            let _ = self.environment.stack.remove_file(Path::new(&path)).await;
        } else if flags & CRASH != 0 {
            return self.end((reason::SHUTOFF_CRASHED, lifecycle::STOPPED_CRASHED)).await;
        } else if flags & RESET != 0
            && let Err(error) = monitor.within(COMMAND_WITHIN).system_reset().await
        {
            self.let_go_on(&monitor, was_running).await;
            return Err(self.monitor_error(&error));
        }
        self.let_go_on(&monitor, was_running).await;
        written
    }

    async fn write_memory(
        &mut self,
        monitor: &Monitor,
        file: std::os::fd::OwnedFd,
        format: &str,
        flags: u32,
        stops: bool,
        job: &Job,
    ) -> Result<(), Error> {
        if stops {
            monitor.within(COMMAND_WITHIN).stop().await.map_err(|error| self.monitor_error(&error))?;
            self.publish();
            self.emit(lifecycle::PAUSED);
        }
        if flags & MEMORY_ONLY == 0 {
            return self.transfer(monitor, Direction::Out, file, 0, job).await;
        }
        let failed = |error| self.monitor_error(&error);
        monitor.within(COMMAND_WITHIN).getfd("dump", file).await.map_err(failed)?;
        let told = json!({ "paging": false, "protocol": "fd:dump", "detach": true, "format": format });
        monitor.execute("dump-guest-memory", told, COMMAND_WITHIN).await.map_err(failed)?;
        loop {
            let state = monitor.execute("query-dump", Value::Null, COMMAND_WITHIN).await;
            match state {
                Ok(state) => {
                    let number = |name: &str| state.get(name).and_then(Value::as_u64).unwrap_or(0);
                    job.report(number("completed"), number("total"));
                    match state.get("status").and_then(Value::as_str) {
                        Some("completed") => {
                            self.wait_for_writer().await;
                            return Ok(());
                        }
                        Some("failed") => {
                            let message = format!(
                                "Domain '{}': QEMU could not write its memory; is there room for it?",
                                self.name
                            );
                            return Err(Error::new(Code::OPERATION_FAILED, Origin::QEMU, message));
                        }
                        _ => {}
                    }
                }
                // A slow disk is no failure.
                Err(crate::monitor::MonitorError::Deadline { .. }) => {}
                Err(error) => return Err(self.monitor_error(&error)),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// QEMU says that it is done a moment before its thread has cleaned up. Another dump that begins within that moment, or
    /// CPUs that go on, would end QEMU.
    async fn wait_for_writer(&self) {
        let Some(pid) = self.running.as_ref().map(|running| running.pid) else { return };
        let writes = || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let mut names =
                threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
            names.any(|name| name.trim() == WRITER)
        };
        let gone = async {
            while writes() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(CLEANED_WITHIN, gone).await.is_err() {
            tracing::warn!(domain = self.name, "QEMU's dump is done, and its thread is still there");
        }
    }

    /// The guest is as it was before its memory was written.
    async fn let_go_on(&mut self, monitor: &Monitor, was_running: bool) {
        if self.running.is_none() {
            return;
        }
        if was_running {
            // Also after a live one: QEMU stops a guest whose whole state it has written.
            match monitor.within(COMMAND_WITHIN).cont().await {
                Ok(()) if self.state != State::Running => {
                    self.become_state(State::Running, reason::RUNNING_UNPAUSED).await;
                    self.emit(lifecycle::RESUMED);
                    return;
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::error!(domain = self.name, %error, "the guest could not go on after a dump");
                    self.become_state(State::Paused, reason::PAUSED_USER).await;
                    return;
                }
            }
        }
        self.publish();
        if let Err(error) = self.record(Phase::Running).await {
            tracing::error!(domain = self.name, %error, "live state");
        }
    }

    /// Takes up what this driver's predecessor was at when it ended: QEMU goes on writing by itself.
    pub(super) async fn resume_dumping(&mut self, was_running: bool) {
        let Ok(monitor) = self.monitor() else { return };
        self.stop_transfer(&monitor).await;
        loop {
            let state = monitor.execute("query-dump", Value::Null, COMMAND_WITHIN).await;
            match state {
                Ok(state) if state.get("status").and_then(Value::as_str) == Some("active") => {}
                Err(crate::monitor::MonitorError::Deadline { .. }) => {}
                _ => break,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tracing::warn!(domain = self.name, "a dump that nobody waits for any more has ended");
        self.let_go_on(&monitor, was_running).await;
    }
}
