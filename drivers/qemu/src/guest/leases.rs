//! Leases of a guest's disks: taken before QEMU opens them, and inherited by it, so that they last exactly as long as it.

use super::{Guest, Process};
use crate::driver::Environment;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::{Driver, lock};
use bulkhead_wire::types::Uuid;
use bulkhead_wire::types::lock::{LeaseOwner, LeaseWanted};
use bulkhead_xml::Element;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often the lock driver is told of a guest's process, should it die meanwhile.
const BIND_ATTEMPTS: usize = 3;

/// The files of a guest's disks that are to be leased: of what it may write to nobody else may have any use, what its images
/// stand on may be used by others who don't write, and of what it only reads there is none.
pub(super) fn wanted(live: &Element) -> Vec<LeaseWanted> {
    let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
    let mut want = |element: &Element, shared: bool| {
        let path = element.path_attr("source", "file").or_else(|| element.path_attr("source", "dev"));
        if let Some(path) = path {
            let entry = wanted.entry(path.to_owned()).or_insert(shared);
            *entry &= shared;
        }
    };
    for disk in live.child("devices").into_iter().flat_map(|devices| devices.all("disk")) {
        let only_read = disk.child("readonly").is_some() || disk.attr("device") == Some("cdrom");
        let shared = disk.child("shareable").is_some();
        if !only_read {
            want(disk, shared);
            if let Some(store) = disk.at("source/dataStore") {
                want(store, shared);
            }
        }
        // A chain is as long as its XML, which has a depth limit.
        let mut layer = disk.child("backingStore").filter(|_| !only_read);
        while let Some(element) = layer {
            want(element, true);
            layer = element.child("backingStore");
        }
    }
    wanted.into_iter().map(|(path, shared)| LeaseWanted { path, shared }).collect()
}

/// Gives the leases back of a guest whose start was cut short, before it can be started again.
pub(crate) fn forget(environment: &Arc<Environment>, uuid: Uuid) {
    let stack = environment.stack.clone();
    let release = async move {
        let released = async {
            let locks = lock::Client(stack.peer_on_demand(Driver::Lock).await?);
            locks.leases_release(uuid).await
        };
        if let Err(error) = released.await {
            tracing::error!(%uuid, %error, "leases of a start that was cut short");
        }
    };
    // In the guest's own order, if there is a guest: what comes after it takes them anew.
    match environment.by_uuid(uuid) {
        Some(guest) => {
            if let Err(error) = guest.object.post("give leases back", move |_: &mut Guest| Box::pin(release))
            {
                tracing::error!(%uuid, %error, "leases of a start that was cut short");
            }
        }
        None => drop(tokio::spawn(release)),
    }
}

impl Guest {
    fn lease_owner(&self) -> LeaseOwner {
        LeaseOwner { uuid: self.uuid, name: self.name.clone() }
    }

    async fn locks(&self) -> Result<lock::Client, Error> {
        Ok(lock::Client(self.environment.stack.peer_on_demand(Driver::Lock).await?))
    }

    /// Takes the leases; what is returned QEMU is to inherit.
    pub(super) async fn take_leases(&self, wanted: &[LeaseWanted]) -> Result<Vec<Descriptor>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let taken = async { self.locks().await?.leases_acquire(self.lease_owner(), wanted.to_vec()).await };
        taken.await.map_err(|error| self.named(&error))
    }

    /// From now on the leases end with this process.
    pub(super) async fn bind_leases(&self, wanted: &[LeaseWanted], process: &Process) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let failed = |error: &std::io::Error| Error::system(Origin::QEMU, "Its process", error);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let copy = process.get_ref().try_clone().map_err(|error| self.named(&failed(&error)))?;
            let bound = async {
                let locks = self.locks().await?;
                locks.leases_bind(self.lease_owner(), wanted.to_vec(), Descriptor::new(copy)).await
            };
            match bound.await {
                // Whether it was done before the driver died does not matter: it may be done twice.
                Err(error) if attempts < BIND_ATTEMPTS && error.code == Code::OPERATION_FAILED => {}
                Err(error) => return Err(self.named(&error)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Gives the leases back of a guest that did not start, or has ended.
    pub(super) async fn give_leases_back(&self, wanted: &[LeaseWanted]) {
        if wanted.is_empty() {
            return;
        }
        let given = async { self.locks().await?.leases_release(self.uuid).await };
        if let Err(error) = given.await {
            tracing::error!(domain = self.name, %error, "leases stay until the lock driver sees that it has ended");
        }
    }

    /// Tells the lock driver of a guest that was adopted: it may know nothing of it any more.
    pub(super) fn announce_leases(&self, wanted: Vec<LeaseWanted>) {
        let myself = self.myself.clone();
        let Some(guest) = myself.upgrade().filter(|_| !wanted.is_empty()) else { return };
        let told = guest.post("announce leases", move |guest: &mut Guest| {
            Box::pin(async move {
                let Some(process) = guest.running.as_ref().map(|running| Process::clone(&running.process))
                else {
                    return;
                };
                if let Err(error) = guest.bind_leases(&wanted, &process).await {
                    tracing::error!(domain = guest.name, %error, "leases");
                }
            })
        });
        if let Err(error) = told {
            tracing::error!(domain = self.name, %error, "leases");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_writes_is_its_own_and_what_it_stands_on_is_shared() {
        let disks = "<domain><devices>\
            <disk type='file'><source file='/a'/><backingStore type='file'><format type='raw'/>\
              <source file='/base'/><backingStore/></backingStore></disk>\
            <disk type='block'><source dev='/dev/b'/><shareable/></disk>\
            <disk type='file'><source file='/c'/><readonly/></disk>\
            <disk type='file' device='cdrom'><source file='/d'/></disk>\
            <disk type='network'><source protocol='nbd' name='e'/></disk>\
            <disk type='file'><source file='/f'/><backingStore type='file'><source file='/base'/></backingStore></disk>\
            </devices></domain>";
        let live = crate::guest::amend::tree(disks).unwrap();
        let found: Vec<_> = wanted(&live).into_iter().map(|lease| (lease.path, lease.shared)).collect();
        let expected = [("/a", false), ("/base", true), ("/dev/b", true), ("/f", false)];
        assert_eq!(found, expected.map(|(path, shared)| (path.to_owned(), shared)));
    }
}
