//! The adoption of a guest that runs already, by a driver that begins.

use super::live::{Phase, Record};
use super::start::{EVENTS, MONITOR_SOCKET, MONITOR_WITHIN, memory_kib, process, stream_of};
use super::{Guest, Running, leases};
use crate::domain::Definition;
use crate::monitor::{Entry, Monitor, Options};
use bulkhead_wire::control::Helper;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_wire::types::State;
use bulkhead_xml::Element;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

impl Guest {
    /// Takes over a guest that runs, from what is on disk about it. Does not wait for QEMU: one that hangs is seen as it was.
    pub(crate) fn adopt(
        &mut self,
        record: Record,
        definition: Definition,
        live: Element,
        helper: Helper,
        tpm: Option<Helper>,
    ) -> Result<(), Error> {
        let tpm = tpm.map(process).transpose()?.map(|(_, process)| process);
        let (pid, process) = process(helper)?;
        self.own(record.owner);
        let (seen, monitor) = watch::channel(None);
        let wanted = leases::wanted(&live);
        let memory_kib = memory_kib(&live);
        self.running = Some(Running {
            id: record.id,
            definition,
            live: Arc::new(live),
            monitor,
            pid,
            process,
            tpm,
            taps: record.taps,
            autodestroy: record.autodestroy,
            memory_kib,
            ending: None,
            reboot: false,
            devices: record.devices,
            waiting: super::plug::Waiting::default(),
            agent: Arc::new(tokio::sync::Mutex::new(self.agent_patience)),
        });
        (self.state, self.reason) = (State::from_number(record.state), record.reason);
        self.publish();
        self.announce_leases(wanted);
        self.attach_later(seen, record.phase);
        Ok(())
    }

    /// Attaches to the monitor of an adopted guest as soon as QEMU answers, then compares what was with what is.
    fn attach_later(&self, seen: watch::Sender<Option<Monitor>>, phase: Phase) {
        let (stack, key, myself, name) =
            (self.environment.stack.clone(), self.key(), self.myself.clone(), self.name.clone());
        let process = self.running.as_ref().map(|running| Arc::clone(&running.process));
        tokio::spawn(async move {
            let Some(process) = process else { return };
            let mut pause = Duration::from_millis(20);
            loop {
                let (events, received) = mpsc::channel(EVENTS);
                let attached = async {
                    let stream = stack.connect_helper(&key, MONITOR_SOCKET).await?;
                    let stream =
                        stream_of(stream).map_err(|error| Error::system(Origin::QEMU, "monitor", &error))?;
                    let mut options = Options::new(Entry::Fresh);
                    options.handshake = MONITOR_WITHIN;
                    Monitor::attach(stream, events, options).await.map_err(|error| Error::from(&error))
                };
                let attached = tokio::select! {
                    attached = attached => attached,
                    _ = process.readable() => return,
                };
                match attached {
                    Ok(monitor) => {
                        let Some(guest) = myself.upgrade() else { return };
                        seen.send_replace(Some(monitor));
                        let _ = guest.post("adopt", move |guest: &mut Guest| {
                            Box::pin(async move {
                                guest.follow(received, seen);
                                match phase {
                                    Phase::Saving { was_running, file } => {
                                        guest.resume_saving(was_running, file.into()).await;
                                    }
                                    Phase::Dumping { was_running } => guest.resume_dumping(was_running).await,
                                    Phase::Starting | Phase::Running => guest.compare().await,
                                }
                            })
                        });
                        return;
                    }
                    Err(error) => tracing::warn!(domain = name, %error, "monitor of an adopted guest"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        });
    }
}
