//! Which embedded stacks this process has open: connections to one root share one broker.

use crate::{Intensity, OpenError};
use bulkhead_broker::{Config, Handle, Mode, Sockets, root};
use bulkhead_wire::control::{FaultRule, Layout};
use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

/// A broker that lives as long as somebody has it open.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) handle: Handle,
    pub(crate) ended: bulkhead_broker::Ended,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Others, clients of the control socket say, may have handles of their own: the stack is the application's.
        self.handle.leave();
    }
}

/// The one global of this library: two brokers of one process on one root would take each other's lock for their own.
static OPEN: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Mutex::default);

/// A root by identity, not by name; and the process, since a forked child inherits this table but no broker.
type Key = (u32, u64, u64);

#[derive(Debug)]
struct Entry {
    hold: Weak<Hold>,
    ended: bulkhead_broker::Ended,
}

pub(crate) async fn open(
    root: &Path,
    libexec: PathBuf,
    intensity: Intensity,
    faults: Vec<FaultRule>,
    gateway: bool,
) -> Result<Arc<Hold>, OpenError> {
    root::check(root).map_err(bulkhead_broker::OpenError::from)?;
    let made =
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).and_then(|()| root.metadata());
    let metadata = made.map_err(|source| {
        let what = "the folder can't be made or looked at".to_owned();
        bulkhead_broker::OpenError::from(bulkhead_broker::RootError::Io {
            path: root.to_owned(),
            what,
            source,
        })
    })?;
    let key = (std::process::id(), metadata.dev(), metadata.ino());
    loop {
        let ending = {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|(process, _, _), _| *process == key.0);
            match open.get(&key) {
                Some(entry) => match entry.hold.upgrade() {
                    Some(hold) if !hold.handle.is_leaving() && !entry.ended.is_ended() => return Ok(hold),
                    _ => entry.ended.clone(),
                },
                None => {
                    let folder = Layout::embed(root).run;
                    let sockets = gateway.then_some(Sockets { folder, group: None });
                    let config = Config {
                        mode: Mode::Embed,
                        root: root.to_owned(),
                        libexec,
                        intensity,
                        sockets,
                        faults,
                        // The service manager, if there is one, is the application's.
                        kept: None,
                    };
                    let (handle, ended) = bulkhead_broker::open(config, Layout::embed(root))?;
                    let hold = Arc::new(Hold { handle, ended: ended.clone() });
                    open.insert(key, Entry { hold: Arc::downgrade(&hold), ended });
                    return Ok(hold);
                }
            }
        };
        // The stack that was here is on its way out; its root is free when it has gone.
        ending.wait().await;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&key).is_some_and(|entry| entry.ended.is_ended()) {
            open.remove(&key);
        }
    }
}
