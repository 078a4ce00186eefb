//! What a driver may ask of its broker, and its channels to other drivers.

use bulkhead_wire::channel::Caller;
use bulkhead_wire::codec;
use bulkhead_wire::control::{FilePurpose, FromDriver, Helper, HelperRequest, Request, Response};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::Token;
use bulkhead_wire::table::Driver;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Time in which a broker answers; what lasts longer waits for a disk that does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Files of a helper that are named when one of them may be to blame.
const FILES_NAMED: usize = 8;

type Waiting = HashMap<u64, oneshot::Sender<Result<Response, Error>>>;

/// The stack as a driver sees it.
#[derive(Debug, Clone)]
pub struct Stack(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    outbox: mpsc::Sender<(Vec<u8>, Vec<OwnedFd>)>,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    peers: Mutex<HashMap<Driver, Caller>>,
}

impl Stack {
    pub(crate) fn new(outbox: mpsc::Sender<(Vec<u8>, Vec<OwnedFd>)>) -> Self {
        let shared =
            Shared { outbox, waiting: Mutex::default(), next: AtomicU64::new(1), peers: Mutex::default() };
        Self(Arc::new(shared))
    }

    /// The channel to another driver. Calls wait, within their deadlines, while the other is being restarted.
    #[must_use]
    pub fn peer(&self, driver: Driver) -> Caller {
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.entry(driver).or_insert_with(|| Caller::new(driver)).clone()
    }

    /// Sends a message. It is encoded at once: messages with descriptors can't be shared while something waits.
    pub(crate) fn say(&self, message: &FromDriver) -> impl Future<Output = ()> + Send + use<> {
        let (encoded, outbox) = (codec::encode(message), self.0.outbox.clone());
        async move {
            match encoded {
                Ok(encoded) => drop(outbox.send(encoded).await),
                Err(error) => tracing::error!(%error, "message to the broker"),
            }
        }
    }

    pub(crate) fn answered(&self, id: u64, result: Result<Response, Error>) {
        if let Some(waiting) = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
            let _ = waiting.send(result);
        }
    }

    async fn ask(&self, request: Request) -> Result<Response, Error> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, reply);
        let said = self.say(&FromDriver::Ask { id, request });
        // A broker that does not read is waited for no longer than one that does not answer.
        let asked = async {
            said.await;
            answer.await
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match answer {
            Ok(Ok(result)) => result,
            _ => Err(Error::new(Code::OPERATION_TIMEOUT, Origin::BROKER, "The broker did not answer")),
        }
    }

    async fn ask_file(&self, request: Request) -> Result<OwnedFd, Error> {
        match self.ask(request).await? {
            Response::File(file) => file.into_owned().ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    /// Starts a helper.
    ///
    /// # Errors
    /// What the broker refuses or can't do; files that do not answer.
    pub async fn start_helper(&self, request: HelperRequest) -> Result<Helper, Error> {
        let key = request.key.clone();
        let files = request.files.iter().map(|(path, _)| path.as_path());
        let files: Vec<String> = files.take(FILES_NAMED).map(|path| path.display().to_string()).collect();
        match self.ask(Request::HelperStart(Box::new(request))).await {
            Ok(Response::Helper(helper)) => Ok(helper),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code == Code::OPERATION_TIMEOUT && !files.is_empty() => {
                // One that begins after all is not wanted any more.
                let _ = self.say(&FromDriver::Ask { id: 0, request: Request::HelperKill { key } }).await;
                let within = ANSWER_WITHIN.as_secs();
                let message = format!(
                    "It was not started within {within} s: one of its files does not answer; look at {}",
                    files.join(", ")
                );
                Err(Error::new(Code::OPERATION_TIMEOUT, Origin::BROKER, message))
            }
            Err(error) => Err(error),
        }
    }

    /// The channel to a driver that is started when it is first needed.
    ///
    /// # Errors
    /// A driver that the manifest does not let this one call.
    pub async fn peer_on_demand(&self, driver: Driver) -> Result<Caller, Error> {
        self.ask(Request::Want { peer: driver }).await?;
        Ok(self.peer(driver))
    }

    /// Asks whether TCP ports are free.
    ///
    /// # Errors
    /// One that somebody listens on.
    pub async fn ports_free(&self, ports: Vec<u16>) -> Result<(), Error> {
        self.ask(Request::PortsFree { ports }).await.map(drop)
    }

    /// Ends a helper at once.
    ///
    /// # Errors
    /// A helper that is not this driver's or has ended.
    pub async fn kill_helper(&self, key: &str) -> Result<(), Error> {
        self.ask(Request::HelperKill { key: key.to_owned() }).await.map(drop)
    }

    /// Connects to a helper's unix socket.
    ///
    /// # Errors
    /// A socket that is not there or refuses.
    pub async fn connect_helper(&self, key: &str, socket: &str) -> Result<OwnedFd, Error> {
        self.ask_file(Request::Connect { key: key.to_owned(), socket: socket.to_owned() }).await
    }

    /// Makes a listening unix socket in a helper's guest folder.
    ///
    /// # Errors
    /// A name that is no plain file name; what the disk says.
    pub async fn listen_for_helper(&self, key: &str, socket: &str) -> Result<OwnedFd, Error> {
        self.ask_file(Request::Listen { key: key.to_owned(), socket: socket.to_owned() }).await
    }

    /// Opens a file for a helper that runs.
    ///
    /// # Errors
    /// A file that such a helper is never given; what the file system says.
    pub async fn open_for_helper(
        &self,
        key: &str,
        path: &Path,
        purpose: FilePurpose,
    ) -> Result<OwnedFd, Error> {
        self.ask_file(Request::Open { key: key.to_owned(), path: path.to_owned(), purpose }).await
    }

    /// Opens a terminal that a helper made.
    ///
    /// # Errors
    /// A path that is no terminal of that helper.
    pub async fn open_terminal(&self, key: &str, path: &Path) -> Result<OwnedFd, Error> {
        self.ask_file(Request::Terminal { key: key.to_owned(), path: path.to_owned() }).await
    }

    /// Has the broker keep a descriptor for the next incarnation.
    ///
    /// # Errors
    /// More descriptors than the manifest allows.
    pub async fn deposit(&self, name: &str, file: OwnedFd) -> Result<(), Error> {
        self.ask(Request::Deposit { name: name.to_owned(), file: Descriptor::new(file) }).await.map(drop)
    }

    /// Has the broker drop a deposited descriptor.
    ///
    /// # Errors
    /// A broker that does not answer.
    pub async fn withdraw(&self, name: &str) -> Result<(), Error> {
        self.ask(Request::Withdraw { name: name.to_owned() }).await.map(drop)
    }

    /// Tells the broker that a client's connection has ended: its token is void from now on.
    pub fn client_gone(&self, token: Token) -> impl Future<Output = ()> + Send + use<> {
        self.say(&FromDriver::ClientGone { token })
    }

    /// Opens a file that a client named.
    ///
    /// # Errors
    /// A file that no guest could be given, and what the file system says.
    pub async fn open_file(&self, path: &Path, purpose: FilePurpose) -> Result<OwnedFd, Error> {
        self.ask_file(Request::File { path: path.to_owned(), purpose }).await
    }

    /// Removes a file that a client named.
    ///
    /// # Errors
    /// A file that no guest could be given, and what the file system says.
    pub async fn remove_file(&self, path: &Path) -> Result<(), Error> {
        self.ask(Request::File { path: path.to_owned(), purpose: FilePurpose::Remove }).await.map(drop)
    }

    /// Opens a file of the control group of a helper.
    ///
    /// # Errors
    /// A helper that has none, or none of that controller.
    pub async fn open_group(&self, key: &str, file: &str, thread: Option<u32>) -> Result<OwnedFd, Error> {
        self.ask_file(Request::Group { key: key.to_owned(), file: file.to_owned(), thread }).await
    }

    /// Has a pool's folder made, with those above it, or an empty one removed.
    ///
    /// # Errors
    /// A path that is not for pools, and what the file system says.
    pub async fn pool_folder(&self, path: &Path, make: bool) -> Result<(), Error> {
        self.ask(Request::PoolFolder { path: path.to_owned(), make }).await.map(drop)
    }

    /// Has packets passed on between the interfaces of the stack's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn forward_packets(&self, ipv6: bool) -> Result<(), Error> {
        self.ask(Request::Forward { ipv6 }).await.map(drop)
    }

    /// Has a bridge speak IPv6, or not.
    ///
    /// # Errors
    /// A name that is none, and what the kernel says.
    pub async fn bridge_ipv6(&self, interface: &str, enable: bool) -> Result<(), Error> {
        self.ask(Request::BridgeIpv6 { interface: interface.to_owned(), enable }).await.map(drop)
    }

    /// Tells the broker which object is being adopted: should that end this driver twice, the object is set aside.
    ///
    /// # Errors
    /// A broker that does not answer.
    pub async fn adopting(&self, object: Option<&str>) -> Result<(), Error> {
        self.ask(Request::Adopting { object: object.unwrap_or_default().to_owned() }).await.map(drop)
    }

    /// Has the broker forget that an object was set aside.
    ///
    /// # Errors
    /// What the broker's disk says.
    pub async fn reinstate(&self, object: &str) -> Result<(), Error> {
        self.ask(Request::Reinstate { object: object.to_owned() }).await.map(drop)
    }
}

fn unexpected() -> Error {
    Error::new(Code::INTERNAL, Origin::BROKER, "The broker answered something else than was asked")
}
