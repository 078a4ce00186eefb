//! What clients were told of a driver's objects, for the next process of this one: a file in memory on the broker's shelf, the
//! whole at first and each change behind it. What changed while this driver was away is told from it.

use bulkhead_actors::stack::Stack;
use bulkhead_wire::codec;
use bulkhead_wire::error::{Error, Origin};
use bulkhead_wire::types::Uuid;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;

/// No journal is read that is longer.
const READ_MAX_BYTES: u64 = 64 << 20;
/// It is written anew when it is longer than this and than twice what it was.
const SMALL_BYTES: u64 = 64 << 10;

/// The file.
#[derive(Debug)]
pub(crate) struct Journal<E> {
    name: String,
    file: Option<File>,
    length: u64,
    anew_at: u64,
    entry: PhantomData<fn(E)>,
}

impl<E: Serialize + DeserializeOwned> Journal<E> {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), file: None, length: 0, anew_at: 0, entry: PhantomData }
    }

    /// As an earlier process left it; nothing if that can't be read.
    pub(crate) fn read(file: &File) -> Option<BTreeMap<Uuid, E>> {
        let length = file.metadata().ok()?.len();
        let mut bytes = vec![0; usize::try_from(length).ok().filter(|_| length <= READ_MAX_BYTES)?];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let (mut all, mut rest) = (BTreeMap::new(), &bytes[..]);
        // What its process did not come to finish was told to nobody yet.
        while let Some((head, behind)) = rest.split_first_chunk::<4>()
            && let Some((record, behind)) = usize::try_from(u32::from_le_bytes(*head))
                .ok()
                .and_then(|length| behind.split_at_checked(length))
        {
            let (uuid, entry): (Uuid, Option<E>) = codec::decode(record, Vec::new()).ok()?;
            match entry {
                Some(entry) => drop(all.insert(uuid, entry)),
                None => drop(all.remove(&uuid)),
            }
            rest = behind;
        }
        Some(all)
    }

    /// Writes all of it, and has the broker keep that.
    pub(crate) async fn write(&mut self, stack: &Stack, all: &BTreeMap<Uuid, E>) -> Result<(), Error> {
        let failed = |error: io::Error| Error::system(Origin::RPC, "What clients were told", &error);
        let mut bytes = Vec::new();
        for (uuid, entry) in all {
            bytes.extend(record(*uuid, Some(entry)).map_err(failed)?);
        }
        let file = memfd_create("journal", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let file = File::from(file);
        file.write_all_at(&bytes, 0).map_err(failed)?;
        self.length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.anew_at = SMALL_BYTES.max(2 * self.length);
        let kept = file.try_clone().map_err(failed)?;
        self.file = Some(file);
        stack.deposit(&self.name, kept.into()).await
    }

    /// Takes a change down. False if all of it is to be written anew.
    pub(crate) fn note(&mut self, uuid: Uuid, entry: Option<&E>) -> bool {
        let (Some(file), Ok(bytes)) = (&self.file, record(uuid, entry)) else { return false };
        if file.write_all_at(&bytes, self.length).is_err() {
            return false;
        }
        self.length += u64::try_from(bytes.len()).unwrap_or(0);
        self.length < self.anew_at
    }
}

fn record<E: Serialize>(uuid: Uuid, entry: Option<&E>) -> io::Result<Vec<u8>> {
    let (bytes, _) = codec::encode(&(uuid, entry)).map_err(|error| io::Error::other(error.to_string()))?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &bytes].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn journal(file: &File) -> Journal<String> {
        let file = File::from(file.as_fd().try_clone_to_owned().unwrap());
        Journal { file: Some(file), length: 0, anew_at: SMALL_BYTES, ..Journal::new("test") }
    }

    #[test]
    fn what_was_taken_down_is_read_and_half_a_record_is_none() {
        let file = File::from(memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap());
        let mut written = journal(&file);
        let (one, two) = (Uuid([1; 16]), Uuid([2; 16]));
        assert!(written.note(one, Some(&"running".to_owned())));
        assert!(written.note(two, Some(&"off".to_owned())));
        assert!(written.note(one, Some(&"paused".to_owned())));
        assert!(written.note(two, None));
        let expected = BTreeMap::from([(one, "paused".to_owned())]);
        assert_eq!(Journal::<String>::read(&file), Some(expected.clone()));
        let whole = file.metadata().unwrap().len();
        assert!(written.note(two, Some(&"never told".to_owned())));
        file.set_len(whole + 7).unwrap();
        assert_eq!(Journal::<String>::read(&file), Some(expected));
    }

    #[test]
    fn one_that_has_grown_is_written_anew() {
        let file = File::from(memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap());
        let mut written = journal(&file);
        let long = "x".repeat(30 << 10);
        assert!(written.note(Uuid([1; 16]), Some(&long)) && written.note(Uuid([1; 16]), Some(&long)));
        assert!(!written.note(Uuid([1; 16]), Some(&long)));
    }
}
