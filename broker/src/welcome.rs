//! The first words to a driver: what its earlier incarnations left, then the welcome.

use crate::helpers::{self, Running};
use crate::launcher::process;
use crate::manifest;
use crate::stack::Stack;
use bulkhead_wire::control::{Identity, ToDriver, Welcome};
use bulkhead_wire::descriptor::{DESCRIPTORS_MAX, Descriptor};
use bulkhead_wire::frame::Token;
use bulkhead_wire::table::Driver;
use std::io;

/// Messages with one descriptor for each item, and no more items than descriptors may travel at a time.
fn portions<T>(items: Vec<T>, message: fn(Vec<T>) -> ToDriver) -> impl Iterator<Item = ToDriver> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let portion: Vec<T> = items.by_ref().take(DESCRIPTORS_MAX).collect();
        (!portion.is_empty()).then(|| message(portion))
    })
}

impl Stack {
    /// Tells a driver that has confined itself what it needs to know.
    pub(crate) fn welcome(&mut self, driver: Driver) -> io::Result<()> {
        let deposits = self
            .shelf
            .iter()
            .filter(|((owner, _), _)| *owner == driver)
            .map(|((_, name), file)| Ok((name.clone(), Descriptor::new(file.try_clone()?))))
            .collect::<io::Result<Vec<_>>>()?;
        let helpers = self
            .helpers
            .values()
            .filter(|helper| helper.record.owner == driver.name())
            .map(Running::describe)
            .collect::<io::Result<Vec<_>>>()?;
        for message in portions(deposits, ToDriver::Deposits).chain(portions(helpers, ToDriver::Helpers)) {
            self.tell(driver, &message);
        }
        let first = self.supervisor.life(driver).is_none_or(|life| life.incarnation == 1);
        let welcome = Welcome {
            incarnation: self.supervisor.life(driver).map_or(1, |life| life.incarnation),
            layout: self.root.layout.clone(),
            mode: self.config.mode.name().to_owned(),
            owner: Some(Descriptor::new(process::open(std::process::id())?)),
            set_aside: self.set_aside(driver),
            clients: self.clients_of_gateway(driver),
            programs: helpers::programs(manifest::of(driver).map_or(&[], |manifest| manifest.helpers)),
            // Only the first incarnation fails, but for rules that say always: what is tested is how the next one finds
            // things.
            faults: self
                .config
                .faults
                .iter()
                .filter(|rule| rule.driver == driver && (rule.nth == 0 || first))
                .cloned()
                .collect(),
        };
        self.tell(driver, &ToDriver::Welcome(Box::new(welcome)));
        Ok(())
    }

    /// The clients that this driver hears of from the gateway.
    fn clients_of_gateway(&self, driver: Driver) -> Vec<(Token, Identity)> {
        let called = manifest::of(Driver::Gateway).is_some_and(|gateway| gateway.calls.contains(&driver));
        let identity = |token: &Token| self.clients.get(token).map(|identity| (*token, identity.clone()));
        self.connections.keys().filter(|_| called).filter_map(identity).collect()
    }
}
