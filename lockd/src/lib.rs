//! The lock driver: leases of the files that guests use as disks. Two guests never have one disk writable.
//!
//! Owns: the table of leases and their deposits on the broker's shelf. A lease is a lock of an open file that the guest's
//! process inherits, so the kernel keeps it for exactly as long as it is needed, whatever becomes of this driver, its broker
//! and the application; and the kernel, not this table, decides between two who want the same, on this host or another.
//! Never does: read or write what it locks. It opens nothing itself: files come from the broker, which judges them.

mod file;
mod leases;

use bulkhead_actors::driver::{DriverLogic, Leave, Start};
use bulkhead_actors::fault;
use bulkhead_actors::stack::Stack;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::dispatch::Answer;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::link;
use bulkhead_wire::table::{CallContext, Driver, lock};
use bulkhead_wire::types::lock::{LeaseInfo, LeaseOwner, LeaseWanted};
use bulkhead_wire::types::{Busy, Uuid};
use file::Locked;
use leases::{Deposit, Lease, Leases, Record, age};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Leases of one guest.
const LEASES_MAX: usize = 1024;

/// All locks of a stack.
pub struct Locks(Arc<Inner>);

struct Inner {
    stack: Stack,
    leases: Mutex<Leases>,
}

impl DriverLogic for Locks {
    const DRIVER: Driver = Driver::Lock;

    async fn recover(start: Start) -> Result<Arc<Self>, Error> {
        let Start { welcome, stack, .. } = start;
        let mut leases = Leases::default();
        let mut deposits = Vec::new();
        for (name, file) in welcome.deposits {
            match (Deposit::parse(&name), file.into_owned()) {
                (Some((owner, deposit)), Some(file)) => deposits.push((owner, deposit, file)),
                _ => tracing::warn!(name, "unknown deposit"),
            }
        }
        // Records first: they say whose the others are.
        deposits.sort_by_key(|(_, deposit, _)| *deposit != Deposit::Record);
        for (uuid, deposit, file) in deposits {
            let nameless = || LeaseOwner { uuid, name: uuid.to_string() };
            match deposit {
                Deposit::Record => match Record::from_file(&File::from(file)) {
                    Ok(record) if record.owner.uuid == uuid => {
                        let owner = record.owner.clone();
                        leases.entry(owner).record = record;
                    }
                    Ok(_) => tracing::error!(%uuid, "a record of somebody else's leases"),
                    Err(error) => tracing::error!(%uuid, %error, "record of leases"),
                },
                Deposit::Process => leases.entry(nameless()).process = Some(file),
                Deposit::Lease(number) => drop(leases.entry(nameless()).files.insert(number, file)),
            }
        }
        let inner = Arc::new(Inner { stack, leases: Mutex::new(leases) });
        let owners = inner.leases().owners();
        for owner in owners {
            inner.watch(owner);
        }
        Ok(Arc::new(Self(inner)))
    }

    fn dispatch(self: Arc<Self>, call: CallContext, body: Vec<u8>, files: Vec<OwnedFd>) -> Answer {
        lock::dispatch(self, call, body, files)
    }

    fn busy(&self) -> Vec<Busy> {
        Vec::new()
    }

    async fn leave(&self, _reason: Leave) {}
}

fn error(code: Code, message: String) -> Error {
    Error::new(code, Origin::LOCKING, message)
}

/// Has a process ended?
fn has_ended(process: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::new(process, PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn system(path: &str) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::system(Origin::LOCKING, format!("{path} can't be locked"), &error)
}

impl Inner {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        // A panic elsewhere leaves the table as it was before or after a change.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an owner's leases back when its process ends.
    fn watch(self: &Arc<Self>, owner: Uuid) {
        let process = {
            let leases = self.leases();
            let process = leases.get(owner).and_then(|holding| holding.process.as_ref());
            let Some(process) = process else { return };
            process.try_clone().and_then(link::watch)
        };
        let inner = Arc::clone(self);
        match process {
            Ok(process) => drop(tokio::spawn(async move {
                let _ = process.readable().await;
                // Another one may be there by now, under the same name.
                if inner.is_over(owner) {
                    inner.release(owner).await;
                }
            })),
            Err(error) => tracing::error!(%owner, %error, "the end of a guest is not seen"),
        }
    }

    /// Has the process ended that the leases were for?
    fn is_over(&self, owner: Uuid) -> bool {
        let leases = self.leases();
        let process = leases.get(owner).and_then(|holding| holding.process.as_ref());
        process.is_some_and(|process| has_ended(process.as_fd()))
    }

    async fn release(&self, owner: Uuid) {
        let Some(holding) = self.leases().remove(owner) else { return };
        fault::point("lease", "before_release");
        let mut names: Vec<String> =
            holding.files.keys().map(|number| Deposit::Lease(*number).name(owner)).collect();
        names.extend([Deposit::Process, Deposit::Record].map(|deposit| deposit.name(owner)));
        drop(holding);
        for name in names {
            if let Err(error) = self.stack.withdraw(&name).await {
                tracing::error!(name, %error, "a lease that is over is still on the shelf");
            }
        }
        fault::point("lease", "after_release");
    }

    async fn open(&self, wanted: &LeaseWanted, owner: Uuid) -> Result<File, Error> {
        let key = owner.to_string();
        Ok(File::from(self.stack.open_disk(wanted.path.as_str().into(), &key, !wanted.shared).await?))
    }

    /// Locks a file, or says who has it.
    async fn lock(&self, file: &File, wanted: &LeaseWanted, owner: Uuid) -> Result<(), Error> {
        let identity = file::identity(file).map_err(system(&wanted.path))?;
        loop {
            let Locked::Others(pid) = file::lock(file, wanted.shared).map_err(system(&wanted.path))? else {
                return Ok(());
            };
            let (holder, ended) = {
                let leases = self.leases();
                let holder = leases.holder(identity, wanted.shared, owner);
                let ended = holder.and_then(|(holding, _)| holding.process.as_ref());
                let ended = ended.is_some_and(|process| has_ended(process.as_fd()));
                (holder.map(|(holding, lease)| (holding.record.owner.clone(), lease.since)), ended)
            };
            // Its end is known to the kernel and not yet to who watches it.
            if let Some((over, _)) = holder.as_ref().filter(|_| ended) {
                self.release(over.uuid).await;
                continue;
            }
            let who = match (holder, pid) {
                (Some((holder, since)), _) => {
                    let seconds = age(since).as_secs();
                    format!("domain '{}' ({}) of this stack, for {seconds} s", holder.name, holder.uuid)
                }
                (None, Some(pid)) => format!("process {pid} of this host"),
                (None, None) => "another stack of this host, or another host".to_owned(),
            };
            let message = format!(
                "Disk {} is in use by {who}; end that use first, or mark the disk <shareable/> on both sides",
                wanted.path
            );
            return Err(error(Code::RESOURCE_BUSY, message));
        }
    }

    async fn acquire(&self, owner: LeaseOwner, wanted: Vec<LeaseWanted>) -> Result<Vec<Descriptor>, Error> {
        let uuid = owner.uuid;
        if wanted.len() > LEASES_MAX {
            let message = format!("{} leases for one guest; at most {LEASES_MAX} are given", wanted.len());
            return Err(error(Code::INVALID_ARG, message));
        }
        if self.is_over(uuid) {
            self.release(uuid).await;
        }
        let mut taken: Vec<(Lease, File)> = Vec::new();
        let mut given = Vec::new();
        for wanted in wanted {
            let file = self.open(&wanted, uuid).await?;
            let identity = file::identity(&file).map_err(system(&wanted.path))?;
            if let Some(ours) = self.ours(uuid, identity, &wanted)? {
                given.push(Descriptor::new(ours));
                continue;
            }
            if let Some((twin, _)) = taken.iter().find(|(lease, _)| lease.file == identity) {
                if twin.shared && wanted.shared {
                    continue;
                }
                let message = format!(
                    "{} and {} are one file, which this guest can't use twice",
                    twin.path, wanted.path
                );
                return Err(error(Code::RESOURCE_BUSY, message));
            }
            self.lock(&file, &wanted, uuid).await?;
            let LeaseWanted { path, shared } = wanted;
            taken.push((Lease { path, file: identity, shared, number: 0, since: SystemTime::now() }, file));
        }
        fault::point("lease", "before_shelf");
        let kept = self.keep(owner, taken);
        let (files, kept) = match kept {
            Ok(kept) => kept,
            Err(failed) => {
                self.release(uuid).await;
                return Err(Error::system(Origin::LOCKING, "Leases can't be kept", &failed));
            }
        };
        for (name, file) in kept {
            if let Err(error) = self.stack.deposit(&name, file).await {
                self.release(uuid).await;
                return Err(error);
            }
        }
        fault::point("lease", "after_shelf");
        given.extend(files.into_iter().map(Descriptor::new));
        Ok(given)
    }

    /// The lease that this owner has of a file already, as a caller that asks again is given it.
    fn ours(
        &self,
        owner: Uuid,
        file: file::Identity,
        wanted: &LeaseWanted,
    ) -> Result<Option<OwnedFd>, Error> {
        let leases = self.leases();
        let Some(holding) = leases.get(owner) else { return Ok(None) };
        let lease =
            holding.record.leases.iter().find(|lease| lease.file == file && lease.shared == wanted.shared);
        let Some(file) = lease.and_then(|lease| holding.files.get(&lease.number)) else { return Ok(None) };
        file.try_clone().map(Some).map_err(system(&wanted.path))
    }

    /// Puts leases into the table. What the caller is given of them, and what belongs on the shelf.
    #[expect(clippy::type_complexity, reason = "two lists that are used up at once")]
    fn keep(
        &self,
        owner: LeaseOwner,
        taken: Vec<(Lease, File)>,
    ) -> std::io::Result<(Vec<OwnedFd>, Vec<(String, OwnedFd)>)> {
        let uuid = owner.uuid;
        let (mut given, mut shelf) = (Vec::new(), Vec::new());
        let mut leases = self.leases();
        let holding = leases.entry(owner);
        let first = holding.record.next();
        for (number, (mut lease, file)) in (first..).zip(taken) {
            lease.number = number;
            given.push(file.try_clone()?.into());
            shelf.push((Deposit::Lease(number).name(uuid), file.try_clone()?.into()));
            holding.record.leases.push(lease);
            holding.files.insert(number, file.into());
        }
        // The record first: what lies there without it has no name.
        shelf.insert(0, (Deposit::Record.name(uuid), holding.record.to_file()?));
        Ok((given, shelf))
    }

    async fn bind(
        self: &Arc<Self>,
        owner: LeaseOwner,
        wanted: Vec<LeaseWanted>,
        process: OwnedFd,
    ) -> Result<(), Error> {
        let uuid = owner.uuid;
        let failed = |failed: std::io::Error| Error::system(Origin::LOCKING, "The guest's process", &failed);
        let known = {
            let leases = self.leases();
            leases.get(uuid).map(|holding| holding.process.as_ref().map(|process| has_ended(process.as_fd())))
        };
        if known == Some(Some(false)) {
            return Ok(());
        }
        if known.is_none() {
            // It outlived the broker that kept its leases; its own process has them.
            let mut known = Vec::new();
            for wanted in wanted.into_iter().take(LEASES_MAX) {
                let file = self.open(&wanted, uuid).await?;
                let identity = file::identity(&file).map_err(system(&wanted.path))?;
                let LeaseWanted { path, shared } = wanted;
                let number = known.len() as u64;
                known.push(Lease { path, file: identity, shared, number, since: SystemTime::now() });
            }
            self.leases().entry(owner.clone()).record.leases = known;
        }
        let kept = {
            let mut leases = self.leases();
            let holding = leases.entry(owner);
            let record = holding.record.to_file().map_err(failed)?;
            let copy = process.try_clone().map_err(failed)?;
            holding.process = Some(process);
            [(Deposit::Record, record), (Deposit::Process, copy)]
        };
        for (deposit, file) in kept {
            self.stack.deposit(&deposit.name(uuid), file).await?;
        }
        self.watch(uuid);
        fault::point("lease", "after_bind");
        Ok(())
    }
}

impl lock::Server for Locks {
    async fn leases_acquire(
        &self,
        _call: CallContext,
        arguments: lock::leases_acquire::Arguments,
    ) -> Result<Vec<Descriptor>, Error> {
        self.0.acquire(arguments.owner, arguments.leases).await
    }

    async fn leases_bind(
        &self,
        _call: CallContext,
        arguments: lock::leases_bind::Arguments,
    ) -> Result<(), Error> {
        let lock::leases_bind::Arguments { owner, leases, process } = arguments;
        let process = process.into_owned();
        let process = process.ok_or_else(|| error(Code::INVALID_ARG, "No process came".to_owned()))?;
        self.0.bind(owner, leases, process).await
    }

    async fn leases_release(
        &self,
        _call: CallContext,
        arguments: lock::leases_release::Arguments,
    ) -> Result<(), Error> {
        let runs = {
            let leases = self.0.leases();
            let holding = leases.get(arguments.owner);
            holding
                .and_then(|holding| holding.process.as_ref())
                .is_some_and(|process| !has_ended(process.as_fd()))
        };
        if runs {
            let message = format!("The guest {} runs, and keeps its leases", arguments.owner);
            return Err(error(Code::OPERATION_INVALID, message));
        }
        self.0.release(arguments.owner).await;
        Ok(())
    }

    async fn leases_list(
        &self,
        _call: CallContext,
        _arguments: lock::leases_list::Arguments,
    ) -> Result<Vec<LeaseInfo>, Error> {
        Ok(self.0.leases().list())
    }
}
