//! What serves a network's guests: dnsmasq, a program of its own that outlives this driver.

use super::Network;
use crate::definition::ip::Ip;
use crate::definition::{Definition, Section};
use crate::environment::Environment;
use crate::error::{error, system, unsupported};
use crate::kernel::bridge_of;
use crate::services::{CONFIG, HOSTS, LEASES, LIST, NAMES, READY, Services, leases};
use bulkhead_wire::control::{Access, HelperRequest};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::network::Lease;
use nix::fcntl::OFlag;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

/// Time in which it is ready, and in which it is gone.
const READY_WITHIN: Duration = Duration::from_secs(5);
const GONE_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked whether it is ready.
const LOOKED_EVERY: Duration = Duration::from_millis(2);
/// What it may say when it fails.
const ERRORS_MAX_BYTES: u64 = 4096;
/// The longest list of leases that is read.
const LEASES_MAX_BYTES: u64 = 16 << 20;
/// Pause before it is started again, doubled with each end in a row, up to the longest.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
const AGAIN_DOUBLED_MAX: u32 = 10;
/// Who lives that long did not end for something that keeps it from starting.
const LASTING: Duration = Duration::from_secs(10);

/// Writes a file beside its place and moves it there: who reads it by itself never sees half of it.
fn write(folder: &Path, place: &Path, text: &str) -> io::Result<()> {
    let beside = folder.join(".new");
    fs::write(&beside, text)?;
    fs::rename(&beside, place)
}

fn write_lists(folder: &Path, services: &Services) -> io::Result<()> {
    write(folder, &folder.join(HOSTS).join(LIST), &services.hosts)?;
    write(folder, &folder.join(NAMES).join(LIST), &services.names)
}

fn write_all(folder: &Path, services: &Services) -> io::Result<()> {
    for folder in [folder.to_owned(), folder.join(HOSTS), folder.join(NAMES)] {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match fs::remove_file(folder.join(READY)) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    write_lists(folder, services)?;
    write(folder, &folder.join(CONFIG), &services.config)
}

impl Network {
    fn services_folder(&self, environment: &Environment) -> PathBuf {
        environment.services.join(self.services_key())
    }

    /// What it is to serve; nothing if it serves nobody.
    pub(super) fn services(&self, environment: &Environment) -> Result<Option<Services>, Error> {
        let definition = &self.view.get().definition;
        let Some(bridge) = bridge_of(definition) else { return Ok(None) };
        let resolvers = Path::new("/etc/resolv.conf").exists();
        Services::of(definition, bridge, &self.services_folder(environment), resolvers)
    }

    async fn on_disk(
        &self,
        environment: &Environment,
        services: &Services,
        write: fn(&Path, &Services) -> io::Result<()>,
    ) -> Result<(), Error> {
        let (folder, services) = (self.services_folder(environment), services.clone());
        let written = tokio::task::spawn_blocking(move || write(&folder, &services)).await;
        let written = written.map_err(io::Error::other).and_then(|written| written);
        written.map_err(|cause| system(format!("Network '{}': files of its services", self.name), &cause))
    }

    /// Starts what serves its guests, and waits until it does.
    pub(super) async fn serve(&self, environment: &Environment, services: &Services) -> Result<(), Error> {
        let named =
            |cause: Error| Error { message: format!("Network '{}': {}", self.name, cause.message), ..cause };
        let program = environment.dnsmasq.clone().ok_or_else(|| {
            unsupported(format!(
                "Network '{}': names and addresses are served by dnsmasq, which is not installed; install it, or leave <ip> out",
                self.name
            ))
        })?;
        self.on_disk(environment, services, write_all).await?;
        let system = |cause: io::Error| system(format!("Network '{}': dnsmasq", self.name), &cause);
        let (reading, writing) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|errno| system(errno.into()))?;
        let (key, folder) = (self.services_key(), self.services_folder(environment));
        let (ended, mut end) = oneshot::channel();
        environment.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), ended);
        let mut files = vec![(folder.clone(), Access::Folder)];
        files.extend(services.tftp_root.iter().map(|root| (PathBuf::from(root), Access::Read)));
        let request = HelperRequest {
            key: key.clone(),
            class: "dnsmasq".to_owned(),
            program,
            arguments: vec![
                "--keep-in-foreground".to_owned(),
                format!("--conf-file={}", folder.join(CONFIG).display()),
            ],
            environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
            files,
            listeners: Vec::new(),
            outputs: Vec::new(),
            descriptors: Vec::new(),
            ports: Vec::new(),
            network: true,
            errors: Some(Descriptor::new(writing)),
            autodestroy: false,
        };
        let forget = || drop(environment.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&key));
        if let Err(cause) = environment.stack.start_helper(request).await {
            forget();
            return Err(named(cause));
        }
        let ready = folder.join(READY);
        let waited = tokio::time::timeout(READY_WITHIN, async {
            let mut looks = tokio::time::interval(LOOKED_EVERY);
            loop {
                tokio::select! {
                    _ = &mut end => return false,
                    _ = looks.tick() => if ready.exists() { return true },
                }
            }
        });
        match waited.await {
            Ok(true) => {
                self.ended.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(Instant::now());
                forget();
                Ok(())
            }
            Ok(false) => Err(self.not_served(&said(reading).await)),
            Err(_elapsed) => {
                let _ = environment.stack.kill_helper(&key).await;
                Err(self.not_served("it was not ready in time"))
            }
        }
    }

    fn not_served(&self, said: &str) -> Error {
        let hint = if said.contains("in use") {
            "; end what listens there, or give the network another address"
        } else {
            ""
        };
        error(Code::INTERNAL, format!("Network '{}': dnsmasq does not serve it: {said}{hint}", self.name))
    }

    /// Ends what serves its guests, if anything does.
    pub(super) async fn end_services(&self, environment: &Environment) -> Result<(), Error> {
        let key = self.services_key();
        let (ended, end) = oneshot::channel();
        environment.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), ended);
        let killed = environment.stack.kill_helper(&key).await;
        // What is not there can't be killed, and need not be.
        let waited = match killed {
            Ok(()) => tokio::time::timeout(GONE_WITHIN, end).await.is_ok(),
            Err(_) => true,
        };
        environment.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if waited {
            return Ok(());
        }
        Err(error(
            Code::OPERATION_FAILED,
            format!("Network '{}': dnsmasq was killed and is still there", self.name),
        ))
    }

    /// What serves its guests has ended though nobody wanted it: it is started again.
    pub(crate) fn services_ended(self: &Arc<Self>, environment: &Arc<Environment>, status: Option<i32>) {
        if !self.view.get().active {
            return;
        }
        tracing::warn!(network = self.name, ?status, "dnsmasq has ended; it is started again");
        self.change(|view| view.degraded = Some("dnsmasq has ended; it is started again".to_owned()));
        let often = {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let lasted = ended.1.take().is_some_and(|began| began.elapsed() >= LASTING);
            ended.0 = if lasted { 0 } else { ended.0.saturating_add(1) };
            ended.0.min(AGAIN_DOUBLED_MAX)
        };
        let (network, environment) = (Arc::clone(self), Arc::clone(environment));
        tokio::spawn(async move {
            tokio::time::sleep(AGAIN_AFTER * 2_u32.pow(often)).await;
            let again = network.turn(&environment, "serve again", |network, environment| async move {
                let services = network.services(&environment)?;
                match services.filter(|_| network.view.get().active) {
                    Some(services) => network.serve(&environment, &services).await,
                    None => Ok(()),
                }
            });
            match again.await {
                Ok(()) => network.change(|view| view.degraded = None),
                Err(cause) => {
                    tracing::error!(network = network.name, %cause, "dnsmasq");
                    network.change(|view| view.degraded = Some(cause.message));
                    network.services_ended(&environment, None);
                }
            }
        });
    }

    /// Passes a change on to what serves its guests. What is only added it sees by itself; else it is started anew, which
    /// loses nothing: leases are on disk.
    pub(super) async fn serve_changed(
        &self,
        environment: &Environment,
        before: &Definition,
        section: Section,
        grows: bool,
    ) -> Result<(), Error> {
        if matches!(section, Section::ForwardInterface | Section::PortGroup) {
            return Ok(());
        }
        let Some(services) = self.services(environment)? else {
            return self.end_services(environment).await;
        };
        let gives = |definition: &Definition| definition.ips.iter().any(Ip::gives_addresses);
        let same = gives(before) == gives(&self.view.get().definition);
        if grows && same && !section.restarts_dnsmasq() {
            return self.on_disk(environment, &services, write_lists).await;
        }
        self.end_services(environment).await?;
        self.serve(environment, &services).await
    }

    /// Who has which address.
    pub(crate) async fn leases(&self, environment: &Environment) -> Result<Vec<Lease>, Error> {
        let definition = Arc::clone(&self.view.get().definition);
        let file = self.services_folder(environment).join(LEASES);
        let read = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            let file = fs::File::open(file)?;
            io::Read::read_to_string(&mut io::Read::take(file, LEASES_MAX_BYTES), &mut text)?;
            Ok(text)
        });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match read.await.map_err(io::Error::other).and_then(|read| read) {
            Ok(text) => Ok(leases(&text, &definition, now)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(cause) => Err(system(format!("Network '{}': its leases", self.name), &cause)),
        }
    }
}

/// What a program said before it ended.
async fn said(reading: OwnedFd) -> String {
    let Ok(pipe) = tokio::net::unix::pipe::Receiver::from_owned_fd(reading) else { return String::new() };
    let mut said = Vec::new();
    let _ = pipe.take(ERRORS_MAX_BYTES).read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    said.trim().trim_start_matches("dnsmasq: ").to_owned()
}
