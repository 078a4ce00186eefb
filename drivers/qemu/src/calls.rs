//! The calls of the qemu driver. Queries answer from snapshots and wait for nothing; the rest goes to the domain's own task.

mod agent;
mod bulk;
mod devices;
mod disks;
mod displays;
mod hardware;
mod hold;
mod host;
mod inside;
mod limits;
mod machine;
mod metadata;
mod models;
mod observed;
mod pins;
mod plain;
mod processors;
mod saves;
mod settings;
mod sizes;
mod stats;
mod tunables;

use crate::args::{self, Paths, Rendering};
use crate::documents;
use crate::driver::Qemu;
use crate::guest::tpm::StateOf;
use crate::guest::variables::Variables;
use crate::guest::view::View;
use crate::guest::{Guest, GuestHandle, SAVE_FLAGS, not_running};
use crate::node;
use bulkhead_actors::job::Progress;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{self, Server};
use bulkhead_wire::types::{
    CpuMap, DomainInfo, DomainList, DomainOverview, DomainRef, DomainState, JobInfo, NodeInfo,
    NodeStatistics, SecurityLabel, SecurityLabels, SecurityModel, State, Stream,
};
use bulkhead_xml::Element;
use std::sync::Arc;

/// Show secrets (`VIR_DOMAIN_XML_SECURE`).
const XML_SECURE: u32 = 1;
/// Show the definition, not the guest that runs (`VIR_DOMAIN_XML_INACTIVE`).
const XML_INACTIVE: u32 = 2;
/// All flags of XML that mean something here; the others concern migration and CPU models and change nothing yet.
const XML_FLAGS: u32 = 0xf;

/// Remove a stored state with the definition (`VIR_DOMAIN_UNDEFINE_MANAGED_SAVE`).
const UNDEFINE_MANAGED_SAVE: u32 = 1;
/// Remove its firmware variables (`VIR_DOMAIN_UNDEFINE_NVRAM`).
const UNDEFINE_NVRAM: u32 = 4;
/// Keep its firmware variables (`VIR_DOMAIN_UNDEFINE_KEEP_NVRAM`).
const UNDEFINE_KEEP_NVRAM: u32 = 8;
/// Remove the state of its TPM (`VIR_DOMAIN_UNDEFINE_TPM`).
const UNDEFINE_TPM: u32 = 32;
/// Keep the state of its TPM (`VIR_DOMAIN_UNDEFINE_KEEP_TPM`).
const UNDEFINE_KEEP_TPM: u32 = 64;

/// `virDomainJobType`: lasting work whose length is known.
const JOB_BOUNDED: i32 = 1;
/// `virDomainJobType`: lasting work whose length is not known.
const JOB_UNBOUNDED: i32 = 2;

/// `virConnectListAllDomainsFlags`, pairs of one question each.
mod list {
    pub(super) const ACTIVE: u32 = 1;
    pub(super) const INACTIVE: u32 = 2;
    pub(super) const PERSISTENT: u32 = 4;
    pub(super) const TRANSIENT: u32 = 8;
    pub(super) const RUNNING: u32 = 16;
    pub(super) const PAUSED: u32 = 32;
    pub(super) const SHUTOFF: u32 = 64;
    pub(super) const OTHER: u32 = 128;
    pub(super) const MANAGED_SAVE: u32 = 256;
    pub(super) const NO_MANAGED_SAVE: u32 = 512;
    pub(super) const AUTOSTART: u32 = 1024;
    pub(super) const NO_AUTOSTART: u32 = 2048;
    pub(super) const SNAPSHOT: u32 = 4096;
    pub(super) const NO_SNAPSHOT: u32 = 8192;
    pub(super) const CHECKPOINT: u32 = 16384;
    pub(super) const NO_CHECKPOINT: u32 = 32768;
}

fn unsupported_flags(call: &CallContext, flags: u32, known: u32) -> Result<(), Error> {
    if flags & !known == 0 {
        return Ok(());
    }
    let message = format!("unsupported flags ({:#x}) in {}", flags & !known, call.info.name);
    Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message))
}

fn not_found(what: &str) -> Error {
    Error::new(Code::NO_DOMAIN, Origin::QEMU, format!("Domain not found: no domain with matching {what}"))
}

/// A job as libvirt tells of it: its length is known, or not yet.
fn job_info(progress: &Progress) -> JobInfo {
    let Progress { elapsed, processed_bytes, total_bytes, .. } = *progress;
    let remaining = total_bytes - processed_bytes;
    let time_elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    JobInfo {
        kind: if total_bytes == 0 { JOB_UNBOUNDED } else { JOB_BOUNDED },
        time_elapsed_ms,
        time_remaining_ms: time_elapsed_ms
            .saturating_mul(remaining)
            .checked_div(processed_bytes)
            .unwrap_or(0),
        data_total_bytes: total_bytes,
        data_processed_bytes: processed_bytes,
        data_remaining_bytes: remaining,
        memory_total_bytes: total_bytes,
        memory_processed_bytes: processed_bytes,
        memory_remaining_bytes: remaining,
        ..JobInfo::default()
    }
}

fn matches(view: &View, flags: u32) -> bool {
    let asked = |pairs: &[(u32, bool)]| {
        let all = pairs.iter().fold(0, |all, (flag, _)| all | flag);
        flags & all == 0 || pairs.iter().any(|(flag, holds)| flags & flag != 0 && *holds)
    };
    let (active, persistent) = (view.live.is_some(), view.persistent.is_some());
    asked(&[(list::ACTIVE, active), (list::INACTIVE, !active)])
        && asked(&[(list::PERSISTENT, persistent), (list::TRANSIENT, !persistent)])
        && asked(&[
            (list::RUNNING, view.state == State::Running),
            (list::PAUSED, view.state == State::Paused),
            (list::SHUTOFF, view.state == State::Shutoff),
            (list::OTHER, !matches!(view.state, State::Running | State::Paused | State::Shutoff)),
        ])
        && asked(&[(list::AUTOSTART, view.autostart), (list::NO_AUTOSTART, !view.autostart)])
        && asked(&[(list::MANAGED_SAVE, view.saved), (list::NO_MANAGED_SAVE, !view.saved)])
        && asked(&[(list::SNAPSHOT, false), (list::NO_SNAPSHOT, true)])
        && asked(&[(list::CHECKPOINT, false), (list::NO_CHECKPOINT, true)])
}

/// Calls that a module of that subject serves.
macro_rules! served_by {
    ($($module:ident: $($name:ident)+;)*) => {
        $($(
            async fn $name(
                &self,
                call: CallContext,
                arguments: domain::$name::Arguments,
            ) -> Result<domain::$name::Reply, Error> {
                $module::$name(self, call, arguments).await
            }
        )+)*
    };
}

/// Dropped, it drops a domain that never came to exist: its caller may have gone before its turn came.
struct Tidy(GuestHandle);

impl Drop for Tidy {
    fn drop(&mut self) {
        if !self.0.view.get().exists() {
            // Whoever fills the mailbox of a domain that does not exist is about to make it.
            let _ = self
                .0
                .object
                .post("tidy", |guest: &mut Guest| Box::pin(async move { guest.forget_if_gone() }));
        }
    }
}

impl Qemu {
    async fn start(
        &self,
        guest: &GuestHandle,
        definition: Option<crate::domain::Definition>,
        flags: u32,
        call: &CallContext,
    ) -> Result<DomainRef, Error> {
        // Of a client of this stack's own protocol it is the stack's owner with whom such a guest ends.
        let ends_with_client = flags & crate::guest::START_AUTODESTROY != 0 && call.speaker.is_some();
        let owner = ends_with_client.then_some(call.token);
        guest
            .object
            .run_job("domain_create", move |guest: &mut Guest, job| {
                Box::pin(async move {
                    guest.own(owner);
                    let started = match definition {
                        Some(definition) => guest.start(definition, flags, &job).await,
                        None => guest.start_defined(flags, &job).await,
                    };
                    // Does nothing to one that runs.
                    guest.disown();
                    started
                })
            })
            .await??;
        Ok(guest.view.get().reference())
    }
}

/// Methods of the server whose answer is an expression.
macro_rules! answers {
    ($($name:ident($this:ident, $call:ident, $arguments:ident) -> $reply:ty $answer:block)*) => {
        $(async fn $name(&$this, $call: CallContext, $arguments: domain::$name::Arguments) -> Result<$reply, Error> {
            // Not every answer depends on all of it.
            let _ = (&$call, &$arguments);
            $answer
        })*
    };
}

impl Server for Qemu {
    async fn connect_get_version(
        &self,
        _call: CallContext,
        _arguments: domain::connect_get_version::Arguments,
    ) -> Result<u64, Error> {
        let host = self.environment.installed.usual();
        let emulator = host.emulator(&host.arch).map(|emulator| emulator.path.clone()).unwrap_or_default();
        let facts = crate::probe::host_facts(false);
        let version = &self.environment.probe(&emulator, facts).await?.version;
        Ok(u64::from(version.major) * 1_000_000 + u64::from(version.minor) * 1_000 + u64::from(version.micro))
    }

    async fn connect_get_hostname(
        &self,
        _call: CallContext,
        _arguments: domain::connect_get_hostname::Arguments,
    ) -> Result<String, Error> {
        let name = nix::unistd::gethostname()
            .map_err(|errno| Error::system(Origin::QEMU, "The host's name", &errno.into()))?;
        Ok(name.to_string_lossy().into_owned())
    }

    async fn connect_get_capabilities(
        &self,
        _call: CallContext,
        _arguments: domain::connect_get_capabilities::Arguments,
    ) -> Result<String, Error> {
        documents::capabilities(&self.environment).await
    }

    async fn connect_get_domain_capabilities(
        &self,
        call: CallContext,
        arguments: domain::connect_get_domain_capabilities::Arguments,
    ) -> Result<String, Error> {
        // 1 leaves out features that QEMU will drop; none are named here.
        unsupported_flags(&call, arguments.flags, 1)?;
        let domain::connect_get_domain_capabilities::Arguments {
            emulator,
            arch,
            machine,
            accelerator,
            flags: _,
        } = arguments;
        let wanted = documents::Wanted { emulator, arch, machine, accelerator };
        documents::domain_capabilities(&self.environment, wanted).await
    }

    async fn domain_define_xml_flags(
        &self,
        call: CallContext,
        arguments: domain::domain_define_xml_flags::Arguments,
    ) -> Result<DomainRef, Error> {
        // 1 asks for a check against the schema; what is read here is checked in any case.
        unsupported_flags(&call, arguments.flags, 1)?;
        let (definition, _) = self.environment.read(arguments.xml.as_bytes()).await?;
        let guest = self.guest_for(&definition)?;
        let _tidy = Tidy(guest.clone());
        let defined = guest
            .object
            .run("domain_define", move |guest: &mut Guest| Box::pin(guest.define(definition)))
            .await;
        let defined = defined.and_then(std::convert::identity);
        let view = guest.view.get();
        defined.map(|()| view.reference())
    }

    async fn domain_undefine_flags(
        &self,
        call: CallContext,
        arguments: domain::domain_undefine_flags::Arguments,
    ) -> Result<(), Error> {
        // Those for snapshots and checkpoints: there are none yet.
        unsupported_flags(&call, arguments.flags, 0x7f)?;
        let tpm = match (arguments.flags & UNDEFINE_TPM != 0, arguments.flags & UNDEFINE_KEEP_TPM != 0) {
            (false, false) => StateOf::Xml,
            (true, false) => StateOf::Removed,
            (false, true) => StateOf::Kept,
            (true, true) => {
                let message = "undefining can remove a TPM's state or keep it; choose one of the two flags";
                return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
            }
        };
        let variables =
            match (arguments.flags & UNDEFINE_NVRAM != 0, arguments.flags & UNDEFINE_KEEP_NVRAM != 0) {
                (false, false) => Variables::Unsaid,
                (true, false) => Variables::Removed,
                (false, true) => Variables::Kept,
                (true, true) => {
                    let message =
                        "undefining can remove firmware variables or keep them; choose one of the two flags";
                    return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
                }
            };
        let with_state = arguments.flags & UNDEFINE_MANAGED_SAVE != 0;
        let guest = self.guest(&arguments.domain)?;
        guest
            .object
            .run("domain_undefine", move |guest: &mut Guest| {
                Box::pin(guest.undefine(with_state, tpm, variables))
            })
            .await?
    }

    async fn domain_create_with_flags(
        &self,
        call: CallContext,
        arguments: domain::domain_create_with_flags::Arguments,
    ) -> Result<DomainRef, Error> {
        unsupported_flags(&call, arguments.flags, crate::guest::START_FLAGS)?;
        let guest = self.guest(&arguments.domain)?;
        let view = guest.view.get();
        if view.persistent.is_none() || view.live.is_some() {
            let message = format!("Domain '{}': domain is already running", view.name);
            return Err(Error::new(Code::OPERATION_INVALID, Origin::QEMU, message));
        }
        self.start(&guest, None, arguments.flags, &call).await
    }

    async fn domain_create_xml(
        &self,
        call: CallContext,
        arguments: domain::domain_create_xml::Arguments,
    ) -> Result<DomainRef, Error> {
        unsupported_flags(&call, arguments.flags, crate::guest::START_FLAGS | 8)?;
        let (definition, _) = self.environment.read(arguments.xml.as_bytes()).await?;
        let guest = self.guest_for(&definition)?;
        let _tidy = Tidy(guest.clone());
        self.start(&guest, Some(definition), arguments.flags & crate::guest::START_FLAGS, &call).await
    }

    async fn domain_lookup_by_name(
        &self,
        _call: CallContext,
        arguments: domain::domain_lookup_by_name::Arguments,
    ) -> Result<DomainRef, Error> {
        let guest = self.environment.by_name(&arguments.name);
        guest
            .map(|guest| guest.view.get().reference())
            .ok_or_else(|| not_found(&format!("name '{}'", arguments.name)))
    }

    async fn domain_lookup_by_uuid(
        &self,
        _call: CallContext,
        arguments: domain::domain_lookup_by_uuid::Arguments,
    ) -> Result<DomainRef, Error> {
        let guest = self.environment.by_uuid(arguments.uuid);
        guest
            .map(|guest| guest.view.get().reference())
            .ok_or_else(|| not_found(&format!("uuid '{}'", arguments.uuid)))
    }

    async fn domain_lookup_by_id(
        &self,
        _call: CallContext,
        arguments: domain::domain_lookup_by_id::Arguments,
    ) -> Result<DomainRef, Error> {
        let found = self
            .environment
            .all()
            .into_iter()
            .map(|guest| guest.view.get())
            .find(|view| view.live.as_ref().is_some_and(|live| live.id == arguments.id));
        found.map(|view| view.reference()).ok_or_else(|| not_found(&format!("id '{}'", arguments.id)))
    }

    async fn connect_list_all_domains(
        &self,
        _call: CallContext,
        arguments: domain::connect_list_all_domains::Arguments,
    ) -> Result<DomainList, Error> {
        let mut domains: Vec<DomainRef> = self
            .environment
            .all()
            .into_iter()
            .map(|guest| guest.view.get())
            .filter(|view| view.exists() && matches(view, arguments.flags))
            .map(|view| view.reference())
            .collect();
        let count = u32::try_from(domains.len()).unwrap_or(u32::MAX);
        if arguments.need_results == 0 {
            domains.clear();
        }
        Ok(DomainList { domains, count })
    }

    async fn domain_get_state(
        &self,
        call: CallContext,
        arguments: domain::domain_get_state::Arguments,
    ) -> Result<DomainState, Error> {
        unsupported_flags(&call, arguments.flags, 0)?;
        Ok(self.guest(&arguments.domain)?.view.get().domain_state())
    }

    async fn domain_get_info(
        &self,
        _call: CallContext,
        arguments: domain::domain_get_info::Arguments,
    ) -> Result<DomainInfo, Error> {
        Ok(self.guest(&arguments.domain)?.view.get().info())
    }

    async fn domain_get_xml_desc(
        &self,
        call: CallContext,
        arguments: domain::domain_get_xml_desc::Arguments,
    ) -> Result<String, Error> {
        unsupported_flags(&call, arguments.flags, XML_FLAGS)?;
        let view = self.guest(&arguments.domain)?.view.get();
        let secure = arguments.flags & XML_SECURE != 0;
        let inactive = arguments.flags & XML_INACTIVE != 0;
        let definition = match (&view.persistent, &view.live) {
            (Some(definition), None) => Arc::clone(definition),
            (Some(definition), Some(_)) if inactive => Arc::clone(definition),
            (_, Some(live)) => Arc::new(crate::domain::Definition { root: Element::clone(&live.root) }),
            (None, None) => return Err(not_found(&format!("uuid '{}'", view.uuid))),
        };
        Ok(definition.to_xml(secure))
    }

    async fn domain_is_active(
        &self,
        _call: CallContext,
        arguments: domain::domain_is_active::Arguments,
    ) -> Result<i32, Error> {
        Ok(i32::from(self.guest(&arguments.domain)?.view.get().live.is_some()))
    }

    async fn domain_is_persistent(
        &self,
        _call: CallContext,
        arguments: domain::domain_is_persistent::Arguments,
    ) -> Result<i32, Error> {
        Ok(i32::from(self.guest(&arguments.domain)?.view.get().persistent.is_some()))
    }

    async fn domain_get_autostart(
        &self,
        _call: CallContext,
        arguments: domain::domain_get_autostart::Arguments,
    ) -> Result<i32, Error> {
        Ok(i32::from(self.guest(&arguments.domain)?.view.get().autostart))
    }

    async fn domain_set_autostart(
        &self,
        _call: CallContext,
        arguments: domain::domain_set_autostart::Arguments,
    ) -> Result<(), Error> {
        let wanted = arguments.autostart != 0;
        self.guest(&arguments.domain)?
            .object
            .run("domain_set_autostart", move |guest: &mut Guest| Box::pin(guest.set_autostart(wanted)))
            .await?
    }

    async fn domain_suspend(
        &self,
        _call: CallContext,
        arguments: domain::domain_suspend::Arguments,
    ) -> Result<(), Error> {
        self.guest(&arguments.domain)?
            .object
            .run("domain_suspend", |guest: &mut Guest| Box::pin(guest.suspend()))
            .await?
    }

    async fn domain_resume(
        &self,
        _call: CallContext,
        arguments: domain::domain_resume::Arguments,
    ) -> Result<(), Error> {
        self.guest(&arguments.domain)?
            .object
            .run("domain_resume", |guest: &mut Guest| Box::pin(guest.resume()))
            .await?
    }

    async fn domain_shutdown_flags(
        &self,
        _call: CallContext,
        arguments: domain::domain_shutdown_flags::Arguments,
    ) -> Result<(), Error> {
        let flags = arguments.flags;
        let guest = self.guest(&arguments.domain)?;
        let view = guest.view.get();
        if view.live.is_none() {
            return Err(Error { origin: Origin::QEMU, ..not_running(&view.name) });
        }
        guest
            .object
            .run("domain_shutdown", move |guest: &mut Guest| Box::pin(guest.ask_down(flags, false)))
            .await?
    }

    async fn domain_reboot(
        &self,
        _call: CallContext,
        arguments: domain::domain_reboot::Arguments,
    ) -> Result<(), Error> {
        let flags = arguments.flags;
        self.guest(&arguments.domain)?
            .object
            .run("domain_reboot", move |guest: &mut Guest| Box::pin(guest.ask_down(flags, true)))
            .await?
    }

    async fn domain_reset(
        &self,
        call: CallContext,
        arguments: domain::domain_reset::Arguments,
    ) -> Result<(), Error> {
        unsupported_flags(&call, arguments.flags, 0)?;
        self.guest(&arguments.domain)?
            .object
            .run("domain_reset", |guest: &mut Guest| Box::pin(guest.reset()))
            .await?
    }

    async fn domain_destroy_flags(
        &self,
        call: CallContext,
        arguments: domain::domain_destroy_flags::Arguments,
    ) -> Result<(), Error> {
        unsupported_flags(&call, arguments.flags, 3)?;
        let guest = self.guest(&arguments.domain)?;
        let view = guest.view.get();
        if view.live.is_none() {
            return Err(not_running(&guest.view.get().name));
        }
        // Before its turn comes: whatever waits for this QEMU ends with it.
        guest.give_up_start();
        let _ = self.environment.stack.kill_helper(&guest.key()).await;
        guest.object.run("domain_destroy", |guest: &mut Guest| Box::pin(guest.destroyed())).await?
    }

    async fn domain_open_console(
        &self,
        call: CallContext,
        arguments: domain::domain_open_console::Arguments,
    ) -> Result<Descriptor, Error> {
        unsupported_flags(&call, arguments.flags, 3)?;
        let device = arguments.device;
        self.guest(&arguments.domain)?
            .object
            .run("domain_open_console", move |guest: &mut Guest| Box::pin(guest.open_console(device)))
            .await?
    }

    async fn domain_screenshot(
        &self,
        call: CallContext,
        arguments: domain::domain_screenshot::Arguments,
    ) -> Result<Stream, Error> {
        unsupported_flags(&call, arguments.flags, 0)?;
        let screen = arguments.screen;
        self.guest(&arguments.domain)?
            .object
            .run("domain_screenshot", move |guest: &mut Guest| Box::pin(guest.screenshot(screen)))
            .await?
    }

    async fn domain_managed_save(
        &self,
        call: CallContext,
        arguments: domain::domain_managed_save::Arguments,
    ) -> Result<(), Error> {
        let flags = arguments.flags;
        unsupported_flags(&call, flags, SAVE_FLAGS)?;
        if flags & SAVE_FLAGS & !1 == SAVE_FLAGS & !1 {
            let message = "A guest can't be both running and paused after its next start: choose one flag";
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        self.guest(&arguments.domain)?
            .object
            .run_job("domain_managed_save", move |guest: &mut Guest, job| {
                Box::pin(async move { guest.managed_save(flags, &job).await })
            })
            .await?
    }

    async fn domain_has_managed_save_image(
        &self,
        call: CallContext,
        arguments: domain::domain_has_managed_save_image::Arguments,
    ) -> Result<i32, Error> {
        unsupported_flags(&call, arguments.flags, 0)?;
        Ok(i32::from(self.guest(&arguments.domain)?.view.get().saved))
    }

    async fn domain_managed_save_remove(
        &self,
        call: CallContext,
        arguments: domain::domain_managed_save_remove::Arguments,
    ) -> Result<(), Error> {
        unsupported_flags(&call, arguments.flags, 0)?;
        self.guest(&arguments.domain)?
            .object
            .run("domain_managed_save_remove", |guest: &mut Guest| Box::pin(guest.remove_saved()))
            .await?
    }

    async fn domain_get_job_info(
        &self,
        _call: CallContext,
        arguments: domain::domain_get_job_info::Arguments,
    ) -> Result<JobInfo, Error> {
        let guest = self.guest(&arguments.domain)?;
        if guest.view.get().live.is_none() {
            return Err(not_running(&guest.view.get().name));
        }
        Ok(guest.object.job().map_or_else(JobInfo::default, |job| job_info(&job.progress())))
    }

    async fn domain_abort_job(
        &self,
        _call: CallContext,
        arguments: domain::domain_abort_job::Arguments,
    ) -> Result<(), Error> {
        let guest = self.guest(&arguments.domain)?;
        let view = guest.view.get();
        if view.live.is_none() {
            return Err(not_running(&view.name));
        }
        let Some(job) = guest.object.job() else {
            let message = format!("Domain '{}': no job is active on the domain", guest.view.get().name);
            return Err(Error::new(Code::OPERATION_INVALID, Origin::QEMU, message));
        };
        job.cancel();
        Ok(())
    }

    async fn connect_domain_xml_to_native(
        &self,
        call: CallContext,
        arguments: domain::connect_domain_xml_to_native::Arguments,
    ) -> Result<String, Error> {
        unsupported_flags(&call, arguments.flags, 0)?;
        if arguments.format != "qemu-argv" {
            let message = format!("unsupported config type {}; only qemu-argv is written", arguments.format);
            return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
        }
        let (definition, host) = self.environment.read(arguments.xml.as_bytes()).await?;
        let root = definition.native(&host)?;
        let capabilities = self.environment.capabilities(&root).await?;
        let name = definition.root.child_text("name").unwrap_or_default();
        // Nothing of it is there: each folder is the one in which a person would look, named as libvirt names them.
        let layout = &self.environment.layout;
        let own = |folder: std::path::PathBuf, name: String| folder.join(name).display().to_string();
        let paths = Paths {
            guest: own(layout.run.join("guests"), format!("domain--1-{name}")),
            channels: own(layout.run.join("qemu/channel"), format!("-1-{name}")),
            memory: own(layout.lib.join("qemu/ram"), format!("-1-{name}")),
            bus: own(layout.run.join("qemu/dbus"), format!("-1-{name}-dbus.sock")),
            certificates: layout.etc.join("qemu/tls").display().to_string(),
            vhost_net: false,
            incoming: false,
            now: self.environment.now_seconds(),
            rendering: Rendering::Native,
        };
        let command = args::build(&root, &capabilities, &paths)?;
        Ok(command.to_shell())
    }

    answers! {
        connect_get_type(self, call, arguments) -> String { Ok("QEMU".to_owned()) }
        connect_get_lib_version(self, call, arguments) -> u64 { Ok(plain::API_VERSION) }
        connect_is_secure(self, call, arguments) -> i32 { Ok(1) }
        connect_get_max_vcpus(self, call, arguments) -> i32 { Ok(plain::VCPUS_MAX) }
        connect_num_of_domains(self, call, arguments) -> i32 { Ok(plain::count(&self.running())) }
        connect_list_domains(self, call, arguments) -> Vec<i32> { plain::first(self.running(), arguments.count_max) }
        connect_num_of_defined_domains(self, call, arguments) -> i32 { Ok(plain::count(&self.resting())) }
        connect_list_defined_domains(self, call, arguments) -> Vec<String> { plain::first(self.resting(), arguments.count_max) }
        node_get_info(self, call, arguments) -> NodeInfo { Ok(node::info(&self.environment.host.arch)) }
        node_get_free_memory(self, call, arguments) -> u64 { Ok(node::free_memory()) }
        node_get_cells_free_memory(self, call, arguments) -> Vec<u64> { node::cells_free_memory(arguments.first, arguments.count_max) }
        node_get_cpu_stats(self, call, arguments) -> NodeStatistics { unsupported_flags(&call, arguments.flags, 0)?; node::cpu_statistics(arguments.cpu, arguments.count) }
        node_get_memory_stats(self, call, arguments) -> NodeStatistics { unsupported_flags(&call, arguments.flags, 0)?; node::memory_statistics(arguments.node, arguments.count) }
        node_get_cpu_map(self, call, arguments) -> CpuMap { unsupported_flags(&call, arguments.flags, 0)?; Ok(node::cpu_map(arguments.need_map != 0)) }
        node_get_security_model(self, call, arguments) -> SecurityModel { Ok(plain::security_model()) }
        domain_create(self, call, arguments) -> () { let arguments = domain::domain_create_with_flags::Arguments { domain: arguments.domain, flags: 0 }; self.domain_create_with_flags(call, arguments).await.map(drop) }
        domain_define_xml(self, call, arguments) -> DomainRef { let arguments = domain::domain_define_xml_flags::Arguments { xml: arguments.xml, flags: 0 }; self.domain_define_xml_flags(call, arguments).await }
        domain_destroy(self, call, arguments) -> () { let arguments = domain::domain_destroy_flags::Arguments { domain: arguments.domain, flags: 0 }; self.domain_destroy_flags(call, arguments).await }
        domain_shutdown(self, call, arguments) -> () { let arguments = domain::domain_shutdown_flags::Arguments { domain: arguments.domain, flags: 0 }; self.domain_shutdown_flags(call, arguments).await }
        domain_undefine(self, call, arguments) -> () { let arguments = domain::domain_undefine_flags::Arguments { domain: arguments.domain, flags: 0 }; self.domain_undefine_flags(call, arguments).await }
        domain_get_os_type(self, call, arguments) -> String { let view = self.guest(&arguments.domain)?.view.get(); let kind = view.root().and_then(|root| root.at("os/type")); Ok(kind.map_or_else(|| "hvm".to_owned(), Element::text)) }
        domain_get_max_memory(self, call, arguments) -> u64 { Ok(self.guest(&arguments.domain)?.view.get().info().max_memory_kib) }
        domain_is_updated(self, call, arguments) -> i32 { self.guest(&arguments.domain).map(|_| 0) }
        domain_get_autostart_once(self, call, arguments) -> i32 { Ok(i32::from(self.guest(&arguments.domain)?.view.get().autostart_once)) }
        domain_set_autostart_once(self, call, arguments) -> () { let wanted = arguments.autostart != 0; self.guest(&arguments.domain)?.object.run("domain_set_autostart_once", move |guest: &mut Guest| Box::pin(guest.set_autostart_once(wanted))).await? }
        domain_get_messages(self, call, arguments) -> Vec<String> { unsupported_flags(&call, arguments.flags, 3)?; self.guest(&arguments.domain).map(|_| Vec::new()) }
        domain_get_security_label(self, call, arguments) -> SecurityLabel { self.guest(&arguments.domain).map(|_| plain::security_label()) }
        domain_get_security_label_list(self, call, arguments) -> SecurityLabels { self.guest(&arguments.domain).map(|_| SecurityLabels { labels: Vec::new(), count: 0 }) }
    }

    async fn domains_overview(
        &self,
        _call: CallContext,
        _arguments: domain::domains_overview::Arguments,
    ) -> Result<Vec<DomainOverview>, Error> {
        let views = self.environment.all().into_iter().map(|guest| guest.view.get());
        let overview = |view: &View| DomainOverview {
            domain: view.reference(),
            state: view.state as i32,
            reason: view.reason,
            persistent: i32::from(view.persistent.is_some()),
        };
        Ok(views.filter(|view| view.exists()).map(|view| overview(&view)).collect())
    }

    async fn events_subscribe(
        &self,
        call: CallContext,
        _arguments: domain::events_subscribe::Arguments,
    ) -> Result<(), Error> {
        self.environment.subscribe(call.events);
        Ok(())
    }

    served_by! {
        bulk: connect_get_all_domain_stats;
        stats: domain_memory_stats domain_block_stats domain_block_stats_flags domain_interface_stats
            domain_get_block_info domain_get_cpu_stats domain_get_control_info domain_get_job_stats;
        processors: domain_get_vcpus  domain_get_max_vcpus domain_get_vcpus_flags;
        agent: domain_get_time domain_set_time domain_get_hostname domain_get_fsinfo domain_fsfreeze domain_fsthaw
            domain_fstrim domain_interface_addresses domain_set_user_password domain_get_guest_info
            domain_agent_command;
        tunables: domain_get_scheduler_type domain_get_scheduler_parameters domain_get_scheduler_parameters_flags
            domain_set_scheduler_parameters domain_set_scheduler_parameters_flags domain_get_memory_parameters
            domain_set_memory_parameters domain_get_blkio_parameters domain_set_blkio_parameters
            domain_get_numa_parameters domain_set_numa_parameters domain_get_perf_events;
        pins: domain_get_vcpu_pin_info domain_pin_vcpu domain_pin_vcpu_flags domain_get_emulator_pin_info
            domain_pin_emulator domain_pin_iothread;
        models: connect_compare_cpu connect_baseline_cpu connect_compare_hypervisor_cpu connect_baseline_hypervisor_cpu;
        saves: domain_save domain_save_flags domain_save_params domain_restore domain_restore_flags domain_restore_params
            domain_save_image_get_xml_desc domain_save_image_define_xml domain_managed_save_define_xml domain_core_dump
            domain_core_dump_with_format domain_abort_job_flags;
        limits: domain_block_peek domain_set_block_threshold domain_get_interface_parameters
            domain_set_interface_parameters domain_set_throttle_group domain_del_throttle_group;
        machine: domain_set_vcpu domain_set_iothread_params domain_set_lifecycle_action domain_set_perf_events
            domain_pm_wakeup domain_graphics_reload domain_set_launch_security_state;
        inside: domain_get_guest_vcpus domain_set_guest_vcpus domain_agent_set_response_timeout
            domain_authorized_ssh_keys_get domain_authorized_ssh_keys_set domain_pm_suspend_for_duration;
        settings: connect_get_sysinfo node_get_memory_parameters node_set_memory_parameters node_alloc_pages
            node_suspend_for_duration node_get_sev_info;
        hardware: domain_send_key domain_inject_nmi domain_memory_peek domain_get_iothread_info domain_start_dirty_rate_calc
            domain_get_launch_security_info domain_managed_save_get_xml_desc domain_monitor_command;
        devices: domain_attach_device domain_attach_device_flags domain_detach_device domain_detach_device_flags
            domain_detach_device_alias domain_update_device_flags;
        disks: domain_block_resize domain_get_block_io_tune domain_set_block_io_tune domain_get_disk_errors;
        displays: domain_open_channel domain_open_graphics domain_open_graphics_fd;
        host:
             node_get_free_pages connect_get_cpu_model_names;
        metadata: domain_get_metadata domain_set_metadata domain_rename  ;
        sizes: domain_set_vcpus domain_set_vcpus_flags domain_set_memory domain_set_memory_flags
            domain_set_max_memory domain_set_memory_stats_period domain_add_iothread domain_del_iothread;
    }
}
