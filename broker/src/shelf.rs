//! The shelf: descriptors that drivers deposited and that their next processes are given back. A daemon's service manager is
//! given copies, so that they outlive the daemon too.

use bulkhead_wire::table::Driver;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;

/// Copies that wait for the service manager to take them; what does not fit is kept here alone.
const KEPT_QUEUE: usize = 1024;
/// Longest name that a service manager keeps a descriptor under.
const KEPT_NAME_MAX_BYTES: usize = 255;

/// Keep a copy under this name, or forget it.
type Kept = (String, Option<OwnedFd>);

/// All deposits.
#[derive(Debug)]
pub(crate) struct Shelf {
    deposits: BTreeMap<(Driver, String), OwnedFd>,
    /// To the thread that talks to the service manager: it may be slow, and nothing waits for it.
    keeper: Option<mpsc::SyncSender<Kept>>,
}

impl Shelf {
    /// What the service manager kept for an earlier broker; `None` where there is none, or where it is the application's.
    pub(crate) fn new(kept: Option<Vec<(String, OwnedFd)>>) -> io::Result<Self> {
        let Some(kept) = kept else { return Ok(Self { deposits: BTreeMap::new(), keeper: None }) };
        let (keeper, queue) = mpsc::sync_channel(KEPT_QUEUE);
        std::thread::Builder::new().name("bulkhead-keeper".to_owned()).spawn(move || keep(&queue))?;
        let deposits = kept.into_iter().filter_map(|(name, file)| Some((parse(&name)?, file))).collect();
        Ok(Self { deposits, keeper: Some(keeper) })
    }

    pub(crate) fn insert(&mut self, driver: Driver, name: String, file: OwnedFd) {
        if self.keeper.is_some() {
            let copy =
                file.try_clone().inspect_err(|error| tracing::warn!(%driver, name, %error, "is not kept"));
            self.tell_keeper(driver, &name, copy.ok());
        }
        self.deposits.insert((driver, name), file);
    }

    pub(crate) fn remove(&mut self, driver: Driver, name: String) {
        self.tell_keeper(driver, &name, None);
        self.deposits.remove(&(driver, name));
    }

    pub(crate) fn contains(&self, owner: &(Driver, String)) -> bool {
        self.deposits.contains_key(owner)
    }

    pub(crate) fn of(&self, driver: Driver) -> impl Iterator<Item = (&str, &OwnedFd)> {
        let own = self.deposits.iter().filter(move |((owner, _), _)| *owner == driver);
        own.map(|((_, name), file)| (name.as_str(), file))
    }

    /// Whose deposit is this file, or the other end of this pipe?
    pub(crate) fn owner_of(&self, file: BorrowedFd<'_>) -> Option<(Driver, String)> {
        let number =
            |file: BorrowedFd<'_>| nix::sys::stat::fstat(file).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        let wanted = number(file)?;
        let found = self.deposits.iter().find(|(_, deposit)| number(deposit.as_fd()) == Some(wanted));
        found.map(|(owner, _)| owner.clone())
    }

    fn tell_keeper(&self, driver: Driver, name: &str, copy: Option<OwnedFd>) {
        let Some(keeper) = &self.keeper else { return };
        let kept = kept_name(driver, name);
        if kept.len() > KEPT_NAME_MAX_BYTES || keeper.try_send((kept, copy)).is_err() {
            tracing::warn!(%driver, name, "the service manager does not keep it: it would not outlive this daemon");
        }
    }
}

/// The name of a deposit with the service manager, which allows no colons and no control characters.
fn kept_name(driver: Driver, name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let encoded = name
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") });
    format!("{}/{}", driver.name(), encoded.collect::<String>())
}

fn parse(kept: &str) -> Option<(Driver, String)> {
    let (driver, encoded) = kept.split_once('/')?;
    let driver =
        crate::manifest::MANIFESTS.iter().map(|manifest| manifest.driver).find(|one| one.name() == driver)?;
    let mut parts = encoded.split('%');
    let mut name = parts.next()?.as_bytes().to_vec();
    for part in parts {
        name.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        name.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some((driver, String::from_utf8(name).ok()?))
}

/// Hands copies to the service manager until the shelf has gone.
fn keep(queue: &mpsc::Receiver<Kept>) {
    for (name, copy) in queue {
        // What was kept under this name before is not that any more.
        let forgot = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        let kept = forgot.and_then(|()| match &copy {
            // Its owner says when it is needed no longer, not a hang-up.
            Some(file) => sd_notify::notify_with_fds(
                &[NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")],
                &[file.as_fd()],
            ),
            None => Ok(()),
        });
        if let Err(error) = kept {
            tracing::warn!(name, %error, "the service manager does not keep it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_name_says_whose_deposit_it_is() {
        for name in ["plain", "1 2097152 3 my guest: %41/é", ""] {
            let kept = kept_name(Driver::Log, name);
            assert!(!kept.contains(':') && kept.is_ascii(), "{kept}");
            assert_eq!(parse(&kept), Some((Driver::Log, name.to_owned())));
        }
        for foreign in ["libvirt-sock", "strangers/name", "log/%4", "log/%zz", "log/%ff"] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
