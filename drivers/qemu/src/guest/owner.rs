//! Whose guest it is: one that was started to be destroyed with a client's connection ends with that.

use super::Guest;
use bulkhead_wire::frame::Token;

impl Guest {
    /// The run that begins now ends with this client, or with none. One that is under way keeps whom it has.
    pub(crate) fn own(&self, owner: Option<Token>) {
        if self.running.is_none() {
            self.environment.owned.set(self.uuid, owner);
        }
    }

    /// Nobody's, once it does not run.
    pub(crate) fn disown(&self) {
        self.own(None);
    }

    /// Does it end with a client?
    pub(crate) fn is_owned(&self) -> bool {
        self.environment.owned.owner(self.uuid).is_some()
    }

    /// Has the client gone with which it ends?
    pub(crate) fn is_left_behind(&self) -> bool {
        self.running.is_some() && self.environment.owned.is_left_behind(self.uuid)
    }
}
