//! The clients that may call this driver, as the broker names them: who each is, when one has come, when one has gone.

use bulkhead_wire::control::Identity;
use bulkhead_wire::frame::Token;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// Time in which the broker's word about a client comes, when another driver's call for it has come already.
const ARRIVE_WITHIN: Duration = Duration::from_secs(2);
/// Clients' tokens that a driver knows at one time.
const CLIENTS_MAX: usize = 65_536;

/// All clients whose tokens are valid at the moment.
#[derive(Debug)]
pub struct Clients {
    known: RwLock<HashMap<Token, Identity>>,
    /// Counts those that came.
    arrived: watch::Sender<u64>,
    /// Counts those that went.
    departed: watch::Sender<u64>,
}

impl Clients {
    /// Those that a welcome names.
    #[must_use]
    pub fn new(known: Vec<(Token, Identity)>) -> Self {
        Self {
            known: RwLock::new(known.into_iter().collect()),
            arrived: watch::Sender::new(0),
            departed: watch::Sender::new(0),
        }
    }

    /// Who the client of this token is; nobody, if it has gone or never was.
    #[must_use]
    pub fn identity(&self, token: Token) -> Option<Identity> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&token).cloned()
    }

    /// Is the client of this token there?
    #[must_use]
    pub fn is_there(&self, token: Token) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains_key(&token)
    }

    /// All of them.
    #[must_use]
    pub fn tokens(&self) -> Vec<Token> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Changes whenever a client has gone. Which ones, [`Clients::is_there`] tells: nothing is missed by who looks late.
    #[must_use]
    pub fn departures(&self) -> watch::Receiver<u64> {
        self.departed.subscribe()
    }

    /// Waits a moment for the broker's word about a client.
    pub(crate) async fn arrival(&self, token: Token) {
        let mut arrived = self.arrived.subscribe();
        let waited = arrived.wait_for(|_| self.is_there(token));
        drop(tokio::time::timeout(ARRIVE_WITHIN, waited).await);
    }

    pub(crate) fn came(&self, token: Token, identity: Identity) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < CLIENTS_MAX {
            known.insert(token, identity);
        }
        drop(known);
        self.arrived.send_modify(|count| *count += 1);
    }

    pub(crate) fn went(&self, token: Token) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&token);
        self.departed.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_looks_late_sees_that_a_client_has_gone() {
        let identity = |pid| Identity { uid: 0, gid: 0, pid, read_only: false };
        let (first, second) = (Token([1; 16]), Token([2; 16]));
        let clients = Clients::new(vec![(first, identity(1))]);
        let mut departures = clients.departures();
        clients.came(second, identity(2));
        assert!(!departures.has_changed().unwrap());
        clients.went(first);
        assert!(departures.has_changed().unwrap());
        departures.mark_unchanged();
        assert!(!clients.is_there(first));
        assert_eq!(clients.identity(second).unwrap().pid, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_early_is_waited_for_and_one_that_never_comes_not_for_ever() {
        let clients = std::sync::Arc::new(Clients::new(Vec::new()));
        let token = Token([7; 16]);
        let waiting = tokio::spawn({
            let clients = std::sync::Arc::clone(&clients);
            async move { clients.arrival(token).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        clients.came(token, Identity { uid: 0, gid: 0, pid: 1, read_only: false });
        waiting.await.unwrap();
        clients.arrival(Token([8; 16])).await;
    }
}
