//! What drivers wish of their broker.
//!
//! A wish that may wait for a disk, and so for ever, is done beside the stack's task: its driver alone waits for it.

use super::{Alive, Happening, NAME_MAX_BYTES, Stack, WAITING_MAX, describe};
use crate::ceiling::{client_file, pool_folder};
use crate::helpers::{self, Running};
use crate::launcher::process;
use crate::manifest::{self, Manifest};
use crate::supervisor::Event;
use crate::sysctl;
use bulkhead_sandbox::ceiling::{CEILINGS, POOL};
use bulkhead_wire::control::{FilePurpose, HelperRequest, Request, Response, ToDriver};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::Driver;
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A driver's wish.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(super) driver: Driver,
    pub(super) incarnation: u64,
    pub(super) id: u64,
    /// The helper that is being started for it.
    pub(super) key: Option<String>,
}

/// A helper that is being started.
#[derive(Debug)]
pub(super) struct Starting {
    owner: Driver,
    class: String,
    /// Its driver has not said meanwhile that it shall end.
    wanted: bool,
}

/// What a wish came to that was done beside the stack's task.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Response),
    Helper(Running),
}

fn denied(driver: Driver, what: &str) -> Error {
    Error::new(Code::OPERATION_DENIED, Origin::BROKER, format!("The {driver} driver {what}"))
}

fn file(file: OwnedFd) -> Option<Response> {
    Some(Response::File(Descriptor::new(file)))
}

impl Stack {
    pub(super) fn wished(&mut self, wish: Wish, request: Request) {
        let (driver, id) = (wish.driver, wish.id);
        if let Some(result) = self.grant(wish, request).transpose() {
            self.reply(driver, id, result);
        }
    }

    fn reply(&mut self, driver: Driver, id: u64, result: Result<Response, Error>) {
        if let Err(error) = &result
            && self.alive.get_mut(&driver).is_some_and(Alive::is_logged)
        {
            tracing::warn!(%driver, %error, "wish refused");
        }
        self.tell(driver, &ToDriver::Answer { id, result });
    }

    /// Does what is wished, or begins it: then there is no answer yet.
    fn grant(&mut self, wish: Wish, request: Request) -> Result<Option<Response>, Error> {
        let driver = wish.driver;
        let denied = |what: &str| denied(driver, what);
        let manifest = manifest::of(driver).ok_or_else(|| denied("has no manifest"))?;
        if self.alive.get(&driver).is_some_and(|alive| Arc::strong_count(&alive.beside) > WAITING_MAX) {
            return Err(denied("has too many wishes that are not done yet"));
        }
        match request {
            Request::HelperStart(request) => self.helper_start(manifest, wish, *request).map(|()| None),
            Request::PoolFolder { path, make } if manifest.helpers.contains(&POOL) => {
                let layout = self.root.layout.clone();
                self.beside(wish, move || {
                    pool_folder(&layout, &path, make).map(|()| Outcome::Done(Response::Done))
                });
                Ok(None)
            }
            Request::PoolFolder { .. } => Err(denied("has no pools")),
            Request::File { path, purpose } if manifest.helpers.contains(&"qemu") => {
                let layout = self.root.layout.clone();
                self.beside(wish, move || {
                    client_file(&layout, "file", "file", &path, purpose).map(Outcome::Done)
                });
                Ok(None)
            }
            Request::File { .. } => Err(denied("opens no files of clients")),
            Request::Group { key, file: name, thread } => {
                let pid = self.own_helper(driver, &key)?.record.pid;
                let opened = bulkhead_sandbox::group::open(pid, &name, thread).map(file);
                opened.map_err(helpers::failed(format!("{name} of {key}")))
            }
            Request::OpenDisk { key, path, writes } if driver == Driver::Lock => {
                let purpose = if writes { FilePurpose::Change } else { FilePurpose::Read };
                let layout = self.root.layout.clone();
                self.beside(wish, move || {
                    client_file(&layout, "qemu", &key, &path, purpose).map(Outcome::Done)
                });
                Ok(None)
            }
            Request::OpenDisk { .. } => Err(denied("locks no disks")),
            Request::Want { peer } => {
                if !manifest.calls.contains(&peer) {
                    return Err(denied(&format!("may not call the {peer} driver")));
                }
                self.step(Event::Want(peer));
                Ok(Some(Response::Done))
            }
            Request::PortsFree { ports } => helpers::ports_free(&ports).map(|()| Some(Response::Done)),
            Request::HelperKill { key } => {
                let starting = self.starting.get_mut(&key).filter(|starting| starting.owner == driver);
                if let Some(starting) = starting {
                    starting.wanted = false;
                    return Ok(Some(Response::Done));
                }
                process::signal(&self.own_helper(driver, &key)?.pidfd, libc::SIGKILL);
                Ok(Some(Response::Done))
            }
            Request::Connect { key, socket } => {
                self.own_helper(driver, &key)?;
                helpers::connect(&self.root.layout, &key, &socket).map(file)
            }
            Request::Listen { key, socket } => {
                self.own_helper(driver, &key)?;
                helpers::listener(&self.root.layout, &key, &socket).map(file)
            }
            // What it may open is settled when it starts: it is handed the file itself.
            Request::Open { key, path, purpose } => {
                let class = self.own_helper(driver, &key)?.record.class.clone();
                if !CEILINGS.iter().any(|ceiling| ceiling.class == class && ceiling.grows) {
                    return Err(denied("asks for a file for a helper that is given none later"));
                }
                let layout = self.root.layout.clone();
                self.beside(wish, move || {
                    client_file(&layout, &class, &key, &path, purpose).map(Outcome::Done)
                });
                Ok(None)
            }
            Request::Terminal { key, path } => {
                helpers::terminal(&self.own_helper(driver, &key)?.record, &path).map(file)
            }
            Request::Deposit { name, file } => {
                let held = self.shelf.of(driver).count();
                // The application needs some of its descriptors itself.
                let share = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft / 4);
                let most = manifest.deposits_max.min(usize::try_from(share).unwrap_or(usize::MAX));
                if held >= most || name.len() > NAME_MAX_BYTES {
                    return Err(denied(&format!("may deposit {most} descriptors at most, with short names")));
                }
                if let Some(file) = file.into_owned() {
                    self.shelf.insert(driver, name, file);
                }
                Ok(Some(Response::Done))
            }
            Request::Withdraw { name } => {
                self.shelf.remove(driver, name);
                Ok(Some(Response::Done))
            }
            Request::Forward { ipv6 } if driver == Driver::Network => {
                sysctl::forward(ipv6).map(|()| Some(Response::Done))
            }
            Request::BridgeIpv6 { interface, enable } if driver == Driver::Network => {
                sysctl::bridge_ipv6(&interface, enable).map(|()| Some(Response::Done))
            }
            Request::Forward { .. } | Request::BridgeIpv6 { .. } => Err(denied("has no networks")),
            Request::Reinstate { object } => {
                for (place, aside) in self.set_aside(driver) {
                    if aside == object {
                        fs::remove_file(place)
                            .map_err(|error| Error::system(Origin::BROKER, "Can't be reinstated", &error))?;
                    }
                }
                Ok(Some(Response::Done))
            }
            Request::Adopting { object } => {
                if object.len() > NAME_MAX_BYTES {
                    return Err(denied("names an object that no one could"));
                }
                self.step(Event::Adopting(driver, (!object.is_empty()).then_some(object)));
                Ok(Some(Response::Done))
            }
        }
    }

    fn helper_start(
        &mut self,
        manifest: &Manifest,
        mut wish: Wish,
        mut request: HelperRequest,
    ) -> Result<(), Error> {
        let driver = wish.driver;
        if !manifest.helpers.contains(&request.class.as_str()) {
            return Err(denied(driver, &format!("may not ask for helpers of class '{}'", request.class)));
        }
        // Its driver may have seen the end of the one before earlier than this task has.
        let runs = |helper: &Running| !process::has_ended(&helper.pidfd);
        let key = request.key.clone();
        if self.starting.contains_key(&key) || self.helpers.get(&key).is_some_and(runs) {
            return Err(denied(driver, &format!("has a helper '{key}' already")));
        }
        if let Some(pid) = self.helpers.get(&key).map(|helper| helper.record.pid) {
            // Cleared away first: it has the same folder.
            self.helper_ended(key.clone(), pid, None);
        }
        let classes = self.helpers.values().map(|helper| &helper.record.class);
        let classes = classes.chain(self.starting.values().map(|starting| &starting.class));
        let count = classes.filter(|class| **class == request.class).count();
        let errors = request.errors.as_mut();
        let heard_by = errors.and_then(|errors| errors.inspect(|file| self.shelf.owner_of(file)).flatten());
        let (layout, libexec) = (self.root.layout.clone(), self.config.libexec.clone());
        let starting = Starting { owner: driver, class: request.class.clone(), wanted: true };
        self.starting.insert(key.clone(), starting);
        wish.key = Some(key);
        self.beside(wish, move || {
            helpers::start(&layout, &libexec, driver.name(), count, request, heard_by).map(Outcome::Helper)
        });
        Ok(())
    }

    fn beside(&self, wish: Wish, work: impl FnOnce() -> Result<Outcome, Error> + Send + 'static) {
        let Some(room) = self.alive.get(&wish.driver).map(|alive| Arc::clone(&alive.beside)) else { return };
        let happenings = self.happenings.clone();
        tokio::spawn(async move {
            let _place = room.acquire().await;
            let done = tokio::task::spawn_blocking(work).await;
            let outcome = done.unwrap_or_else(|error| {
                Err(Error::new(Code::INTERNAL, Origin::BROKER, format!("The wish came to nothing: {error}")))
            });
            let _ = happenings.send(Happening::Done(wish, outcome)).await;
        });
    }

    /// What was done beside this task is answered, if who wished it is still there to hear it.
    pub(super) fn done(&mut self, wish: Wish, outcome: Result<Outcome, Error>) {
        let Wish { driver, incarnation, id, key } = wish;
        let wanted = key.and_then(|key| self.starting.remove(&key)).is_none_or(|starting| starting.wanted);
        let hears = self.alive.get(&driver).is_some_and(|alive| alive.incarnation == incarnation);
        let result = outcome.and_then(|outcome| match outcome {
            Outcome::Done(response) => Ok(response),
            Outcome::Helper(running) => {
                let described = describe(&running).map_err(helpers::failed("Can't watch the helper"));
                if !hears || !wanted || described.is_err() {
                    // Nobody waits for it, and its driver's next process was welcomed without it.
                    process::signal(&running.pidfd, libc::SIGKILL);
                }
                self.watch_helper(&running);
                self.helpers.insert(running.record.key.clone(), running);
                described.map(Response::Helper)
            }
        });
        if hears {
            self.reply(driver, id, result);
        }
    }

    fn own_helper(&self, driver: Driver, key: &str) -> Result<&Running, Error> {
        self.helpers.get(key).filter(|helper| helper.record.owner == driver.name()).ok_or_else(|| {
            Error::new(
                Code::OPERATION_INVALID,
                Origin::BROKER,
                format!("The {driver} driver has no helper '{key}'"),
            )
        })
    }
}
