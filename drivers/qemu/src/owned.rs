//! Guests that end with a client's connection (`VIR_DOMAIN_START_AUTODESTROY` of a client of libvirt's protocol).
//!
//! The owner's token stands in the guest's live record, so that the next process of this driver knows it too; who has gone
//! meanwhile is no longer among the clients that the broker names to it. What is compared is the state, not a message: a
//! client that goes while its guest is being started, adopted or taken note of is not missed.

use crate::driver::Environment;
use crate::guest::Guest;
use bulkhead_actors::clients::Clients;
use bulkhead_wire::frame::Token;
use bulkhead_wire::types::Uuid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Pause before a guest that could not be ended is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Which guest ends with which client.
pub(crate) struct Owned {
    clients: Arc<Clients>,
    owners: Mutex<HashMap<Uuid, Token>>,
    /// Counts the guests that got an owner.
    taken: watch::Sender<u64>,
}

impl Owned {
    pub(crate) fn new(clients: Arc<Clients>) -> Self {
        Self { clients, owners: Mutex::default(), taken: watch::Sender::new(0) }
    }

    /// This guest ends with that client, or with none.
    pub(crate) fn set(&self, guest: Uuid, owner: Option<Token>) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        match owner {
            Some(owner) => drop(owners.insert(guest, owner)),
            None => drop(owners.remove(&guest)),
        }
        drop(owners);
        if owner.is_some() {
            self.taken.send_modify(|count| *count += 1);
        }
    }

    /// The client that a guest ends with.
    pub(crate) fn owner(&self, guest: Uuid) -> Option<Token> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&guest).copied()
    }

    /// Has the client gone that a guest ends with?
    pub(crate) fn is_left_behind(&self, guest: Uuid) -> bool {
        self.owner(guest).is_some_and(|owner| !self.clients.is_there(owner))
    }

    /// The guests whose clients have gone.
    fn left_behind(&self) -> Vec<Uuid> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.iter().filter(|(_, owner)| !self.clients.is_there(**owner)).map(|(guest, _)| *guest).collect()
    }
}

/// Ends guests when their clients have gone, for as long as this process lives.
pub(crate) async fn follow(environment: Arc<Environment>) {
    let owned = &environment.owned;
    let (mut departures, mut taken) = (owned.clients.departures(), owned.taken.subscribe());
    loop {
        departures.mark_unchanged();
        taken.mark_unchanged();
        let mut again = false;
        for guest in owned.left_behind() {
            again |= !destroy(&environment, guest).await;
        }
        // All of them wait for what stays there until it is looked at.
        tokio::select! {
            changed = departures.changed() => if changed.is_err() { return },
            changed = taken.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN_AFTER), if again => {}
        }
    }
}

/// Has a guest end. False if it has to be tried again.
async fn destroy(environment: &Arc<Environment>, uuid: Uuid) -> bool {
    let Some(guest) = environment.by_uuid(uuid) else {
        environment.owned.set(uuid, None);
        return true;
    };
    tracing::info!(domain = guest.view.get().name, "ends with the connection of the client that started it");
    // Posted, not awaited: one that does not go holds up no other. Its own end takes it off the list.
    let posted = guest.object.post("autodestroy", |guest: &mut Guest| {
        Box::pin(async move {
            // Somebody may have started it anew since: that run is not this client's.
            if guest.is_left_behind()
                && let Err(error) = guest.destroyed().await
            {
                tracing::error!(%error, "autodestroy");
            }
        })
    });
    // Before its turn comes, as with any destroy: what waits for this QEMU ends with it. It is still this client's: only that
    // turn, which can't have come yet, takes it off the list.
    let _ = environment.stack.kill_helper(&guest.key()).await;
    posted.is_ok()
}
