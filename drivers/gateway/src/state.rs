//! What the next process of this driver needs to go on with a client: a file in memory, of which the broker keeps a
//! descriptor. It is written before the client hears of what it says, and costs no word to anybody.

use crate::events::Callbacks;
use crate::lock;
use crate::special::Session;
use bulkhead_wire::codec;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

/// The first word: is something between client and driver that would be lost?
const BUSY_AT: u64 = 0;
/// The second: how long the record is, which follows.
const LENGTH_AT: u64 = 4;
const RECORD_AT: u64 = 8;
/// No record is longer than this.
const RECORD_MAX_BYTES: usize = 1 << 20;

/// A conversation as it stands between two calls.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) session: Session,
    pub(crate) callbacks: Callbacks,
}

/// How an earlier process left a client.
#[derive(Debug)]
pub(crate) enum Left {
    /// It is a new one.
    New,
    /// In the middle of something: what it waits for does not come any more.
    Busy,
    /// At rest.
    Resting(Box<Record>),
}

/// The file.
#[derive(Debug)]
pub(crate) struct State {
    file: File,
    open: Mutex<u32>,
}

/// While one of these is there, the death of this process ends the connection: something would be lost.
#[derive(Debug)]
pub(crate) struct Busy(Arc<State>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut open = lock(&self.0.open);
        *open -= 1;
        if *open == 0 {
            self.0.put(BUSY_AT, &0_u32.to_le_bytes());
        }
    }
}

impl State {
    pub(crate) fn open(file: OwnedFd) -> (Arc<Self>, Left) {
        let state = Self { file: File::from(file), open: Mutex::new(0) };
        let left = match state.word(LENGTH_AT) {
            Ok(0) | Err(_) if state.word(BUSY_AT).unwrap_or(0) == 0 => Left::New,
            Ok(length) if state.word(BUSY_AT).is_ok_and(|busy| busy == 0) => {
                state.record(length).map_or(Left::Busy, |record| Left::Resting(Box::new(record)))
            }
            _ => Left::Busy,
        };
        (Arc::new(state), left)
    }

    fn word(&self, at: u64) -> io::Result<u32> {
        let mut word = [0; 4];
        self.file.read_exact_at(&mut word, at)?;
        Ok(u32::from_le_bytes(word))
    }

    fn record(&self, length: u32) -> Option<Record> {
        let length = usize::try_from(length).ok().filter(|length| *length <= RECORD_MAX_BYTES)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, RECORD_AT).ok()?;
        codec::decode(&bytes, Vec::new()).ok()
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        if let Err(error) = self.file.write_all_at(bytes, at) {
            tracing::error!(%error, "state of a client");
        }
    }

    /// Something begins.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        let mut open = lock(&self.open);
        if *open == 0 {
            self.put(BUSY_AT, &1_u32.to_le_bytes());
        }
        *open += 1;
        Busy(Arc::clone(self))
    }

    /// Writes down how the conversation stands. Only while it is busy: half a record is never read.
    pub(crate) fn write(&self, session: &Session, callbacks: &Callbacks) {
        match codec::encode(&(session, callbacks)) {
            Ok((bytes, _)) if bytes.len() <= RECORD_MAX_BYTES => {
                self.put(RECORD_AT, &bytes);
                self.put(LENGTH_AT, &u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
            }
            // Too much to be taken over: the next process ends the connection.
            _ => self.put(LENGTH_AT, &u32::MAX.to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> OwnedFd {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        nix::sys::memfd::memfd_create("state", flags).unwrap()
    }

    #[test]
    fn the_next_process_finds_a_client_new_busy_or_at_rest() {
        let file = file();
        let again = || State::open(file.try_clone().unwrap());
        let (state, left) = again();
        assert!(matches!(left, Left::New));
        let busy = state.busy();
        let twice = state.busy();
        drop(busy);
        assert!(matches!(again().1, Left::Busy));
        let session =
            Session { authenticated: true, uri: Some("qemu:///session".to_owned()), ..Session::default() };
        state.write(&session, &Callbacks::default());
        assert!(matches!(again().1, Left::Busy));
        drop(twice);
        match again().1 {
            Left::Resting(record) => assert_eq!(record.session, session),
            other => panic!("{other:?}"),
        }
    }
}
