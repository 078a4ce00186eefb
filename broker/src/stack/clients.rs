//! Clients of libvirt's protocol: how they come in over the public sockets, reach the gateway, and go.

use super::{CONNECTIONS_MAX, CONNECTIONS_OF_USER_MAX, Connection, OUTBOX, Stack};
use crate::public::Connected;
use crate::supervisor::Event;
use crate::{helpers, manifest};
use bulkhead_wire::codec;
use bulkhead_wire::control::ToDriver;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::frame::Token;
use bulkhead_wire::table::Driver;

impl Stack {
    pub(super) fn client_gone(&mut self, token: Token) {
        self.clients.remove(&token);
        self.connections.remove(&token);
        self.waiting.retain(|(waiting, _, _)| *waiting != token);
        self.departed.push(token);
    }

    /// Tells the drivers who has gone, as far as they read: thousands that go at once end no driver. Called after whatever
    /// happens, which a beat does each second.
    pub(super) fn tell_departed(&mut self) {
        while self.drivers_keep_up()
            && let Some(token) = self.departed.pop()
        {
            for driver in self.alive.keys().copied().collect::<Vec<_>>() {
                self.tell_welcomed(driver, &ToDriver::ClientDown { token });
            }
        }
    }

    fn drivers_keep_up(&self) -> bool {
        self.alive.values().all(|alive| alive.outbox.capacity() > OUTBOX / 2)
    }

    /// Nobody is accepted whom the drivers could not be told of at once.
    pub(super) fn takes_connections(&self) -> bool {
        self.connections.len() < CONNECTIONS_MAX && self.drivers_keep_up()
    }

    pub(super) fn connected(&mut self, (identity, socket): Connected) {
        let of_user = |token: &&Token| self.clients.get(token).is_some_and(|known| known.uid == identity.uid);
        if identity.uid != 0 && self.connections.keys().filter(of_user).count() >= CONNECTIONS_OF_USER_MAX {
            tracing::warn!(uid = identity.uid, "has {CONNECTIONS_OF_USER_MAX} connections already");
            return;
        }
        let (Ok(token), Ok(state)) = (self.token(), helpers::memory_file("client", &[])) else { return };
        for driver in manifest::of(Driver::Gateway).map_or(&[][..], |manifest| manifest.calls) {
            self.tell_welcomed(*driver, &ToDriver::ClientUp { token, identity: identity.clone() });
        }
        self.clients.insert(token, identity);
        self.connections.insert(token, Connection { socket, state, handed_over: false });
        self.step(Event::Want(Driver::Gateway));
        self.hand_over();
    }

    /// Gives the gateway the connections that it has not got. What it has no room for now it gets after its next beat.
    pub(super) fn hand_over(&mut self) {
        let Some(alive) = self.alive.get(&Driver::Gateway).filter(|_| self.serves(Driver::Gateway)) else {
            return;
        };
        for (token, connection) in
            self.connections.iter_mut().filter(|(_, connection)| !connection.handed_over)
        {
            let files = (connection.socket.try_clone(), connection.state.try_clone());
            let (Some(identity), (Ok(socket), Ok(state))) = (self.clients.get(token), files) else {
                continue;
            };
            let (socket, state) = (Descriptor::new(socket), Descriptor::new(state));
            let (token, identity) = (*token, identity.clone());
            let message = codec::encode(&ToDriver::Connection { token, identity, socket, state });
            if alive.outbox.capacity() <= OUTBOX / 2
                || !message.is_ok_and(|encoded| alive.outbox.try_send(encoded).is_ok())
            {
                break;
            }
            connection.handed_over = true;
        }
    }
}
