//! What the lock driver's calls are made of.

use super::Uuid;
use serde::{Deserialize, Serialize};

/// Who holds leases: a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOwner {
    /// Its identity.
    pub uuid: Uuid,
    /// Its name, for those who are refused because of it.
    pub name: String,
}

/// A file that a guest needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseWanted {
    /// Where it is.
    pub path: String,
    /// May others have it at the same time, who say so too?
    pub shared: bool,
}

/// A lease, for those who want to know who holds what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// Who holds it.
    pub owner: LeaseOwner,
    /// The file.
    pub path: String,
    /// May others have it at the same time?
    pub shared: bool,
    /// For how long, in seconds.
    pub age_seconds: u64,
    /// Does the guest run? Else it is being started.
    pub runs: bool,
}
