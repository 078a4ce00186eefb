//! All leases, and who has them: the table, and what of it lies on the broker's shelf.
//!
//! A lease is a lock of an open file. Its descriptor is here, on the shelf and in the guest's process: neither this driver's
//! death nor the application's gives it up while the guest runs. Who has it stands on the shelf too, in a file in memory.

use crate::file::Identity;
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::lock::{LeaseInfo, LeaseOwner};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

/// Longer records are not ours.
const RECORD_MAX_BYTES: u64 = 4 << 20;
/// The words that end the names of deposits which are no leases.
const RECORD: &str = "record";
const PROCESS: &str = "process";

/// A lease as a record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) path: String,
    pub(crate) file: Identity,
    pub(crate) shared: bool,
    /// Of the owner's, the how manieth.
    pub(crate) number: u64,
    /// When it was taken.
    pub(crate) since: SystemTime,
}

/// What is known of an owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) owner: LeaseOwner,
    pub(crate) leases: Vec<Lease>,
}

/// An owner, with what keeps its leases.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) record: Record,
    /// The locked files, by the leases' numbers. Of a guest that outlived its broker they are in its process alone.
    pub(crate) files: BTreeMap<u64, OwnedFd>,
    /// The guest, once it runs.
    pub(crate) process: Option<OwnedFd>,
}

/// A deposit's name: whose, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Deposit {
    Record,
    Process,
    Lease(u64),
}

impl Deposit {
    pub(crate) fn name(&self, owner: Uuid) -> String {
        match self {
            Self::Record => format!("{owner} {RECORD}"),
            Self::Process => format!("{owner} {PROCESS}"),
            Self::Lease(number) => format!("{owner} {number}"),
        }
    }

    pub(crate) fn parse(name: &str) -> Option<(Uuid, Self)> {
        let (owner, what) = name.split_once(' ')?;
        let what = match what {
            RECORD => Self::Record,
            PROCESS => Self::Process,
            number => Self::Lease(number.parse().ok()?),
        };
        Some((Uuid::parse(owner)?, what))
    }
}

impl Record {
    pub(crate) fn new(owner: LeaseOwner) -> Self {
        Self { owner, leases: Vec::new() }
    }

    /// The record as a file in memory.
    pub(crate) fn to_file(&self) -> io::Result<OwnedFd> {
        let file = File::from(memfd_create("record", MFdFlags::MFD_CLOEXEC)?);
        file.write_all_at(&serde_json::to_vec(self)?, 0)?;
        Ok(file.into())
    }

    pub(crate) fn from_file(file: &File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        if size > RECORD_MAX_BYTES {
            return Err(io::Error::other(format!("a record of {size} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// The number of its next lease.
    pub(crate) fn next(&self) -> u64 {
        self.leases.iter().map(|lease| lease.number + 1).max().unwrap_or(0)
    }
}

/// All owners.
#[derive(Debug, Default)]
pub(crate) struct Leases(BTreeMap<Uuid, Holding>);

impl Leases {
    pub(crate) fn get(&self, owner: Uuid) -> Option<&Holding> {
        self.0.get(&owner)
    }

    pub(crate) fn entry(&mut self, owner: LeaseOwner) -> &mut Holding {
        let fresh = |owner| Holding { record: Record::new(owner), files: BTreeMap::new(), process: None };
        self.0.entry(owner.uuid).or_insert_with(|| fresh(owner))
    }

    pub(crate) fn remove(&mut self, owner: Uuid) -> Option<Holding> {
        self.0.remove(&owner)
    }

    pub(crate) fn owners(&self) -> Vec<Uuid> {
        self.0.keys().copied().collect()
    }

    /// Who, other than this one, has a lease of a file that excludes another one of that kind?
    pub(crate) fn holder(&self, file: Identity, shared: bool, but: Uuid) -> Option<(&Holding, &Lease)> {
        let others = self.0.iter().filter(|(owner, _)| **owner != but).map(|(_, holding)| holding);
        let mut leases =
            others.flat_map(|holding| holding.record.leases.iter().map(move |lease| (holding, lease)));
        leases.find(|(_, lease)| lease.file == file && !(shared && lease.shared))
    }

    pub(crate) fn list(&self) -> Vec<LeaseInfo> {
        let of = |holding: &Holding| {
            let (owner, runs) = (holding.record.owner.clone(), holding.process.is_some());
            let info = move |lease: &Lease| LeaseInfo {
                owner: owner.clone(),
                path: lease.path.clone(),
                shared: lease.shared,
                age_seconds: age(lease.since).as_secs(),
                runs,
            };
            holding.record.leases.iter().map(info).collect::<Vec<_>>()
        };
        self.0.values().flat_map(of).collect()
    }
}

/// How long ago that was; a clock that was set back makes nothing older than it is.
pub(crate) fn age(since: SystemTime) -> Duration {
    since.elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(file: u64, shared: bool) -> Lease {
        Lease { path: format!("/{file}"), file: (1, file), shared, number: 7, since: SystemTime::now() }
    }

    #[test]
    fn a_record_comes_back_from_the_shelf_as_it_was() {
        let owner = LeaseOwner { uuid: Uuid([1; 16]), name: "web".to_owned() };
        let mut record = Record::new(owner.clone());
        assert_eq!(record.next(), 0);
        record.leases.push(lease(1, true));
        let read = Record::from_file(&File::from(record.to_file().unwrap())).unwrap();
        assert_eq!((read.owner, read.leases), (owner, record.leases.clone()));
        assert_eq!(record.next(), 8);
        for deposit in [Deposit::Record, Deposit::Process, Deposit::Lease(3)] {
            let name = deposit.name(Uuid([1; 16]));
            assert_eq!(Deposit::parse(&name), Some((Uuid([1; 16]), deposit)));
        }
        assert_eq!(Deposit::parse("no owner"), None);
    }

    #[test]
    fn the_holder_is_who_excludes_and_nobody_else() {
        let mut leases = Leases::default();
        let owner = |number: u8| LeaseOwner { uuid: Uuid([number; 16]), name: format!("g{number}") };
        leases.entry(owner(1)).record.leases.push(lease(1, false));
        leases.entry(owner(2)).record.leases.push(lease(2, true));
        let name = |file, shared, but: u8| {
            let found = leases.holder((1, file), shared, Uuid([but; 16]));
            found.map(|(holding, _)| holding.record.owner.name.clone())
        };
        assert_eq!(name(1, true, 9), Some("g1".to_owned()));
        assert_eq!(name(1, false, 1), None);
        assert_eq!((name(2, true, 9), name(2, false, 9)), (None, Some("g2".to_owned())));
    }
}
