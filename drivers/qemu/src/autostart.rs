//! The domains that start with the stack, each once for each opening of it.
//!
//! What is still to be started is on disk: a driver that dies half-way is followed by one that goes on with the rest, and what
//! somebody ended in the meantime is not started again.

use crate::driver::Qemu;
use crate::guest::Guest;
use bulkhead_actors::state::Folder;
use bulkhead_wire::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

/// Starts of one domain that end this driver, before the others are started without it.
const ATTEMPTS: u32 = 2;
/// The one file of the folder.
const FILE: &str = "pending";

/// What is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The opening of the stack that it is about.
    opening: u64,
    /// Domains that are still to be started, with how often that was begun.
    domains: BTreeMap<String, u32>,
}

/// What is still to be started.
#[derive(Debug)]
pub(crate) struct Pending {
    folder: Folder,
    opening: u64,
    /// `None` until the first driver of this opening has looked which domains there are.
    record: Mutex<Option<Record>>,
}

impl Pending {
    /// Reads what an earlier driver of the same opening left to do.
    pub(crate) fn open(run: &Path, opening: u64) -> io::Result<Self> {
        let folder = Folder::open(&run.join("autostart"), "pending", ".json")?;
        let read: Option<Record> =
            folder.read(FILE)?.and_then(|content| serde_json::from_slice(&content).ok());
        let record = Mutex::new(read.filter(|record| record.opening == opening));
        Ok(Self { folder, opening, record })
    }

    /// Changes it, on disk too, and returns what is then to be started. `all` is used by the first driver of an opening.
    fn change(
        &self,
        all: impl FnOnce() -> Vec<String>,
        change: impl FnOnce(&mut BTreeMap<String, u32>),
    ) -> io::Result<BTreeMap<String, u32>> {
        let mut known = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.clone();
        let fresh =
            || Record { opening: self.opening, domains: all().into_iter().map(|name| (name, 0)).collect() };
        let mut record = known.clone().unwrap_or_else(fresh);
        change(&mut record.domains);
        // With nothing to start there is nothing to write: whoever comes next finds that again.
        if before.as_ref() != Some(&record) && (before.is_some() || !record.domains.is_empty()) {
            self.folder.write(FILE, &serde_json::to_vec(&record)?)?;
            *known = Some(record.clone());
        }
        Ok(record.domains)
    }
}

/// Starts what is still to be started.
pub(crate) async fn run(driver: Arc<Qemu>) {
    let environment = &driver.environment;
    let marked = || {
        let views = environment.all().into_iter().map(|guest| guest.view.get());
        views
            .filter(|view| view.autostart || view.autostart_once)
            .map(|view| view.name.clone())
            .collect::<Vec<_>>()
    };
    let names = match change(&driver, marked(), |_| {}).await {
        Ok(domains) => domains,
        Err(error) => {
            tracing::error!(%error, "what starts with the stack can't be written down");
            marked().into_iter().map(|name| (name, 0)).collect()
        }
    };
    for (name, begun) in names {
        let marked = change(&driver, Vec::new(), {
            let name = name.clone();
            move |domains| {
                let _ =
                    if begun < ATTEMPTS { domains.insert(name, begun + 1) } else { domains.remove(&name) };
            }
        });
        if let Err(error) = marked.await {
            tracing::error!(domain = name, %error, "autostart");
        }
        if begun >= ATTEMPTS {
            tracing::error!(domain = name, "its start has ended this driver {begun} times and is left out");
            continue;
        }
        let guest = environment.by_name(&name).filter(|guest| {
            let view = guest.view.get();
            (view.autostart || view.autostart_once) && view.live.is_none()
        });
        if let Some(guest) = guest {
            let started = guest
                .object
                .run_job("autostart", |guest: &mut Guest, job| {
                    Box::pin(async move {
                        if guest.view().autostart_once {
                            guest.set_autostart_once(false).await?;
                        }
                        guest.start_defined(0, &job).await
                    })
                })
                .await;
            if let Ok(Err(error)) | Err(error) = started {
                tracing::error!(domain = name, %error, "autostart");
            }
        }
        let done = name.clone();
        if let Err(error) = change(&driver, Vec::new(), move |domains| {
            let _ = domains.remove(&done);
        })
        .await
        {
            tracing::error!(domain = name, %error, "autostart");
        }
    }
}

async fn change(
    driver: &Arc<Qemu>,
    all: Vec<String>,
    change: impl FnOnce(&mut BTreeMap<String, u32>) + Send + 'static,
) -> Result<BTreeMap<String, u32>, Error> {
    let shared = Arc::clone(&driver.environment);
    let work = move || {
        // A mark that was set since then is for the next opening.
        let is_older = |name: &String| {
            [&shared.autostart, &shared.autostart_once].iter().any(|marks| {
                let modified = std::fs::metadata(marks.path_of(name)).and_then(|mark| mark.modified());
                let since = modified.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                since.is_some_and(|since| since.as_micros() < u128::from(shared.pending.opening))
            })
        };
        shared.pending.change(|| all.into_iter().filter(is_older).collect(), change)
    };
    driver.environment.on_disk("What starts with the stack", work).await
}
