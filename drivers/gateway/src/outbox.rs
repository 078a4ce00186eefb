//! What is on its way to one client.

use crate::state::{Busy, State};
use bulkhead_wire::channel::Bytes;
use bulkhead_wire::link::LinkError;
use bulkhead_wire::remote::{Header, Kind, NetworkError, Status, Writer, frame};
use bulkhead_wire::{error::Error, xdr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Frames that wait for one client. Events that find no room mean a client that does not read.
const FRAMES: usize = 1024;
/// Frames of streams among them: each may be large.
const STREAM_FRAMES: usize = 4;

/// A frame, and the place that it takes.
pub(crate) struct Outgoing {
    bytes: Bytes,
    files: Vec<OwnedFd>,
    _place: Option<OwnedSemaphorePermit>,
    _busy: Busy,
}

/// The way to a client's writing task.
#[derive(Clone)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    streams: Arc<Semaphore>,
    state: Arc<State>,
}

/// The client is gone, or does not read.
#[derive(Debug)]
pub(crate) struct Gone;

impl Outbox {
    pub(crate) fn new(state: &Arc<State>) -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, received) = mpsc::channel(FRAMES);
        let streams = Arc::new(Semaphore::new(STREAM_FRAMES));
        (Self { queue, streams, state: Arc::clone(state) }, received)
    }

    async fn put(
        &self,
        header: Header,
        payload: &[u8],
        files: Vec<OwnedFd>,
        place: Option<OwnedSemaphorePermit>,
        sensitive: bool,
    ) -> Result<(), Gone> {
        let bytes = Bytes::new(frame(header, payload).ok_or(Gone)?, sensitive);
        let outgoing = Outgoing { bytes, files, _place: place, _busy: self.state.busy() };
        self.queue.send(outgoing).await.map_err(|_gone| Gone)
    }

    /// Answers a call.
    pub(crate) async fn answer(&self, call: Header, answer: Result<(Vec<u8>, Vec<OwnedFd>), Error>) {
        self.answer_with(call, answer, false).await;
    }

    /// Answers a call. What is sensitive is wiped when it has been written.
    pub(crate) async fn answer_with(
        &self,
        call: Header,
        answer: Result<(Vec<u8>, Vec<OwnedFd>), Error>,
        sensitive: bool,
    ) {
        let sent = match answer {
            Ok((payload, files)) if files.is_empty() => {
                let payload = Bytes::new(payload, sensitive);
                self.put(call.answer(Kind::Reply, Status::Ok), &payload, files, None, sensitive).await
            }
            Ok((payload, files)) => {
                let mut counted = u32::try_from(files.len()).unwrap_or(0).to_be_bytes().to_vec();
                counted.extend(payload);
                self.put(call.answer(Kind::ReplyWithFiles, Status::Ok), &counted, files, None, false).await
            }
            Err(error) => {
                self.put(call.answer(Kind::Reply, Status::Error), &encoded(&error), Vec::new(), None, false)
                    .await
            }
        };
        // Nobody waits for it any more.
        drop(sent);
    }

    /// Sends a frame of a stream; waits until there is a place for it.
    pub(crate) async fn stream(&self, call: Header, status: Status, payload: &[u8]) -> Result<(), Gone> {
        let place = Arc::clone(&self.streams).acquire_owned().await.map_err(|_closed| Gone)?;
        self.put(call.answer(Kind::Stream, status), payload, Vec::new(), Some(place), false).await
    }

    /// Tells of a hole in a stream.
    pub(crate) async fn hole(&self, call: Header, length: i64) -> Result<(), Gone> {
        let place = Arc::clone(&self.streams).acquire_owned().await.map_err(|_closed| Gone)?;
        let (payload, _) = xdr::encode(&(length, 0_u32)).map_err(|_| Gone)?;
        let header = call.answer(Kind::StreamHole, Status::Continue);
        self.put(header, &payload, Vec::new(), Some(place), false).await
    }

    /// Ends a stream that failed.
    pub(crate) async fn stream_failed(&self, call: Header, error: &Error) {
        drop(self.stream(call, Status::Error, &encoded(error)).await);
    }

    /// Sends a message that nobody waits for.
    pub(crate) fn message(&self, header: Header, payload: &[u8]) -> Result<(), Gone> {
        let bytes = Bytes::new(frame(header, payload).ok_or(Gone)?, false);
        let outgoing = Outgoing { bytes, files: Vec::new(), _place: None, _busy: self.state.busy() };
        self.queue.try_send(outgoing).map_err(|_full| Gone)
    }
}

fn encoded(error: &Error) -> Vec<u8> {
    // The only thing that could go wrong is a text of megabytes; the client then reads "unknown error".
    xdr::encode(&NetworkError::from(error)).map(|(bytes, _)| bytes).unwrap_or_default()
}

/// Writes what comes until the last sender has gone.
pub(crate) async fn write(mut writer: Writer, mut queue: mpsc::Receiver<Outgoing>) -> Result<(), LinkError> {
    while let Some(outgoing) = queue.recv().await {
        writer.write(&outgoing.bytes, &outgoing.files).await?;
    }
    Ok(())
}
