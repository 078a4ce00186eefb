//! The way to a pool's worker.

use crate::error::error;
use crate::protocol::{Answer, Failure, Order, Reply, Request, SOCKET_NUMBER};
use bulkhead_actors::stack::Stack;
use bulkhead_wire::codec;
use bulkhead_wire::control::{Access, HelperRequest};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::link;
use bulkhead_wire::table::REVISION;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Time in which a worker does what touches a few files; a scan of a large folder takes longer than anything else.
pub const SOON: Duration = Duration::from_secs(30);
/// Orders on their way to one worker.
const OUTBOX: usize = 64;

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Answer, Failure>>>>;

/// A worker. It ends with the last way to it.
#[derive(Debug)]
pub struct Worker {
    key: String,
    pool: String,
    stack: Stack,
    outbox: mpsc::Sender<(Vec<u8>, Vec<OwnedFd>)>,
    shared: Arc<Shared>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Waiting,
    gone: AtomicBool,
}

impl Shared {
    fn end(&self) {
        self.gone.store(true, Ordering::Release);
        // Whoever waits sees that nobody will answer.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Worker {
    /// Has the broker start one for that folder.
    ///
    /// # Errors
    /// A folder that is not there or not for pools, a worker that does not come up.
    pub async fn start(stack: &Stack, key: String, pool: &str, folder: &Path) -> Result<Arc<Self>, Error> {
        let system = |error: std::io::Error| {
            Error::system(Origin::STORAGE, format!("Worker of pool '{pool}'"), &error)
        };
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| system(errno.into()))?;
        let request = HelperRequest {
            key: key.clone(),
            class: "pool".to_owned(),
            program: PathBuf::from("bulkhead-pool"),
            arguments: vec![folder.to_str().unwrap_or_default().to_owned()],
            environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
            files: vec![(folder.to_owned(), Access::Folder)],
            listeners: Vec::new(),
            outputs: Vec::new(),
            descriptors: vec![(SOCKET_NUMBER, Descriptor::new(theirs))],
            ports: Vec::new(),
            network: false,
            errors: None,
            autodestroy: true,
        };
        stack.start_helper(request).await.map_err(|cause| Error {
            origin: Origin::STORAGE,
            message: format!("Pool '{pool}': {}", cause.message),
            ..cause
        })?;
        let opened = tokio::time::timeout(SOON, link::open(ours, REVISION)).await;
        let (mut reader, mut writer) = match opened {
            Ok(Ok(halves)) => halves,
            Ok(Err(cause)) => {
                let message = format!(
                    "Pool '{pool}': its worker can't open {}: {cause}; the folder must be there and its user's to read",
                    folder.display()
                );
                return Err(error(Code::INTERNAL, message));
            }
            Err(_elapsed) => {
                let _ = stack.kill_helper(&key).await;
                return Err(error(
                    Code::OPERATION_TIMEOUT,
                    format!("Pool '{pool}': its worker does not come up"),
                ));
            }
        };
        let (outbox, mut queue) = mpsc::channel::<(Vec<u8>, Vec<OwnedFd>)>(OUTBOX);
        let shared = Arc::new(Shared::default());
        let reading = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                while let Ok(frame) = reader.read().await {
                    let Ok(Reply { id, result }) = codec::decode(&frame.body, frame.descriptors) else {
                        break;
                    };
                    let waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    if let Some(waiting) = waiting {
                        let _ = waiting.send(result);
                    }
                }
                shared.end();
            })
        };
        tokio::spawn(async move {
            while let Some((body, files)) = queue.recv().await {
                if writer.write(Header::new(Kind::Control), &body, &files).await.is_err() {
                    break;
                }
            }
            // Nobody has orders any more: with its reader the socket closes, and the worker ends.
            reading.abort();
        });
        let (pool, stack) = (pool.to_owned(), stack.clone());
        Ok(Arc::new(Self { key, pool, stack, outbox, shared, next: AtomicU64::new(1) }))
    }

    /// Has it do something, and waits; no longer than that, if there is a bound.
    ///
    /// # Errors
    /// What it could not do; a worker that has gone; one that does not answer in time, which is given up.
    pub async fn ask(&self, order: Order, within: Option<Duration>) -> Result<Answer, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, reply);
        if self.is_gone() {
            self.shared.end();
            return Err(self.gone());
        }
        let encoded = codec::encode(&Request { id, order })
            .map_err(|cause| error(Code::INTERNAL, format!("Pool '{}': {cause}", self.pool)))?;
        let asked = async {
            self.outbox.send(encoded).await.map_err(|_closed| self.gone())?;
            answer.await.map_err(|_closed| self.gone())
        };
        let answered = match within {
            Some(within) => match tokio::time::timeout(within, asked).await {
                Ok(answered) => answered,
                Err(_elapsed) => {
                    self.give_up().await;
                    let message = format!(
                        "Pool '{}': its storage did not answer within {} s, and its worker is given up; refresh the pool when it is back",
                        self.pool,
                        within.as_secs()
                    );
                    return Err(error(Code::OPERATION_TIMEOUT, message));
                }
            },
            None => asked.await,
        };
        answered?.map_err(|failure| {
            let message = format!("Pool '{}': {}", self.pool, failure.message);
            let mut cause = error(Code::SYSTEM_ERROR, message);
            cause.int1 = failure.errno;
            cause
        })
    }

    /// Is there nobody to ask?
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.shared.gone.load(Ordering::Acquire)
    }

    fn gone(&self) -> Error {
        let message = format!("Pool '{}': its worker has ended; refresh the pool for another one", self.pool);
        error(Code::OPERATION_FAILED, message)
    }

    /// Ends it, whatever it does.
    pub async fn give_up(&self) {
        self.shared.end();
        let _ = self.stack.kill_helper(&self.key).await;
    }
}
