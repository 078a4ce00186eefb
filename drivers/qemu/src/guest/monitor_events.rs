//! What QEMU tells, and what follows from it.

use super::view::reason;
use super::{COMMAND_WITHIN, Guest, lifecycle};
use crate::monitor::{Event, EventKind, Notice};
use bulkhead_wire::types::{DomainEvent, State};
use serde_json::Value;

impl Guest {
    /// Takes in one notice of the monitor.
    pub(crate) async fn told(&mut self, notice: Notice) {
        match notice {
            Notice::Event(event) => {
                // As QEMU told it, ahead of what follows from it.
                self.hand_on(&event);
                self.happened(event.kind).await;
            }
            Notice::Lagged(missed) => {
                tracing::warn!(domain = self.name, missed, "monitor events were lost");
                self.compare().await;
            }
        }
    }

    /// For those who asked for the monitor's own events.
    fn hand_on(&self, event: &Event) {
        let number = |value: i64| u32::try_from(value).unwrap_or(0);
        let details = (!event.data.is_empty()).then(|| Value::Object(event.data.clone()).to_string());
        self.environment.emit(&DomainEvent::Monitor {
            domain: self.view.get().reference(),
            event: event.name.clone(),
            seconds: event.at.seconds,
            micros: number(event.at.microseconds),
            details,
        });
    }

    async fn happened(&mut self, kind: EventKind) {
        if self.running.is_none() {
            return;
        }
        match kind {
            EventKind::Shutdown(_) => self.shut_down().await,
            EventKind::Reset(_) => {
                let domain = self.view.get().reference();
                self.environment.emit(&DomainEvent::Reboot { domain });
            }
            // It may be older than what this task has done since: what holds now is asked for.
            EventKind::Stop if self.state == State::Running => self.compare().await,
            EventKind::Resume if self.state == State::Paused && self.reason != reason::PAUSED_STARTING => {
                self.become_state(State::Running, reason::RUNNING_UNPAUSED).await;
                self.emit(lifecycle::RESUMED);
            }
            EventKind::Suspend => {
                self.become_state(State::Suspended, reason::SUSPENDED_UNKNOWN).await;
                self.emit(lifecycle::ASLEEP);
            }
            EventKind::Wakeup if self.state == State::Suspended => {
                self.become_state(State::Running, reason::RUNNING_UNPAUSED).await;
                self.emit(lifecycle::RESUMED);
            }
            EventKind::GuestPanicked(_) => {
                self.become_state(State::Crashed, reason::CRASHED_PANICKED).await;
                self.emit(lifecycle::CRASHED);
                self.follow_policy("on_crash", reason::SHUTOFF_CRASHED).await;
            }
            EventKind::Watchdog(watchdog) => {
                let action = ["none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi"]
                    .iter()
                    .position(|known| *known == watchdog.action)
                    .and_then(|index| i32::try_from(index).ok())
                    .unwrap_or(0);
                let domain = self.view.get().reference();
                self.environment.emit(&DomainEvent::Watchdog { domain, action });
                if watchdog.action == "pause" {
                    self.become_state(State::Paused, reason::PAUSED_WATCHDOG).await;
                    self.emit(lifecycle::PAUSED_WATCHDOG);
                }
            }
            EventKind::BlockIoError(failure) if failure.action == "stop" => {
                self.become_state(State::Paused, reason::PAUSED_IO_ERROR).await;
                self.emit(lifecycle::PAUSED_IO_ERROR);
            }
            EventKind::DeviceDeleted(deleted) => {
                if let Some(alias) = deleted.device {
                    self.device_deleted(&alias).await;
                }
            }
            EventKind::TrayMoved(moved) => self.tray_moved(&moved).await,
            EventKind::Other { name, data } => self.unplug_may_be_refused(&name, &data).await,
            EventKind::BalloonChange(change) => {
                if let Some(running) = &mut self.running {
                    running.memory_kib = change.actual / 1024;
                }
                self.publish();
            }
            _ => {}
        }
    }

    /// The guest has shut down; QEMU waits for what is to follow.
    async fn shut_down(&mut self) {
        let reboot = self.running.as_mut().is_some_and(|running| std::mem::take(&mut running.reboot));
        if reboot {
            self.restart_machine().await;
            return;
        }
        self.become_state(State::Shutdown, reason::SHUTDOWN_USER).await;
        self.emit(lifecycle::SHUTDOWN_FINISHED);
        self.follow_policy("on_poweroff", reason::SHUTOFF_SHUTDOWN).await;
    }

    /// Does what the definition says about the end of the guest.
    async fn follow_policy(&mut self, which: &str, why: i32) {
        let policy =
            self.running.as_ref().and_then(|running| running.live.child_text(which)).unwrap_or_default();
        match policy.as_str() {
            "restart" | "coredump-restart" => self.restart_machine().await,
            "preserve" => {}
            _ => {
                if let Some(running) = &mut self.running {
                    running.ending.get_or_insert((why, lifecycle::STOPPED_SHUTDOWN));
                }
                let asked = match self.monitor() {
                    Ok(monitor) => monitor.within(COMMAND_WITHIN).quit().await.is_ok(),
                    Err(_) => false,
                };
                if !asked {
                    let _ = self.environment.stack.kill_helper(&self.key()).await;
                }
            }
        }
    }

    async fn restart_machine(&mut self) {
        let Ok(monitor) = self.monitor() else { return };
        let restarted = async {
            monitor.within(COMMAND_WITHIN).system_reset().await?;
            monitor.within(COMMAND_WITHIN).cont().await
        };
        match restarted.await {
            Ok(()) => self.become_state(State::Running, reason::RUNNING_BOOTED).await,
            Err(error) => tracing::error!(domain = self.name, %error, "guest could not be started again"),
        }
    }

    /// Asks QEMU how things stand and tells subscribers what they missed, as ordinary events.
    pub(crate) async fn compare(&mut self) {
        if let Err(error) = self.settle_devices(true).await {
            tracing::warn!(domain = self.name, %error, "devices can't be compared");
        }
        let Ok(monitor) = self.monitor() else { return };
        let status = match monitor.within(COMMAND_WITHIN).query_status().await {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(domain = self.name, %error, "state can't be compared");
                return;
            }
        };
        let going_on = status.status == "paused" && self.reason == reason::RUNNING_RESTORED;
        if (status.status == "prelaunch" || going_on) && self.state == State::Running {
            // A start that was cut short just before its last step.
            match monitor.within(COMMAND_WITHIN).cont().await {
                Ok(()) if going_on => {
                    self.emit(lifecycle::STARTED_RESTORED);
                    self.emit(lifecycle::RESUMED_FROM_STATE);
                }
                Ok(()) => {
                    self.emit(lifecycle::RESUMED);
                    self.emit(lifecycle::STARTED);
                }
                Err(error) => tracing::error!(domain = self.name, %error, "start can't be completed"),
            }
        } else if status.status == "shutdown" {
            self.shut_down().await;
        } else if status.running && self.state == State::Paused {
            self.become_state(State::Running, reason::RUNNING_UNPAUSED).await;
            self.emit(lifecycle::RESUMED);
        } else if status.status == "guest-panicked" && self.state != State::Crashed {
            self.become_state(State::Crashed, reason::CRASHED_PANICKED).await;
            self.emit(lifecycle::CRASHED);
        } else if status.status == "suspended" && self.state != State::Suspended {
            self.become_state(State::Suspended, reason::SUSPENDED_UNKNOWN).await;
            self.emit(lifecycle::ASLEEP);
        } else if !status.running && self.state == State::Running {
            let (why, event) = match status.status.as_str() {
                "io-error" => (reason::PAUSED_IO_ERROR, lifecycle::PAUSED_IO_ERROR),
                "watchdog" => (reason::PAUSED_WATCHDOG, lifecycle::PAUSED_WATCHDOG),
                _ => (reason::PAUSED_USER, lifecycle::PAUSED),
            };
            self.become_state(State::Paused, why).await;
            self.emit(event);
        }
    }
}
