//! What a QEMU binary can do: asked once, of a QEMU without a machine in a helper, and kept on disk under everything that the
//! answer depends on.

use crate::capabilities::{CacheKey, Capabilities, HostFacts, Query, Reply, host_model_queries, queries};
use crate::monitor::{Entry, Monitor, MonitorError, Options};
use crate::node;
use bulkhead_actors::deadline;
use bulkhead_actors::stack::Stack;
use bulkhead_actors::state::Folder;
use bulkhead_wire::control::{Access, HelperRequest};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc};

/// Time for one of the questions; a QEMU that is not in memory yet takes its time for the first.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The monitor's number in the helper.
const MONITOR_NUMBER: i32 = 20;

#[derive(Serialize, Deserialize)]
struct Stored {
    key: CacheKey,
    capabilities: Capabilities,
}

/// Capabilities of binaries, asked once.
#[derive(Debug)]
pub(crate) struct Probes {
    stack: Stack,
    folder: Folder,
    /// One probe at a time: they are rare, and two of one binary would be one too many.
    known: Mutex<HashMap<CacheKey, Arc<Capabilities>>>,
    number: AtomicU64,
}

impl Probes {
    pub(crate) fn new(stack: Stack, folder: Folder) -> Self {
        Self { stack, folder, known: Mutex::default(), number: AtomicU64::new(1) }
    }

    /// What this binary can do on this host. A probe that has begun goes on when its caller has gone: its helper is ended and
    /// its answer kept in any case.
    pub(crate) async fn of(
        self: &Arc<Self>,
        binary: &str,
        host: HostFacts,
    ) -> Result<Arc<Capabilities>, Error> {
        let (probes, name) = (Arc::clone(self), binary.to_owned());
        let probed = tokio::spawn(async move { probes.find(&name, host).await });
        let late = |ms| format!("{binary} was asked what it can do, and has not answered within {ms} ms");
        deadline::within(probed, late).await?.map_err(|error| {
            Error::new(
                Code::INTERNAL,
                Origin::QEMU,
                format!("{binary} can't be asked what it can do: {error}"),
            )
        })?
    }

    async fn find(&self, binary: &str, host: HostFacts) -> Result<Arc<Capabilities>, Error> {
        let mut known = self.known.lock().await;
        // The binary itself can't be looked at from here, which the broker's list of programs makes up for: its identity is
        // what the kernel says of the helper that runs it.
        let key = key_of(binary, host);
        if let Some(found) = known.get(&key) {
            return Ok(Arc::clone(found));
        }
        let name = file_name(&key);
        let stored = self.folder.read(&name).ok().flatten();
        let stored = stored
            .and_then(|text| serde_json::from_slice::<Stored>(&text).ok())
            .filter(|stored| stored.key == key);
        let capabilities = match stored {
            Some(stored) => stored.capabilities,
            None => {
                let capabilities = self.ask(binary, key.host.kvm).await?;
                let stored = Stored { key: key.clone(), capabilities };
                if let Ok(text) = serde_json::to_vec(&stored)
                    && let Err(error) = self.folder.write(&name, &text)
                {
                    tracing::warn!(binary, %error, "capabilities can't be kept");
                }
                stored.capabilities
            }
        };
        let capabilities = Arc::new(capabilities);
        known.insert(key, Arc::clone(&capabilities));
        Ok(capabilities)
    }

    /// Asks a binary something more than what is kept of it.
    pub(crate) async fn more(
        &self,
        binary: &str,
        kvm: bool,
        queries: Vec<Query>,
    ) -> Result<Vec<Reply>, Error> {
        self.asked(binary, kvm, async |monitor| answers(monitor, queries).await).await
    }

    async fn ask(&self, binary: &str, kvm: bool) -> Result<Capabilities, Error> {
        self.asked(binary, kvm, questions).await
    }

    /// Has a QEMU without a machine answer questions.
    async fn asked<R>(
        &self,
        binary: &str,
        kvm: bool,
        questions: impl AsyncFnOnce(&Monitor) -> Result<R, String>,
    ) -> Result<R, Error> {
        let system =
            |error: std::io::Error| Error::system(Origin::QEMU, format!("Probe of {binary}"), &error);
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| system(errno.into()))?;
        let key = format!("probe-{}-{}", std::process::id(), self.number.fetch_add(1, Ordering::Relaxed));
        let accelerator = if kvm { "none,accel=kvm:tcg" } else { "none,accel=tcg" };
        let mut arguments: Vec<String> =
            ["-S", "-no-user-config", "-nodefaults", "-display", "none", "-machine", accelerator]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(["-chardev".to_owned(), format!("socket,id=m,fd={MONITOR_NUMBER}")]);
        arguments.extend(["-mon", "chardev=m,mode=control"].map(str::to_owned));
        let request = HelperRequest {
            key: key.clone(),
            class: "qemu-probe".to_owned(),
            program: PathBuf::from(binary),
            arguments,
            environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
            files: if kvm { vec![(PathBuf::from("/dev/kvm"), Access::ReadWrite)] } else { Vec::new() },
            listeners: Vec::new(),
            outputs: Vec::new(),
            descriptors: vec![(MONITOR_NUMBER, Descriptor::new(theirs))],
            ports: Vec::new(),
            network: false,
            errors: None,
            autodestroy: true,
        };
        self.stack.start_helper(request).await?;
        let stream = std::os::unix::net::UnixStream::from(ours);
        let stream =
            stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream)).map_err(system)?;
        let asked = async {
            let (events, _unread) = mpsc::channel(8);
            let mut options = Options::new(Entry::Fresh);
            options.handshake = ANSWER_WITHIN;
            let monitor =
                Monitor::attach(stream, events, options).await.map_err(|error| error.to_string())?;
            let answer = questions(&monitor).await?;
            let _ = monitor.within(ANSWER_WITHIN).quit().await;
            Ok(answer)
        };
        let asked = asked.await;
        let _ = self.stack.kill_helper(&key).await;
        let failed = |why: String| {
            let message = format!("{binary} can't be asked what it can do: {why}");
            Error::new(Code::INTERNAL, Origin::QEMU, message)
        };
        asked.map_err(failed)
    }
}

/// Asks everything, and reads the answers.
async fn questions(monitor: &Monitor) -> Result<Capabilities, String> {
    let replies = answers(monitor, queries()).await?;
    let mut capabilities = Capabilities::from_replies(&replies).map_err(|error| error.to_string())?;
    let replies = answers(monitor, host_model_queries(&capabilities)).await?;
    capabilities.read_host_model(&replies).map_err(|error| error.to_string())?;
    Ok(capabilities)
}

async fn answers(monitor: &Monitor, queries: Vec<Query>) -> Result<Vec<Reply>, String> {
    let mut replies = Vec::new();
    for query in queries {
        match monitor.execute(query.command, query.arguments, ANSWER_WITHIN).await {
            Ok(reply) => replies.push(Ok(reply)),
            Err(MonitorError::Refused { description, .. }) => replies.push(Err(description)),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(replies)
}

fn key_of(binary: &str, host: HostFacts) -> CacheKey {
    let metadata = std::fs::metadata(binary).ok();
    let modified = metadata
        .as_ref()
        .and_then(|metadata| metadata.modified().ok())
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let modified = modified.and_then(|since| i128::try_from(since.as_nanos()).ok()).unwrap_or(0);
    CacheKey::new(binary, metadata.map_or(0, |metadata| metadata.len()), modified, host)
}

fn file_name(key: &CacheKey) -> String {
    let text = serde_json::to_string(key).unwrap_or_default();
    format!("{:016x}", bulkhead_wire::table::fingerprint(&text, 0))
}

/// What the host adds to what a QEMU can do.
pub(crate) fn host_facts(kvm: bool) -> HostFacts {
    let cpuinfo = node::content("/proc/cpuinfo");
    let first = |name: &str| node::of_processor(&cpuinfo, name).unwrap_or_default();
    let kernel = nix::sys::utsname::uname()
        .map(|name| format!("{} {}", name.release().to_string_lossy(), name.version().to_string_lossy()))
        .unwrap_or_default();
    HostFacts {
        kvm,
        cpu: format!("{} {}", first("model name"), first("stepping")),
        microcode: first("microcode"),
        kernel,
    }
}
