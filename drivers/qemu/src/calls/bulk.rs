//! The statistics of many domains at once. All guests are asked side by side, each for a bounded time: of one that does not
//! answer, what is known without it is told.

use super::observed::Observed;
use super::processors::{self, Thread};
use super::{list, matches, stats, unsupported_flags};
use crate::driver::{Environment, Qemu};
use crate::guest::blocks;
use crate::guest::process;
use crate::guest::view::View;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::connect_get_all_domain_stats;
use bulkhead_wire::types::{DomainStats, Parameter, ParameterValue};
use bulkhead_xml::Element;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Time that one QEMU gets for one answer; the first that does not come makes it the last that is asked for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The same for clients that do not want to wait: what a QEMU that is not stuck needs on a busy host.
const ANSWER_AT_ONCE: Duration = Duration::from_millis(100);
/// Guests that are asked at the same time.
const SIDE_BY_SIDE: usize = 256;
/// The time after which those that were not asked yet are told of without asking.
const PATIENCE: Duration = Duration::from_secs(5);

/// `virDomainStatsTypes`.
mod group {
    pub(super) const STATE: u32 = 1;
    pub(super) const CPU: u32 = 2;
    pub(super) const BALLOON: u32 = 4;
    pub(super) const VCPU: u32 = 8;
    pub(super) const INTERFACE: u32 = 16;
    pub(super) const BLOCK: u32 = 32;
    /// Nothing is counted unless events are enabled, which they can't be.
    pub(super) const PERF: u32 = 64;
    pub(super) const IOTHREAD: u32 = 128;
    /// Memory bandwidth, which needs a monitor of the host's that nothing here sets up.
    pub(super) const MEMORY: u32 = 256;
    pub(super) const DIRTY_RATE: u32 = 512;
    /// What KVM counts.
    pub(super) const VM: u32 = 1024;
    pub(super) const ALL: u32 =
        STATE | CPU | BALLOON | VCPU | INTERFACE | BLOCK | PERF | IOTHREAD | MEMORY | DIRTY_RATE | VM;
}

/// Do not wait for guests that are busy (`VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT`).
const NOWAIT: u32 = 1 << 29;
/// The layers below disks too (`VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING`).
const BACKING: u32 = 1 << 30;
/// Refuse groups that are not known (`VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS`).
const ENFORCE: u32 = 1 << 31;
/// The filters of lists that hold here too.
const FILTERS: u32 = list::ACTIVE
    | list::INACTIVE
    | list::PERSISTENT
    | list::TRANSIENT
    | list::RUNNING
    | list::PAUSED
    | list::SHUTOFF
    | list::OTHER;

pub(super) async fn connect_get_all_domain_stats(
    driver: &Qemu,
    call: CallContext,
    arguments: connect_get_all_domain_stats::Arguments,
) -> Result<Vec<DomainStats>, Error> {
    let flags = arguments.flags;
    unsupported_flags(&call, flags, FILTERS | NOWAIT | BACKING | ENFORCE)?;
    let unknown = arguments.stats & !group::ALL;
    if flags & ENFORCE != 0 && unknown != 0 {
        let message = format!("Statistics {unknown:#x} are not known here; ask without enforcing them");
        return Err(Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::QEMU, message));
    }
    let groups = if arguments.stats == 0 { group::ALL } else { arguments.stats & group::ALL };
    let guests = if arguments.domains.is_empty() {
        driver.environment.all()
    } else {
        // Those that have gone since the client listed them are left out.
        arguments.domains.iter().filter_map(|domain| driver.guest(domain).ok()).collect()
    };
    let views = guests.into_iter().map(|guest| guest.view.get());
    let views: Vec<Arc<View>> =
        views.filter(|view| view.exists() && matches(view, flags & FILTERS)).collect();

    let mut records: Vec<Option<DomainStats>> = views.iter().map(|_| None).collect();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let turns = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut asked = JoinSet::new();
    for (index, view) in views.iter().enumerate().filter(|(_, view)| view.live.is_some()) {
        let (environment, view, turns) =
            (Arc::clone(&driver.environment), Arc::clone(view), Arc::clone(&turns));
        asked.spawn(async move {
            let _turn = turns.acquire().await;
            let mut collected = Collected::new(groups, flags);
            collected.known(&view);
            // What is here when the time is up is what is told.
            let _ = tokio::time::timeout_at(deadline, collected.live(&environment, &view)).await;
            (index, DomainStats { domain: view.reference(), parameters: collected.parameters })
        });
    }
    while let Some(done) = asked.join_next().await {
        if let Ok((index, record)) = done
            && let Some(place) = records.get_mut(index)
        {
            *place = Some(record);
        }
    }
    let complete = views.iter().zip(records).map(|(view, record)| {
        record.unwrap_or_else(|| {
            let mut collected = Collected::new(groups, flags);
            collected.known(view);
            collected.defined(view);
            DomainStats { domain: view.reference(), parameters: collected.parameters }
        })
    });
    Ok(complete.collect())
}

/// The statistics of one domain, as they come in.
struct Collected {
    groups: u32,
    backing: bool,
    /// Time for one answer of QEMU's.
    within: Duration,
    parameters: Vec<Parameter>,
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Collected {
    fn new(groups: u32, flags: u32) -> Self {
        let within = if flags & NOWAIT == 0 { ANSWER_WITHIN } else { ANSWER_AT_ONCE };
        Self { groups, backing: flags & BACKING != 0, within, parameters: Vec::new() }
    }

    fn wants(&self, group: u32) -> bool {
        self.groups & group != 0
    }

    fn add(&mut self, name: impl Into<String>, value: impl Into<ParameterValue>) {
        self.parameters.push(Parameter::new(name, value));
    }

    /// What the snapshot knows.
    fn known(&mut self, view: &View) {
        if self.wants(group::STATE) {
            self.add("state.state", view.state as i32);
            self.add("state.reason", view.reason);
        }
        let usage = view.live.as_ref().and_then(|live| process::usage(live.pid));
        if let Some(usage) = usage.filter(|_| self.wants(group::CPU)) {
            self.add("cpu.time", usage.total_ns());
            self.add("cpu.user", usage.user_ns);
            self.add("cpu.system", usage.system_ns);
        }
        let info = view.info();
        if self.wants(group::BALLOON) {
            self.add("balloon.current", info.memory_kib);
            self.add("balloon.maximum", info.max_memory_kib);
            if let Some(usage) = usage {
                self.add("balloon.rss", usage.resident_kib);
            }
        }
        if self.wants(group::VCPU) {
            self.add("vcpu.current", u32::from(info.vcpus));
            self.add("vcpu.maximum", view.root().map_or(0, processors::maximum));
        }
    }

    /// What a definition says of a domain that does not run.
    fn defined(&mut self, view: &View) {
        let Some(root) = view.root().filter(|_| self.wants(group::BLOCK)) else { return };
        let disks: Vec<&Element> = blocks::disks(root).collect();
        self.add("block.count", count(disks.len()));
        for (index, disk) in disks.into_iter().enumerate() {
            self.disk_name(index, disk);
        }
    }

    fn disk_name(&mut self, index: usize, disk: &Element) {
        self.add(format!("block.{index}.name"), disk.path_attr("target", "dev").unwrap_or_default());
        if let Some(path) = blocks::source(disk) {
            self.add(format!("block.{index}.path"), path);
        }
    }

    /// What QEMU and the host know of one that runs. QEMU is asked no more once it did not answer.
    async fn live(&mut self, environment: &Arc<Environment>, view: &Arc<View>) {
        let Some(guest) = Observed::new(environment, Arc::clone(view), self.within) else { return };
        if self.wants(group::INTERFACE) {
            self.interfaces(&guest).await;
        }
        if self.asked(&guest).await.is_err() && self.wants(group::BLOCK) {
            let told = self.parameters.iter().any(|parameter| parameter.field == "block.count");
            if !told {
                self.defined(view);
            }
        }
    }

    async fn asked(&mut self, guest: &Observed<'_>) -> Result<(), Error> {
        // Who has owed somebody an answer for so long already gives none now: that is not waited for again.
        if guest.monitor()?.silent_for() >= self.within {
            return Err(guest.wrong(Code::OPERATION_TIMEOUT, "its QEMU does not answer on the monitor"));
        }
        if self.wants(group::BLOCK) {
            self.disks(guest).await?;
        }
        if self.wants(group::VCPU) {
            for Thread { number, thread } in processors::threads(guest).await? {
                self.add(format!("vcpu.{number}.state"), 1);
                let usage = process::thread_usage(guest.live().pid, thread).unwrap_or_default();
                self.add(format!("vcpu.{number}.time"), usage.total_ns());
                self.add(format!("vcpu.{number}.wait"), 0_u64);
                if let Some(delay) = process::thread_delay_ns(guest.live().pid, thread) {
                    self.add(format!("vcpu.{number}.delay"), delay);
                }
            }
        }
        if self.wants(group::BALLOON) {
            for (name, _, value) in stats::balloon(guest).await {
                self.add(format!("balloon.{name}"), value);
            }
        }
        if self.wants(group::IOTHREAD) {
            self.iothreads(&guest.ask("query-iothreads", Value::Null).await?);
        }
        if self.wants(group::DIRTY_RATE) {
            self.dirty_rate(&guest.ask("query-dirty-rate", Value::Null).await?);
        }
        Ok(())
    }

    async fn interfaces(&mut self, guest: &Observed<'_>) {
        let devices = guest.root().child("devices");
        let interfaces: Vec<&Element> =
            devices.into_iter().flat_map(|devices| devices.all("interface")).collect();
        self.add("net.count", count(interfaces.len()));
        for (index, interface) in interfaces.into_iter().enumerate() {
            let Some(tap) = stats::tap(interface) else { continue };
            self.add(format!("net.{index}.name"), tap);
            let Ok(counted) = stats::interface(guest, tap).await else { continue };
            for (name, value) in [
                ("rx.bytes", counted.received_bytes),
                ("rx.pkts", counted.received_packets),
                ("rx.errs", counted.received_errors),
                ("rx.drop", counted.received_drops),
                ("tx.bytes", counted.sent_bytes),
                ("tx.pkts", counted.sent_packets),
                ("tx.errs", counted.sent_errors),
                ("tx.drop", counted.sent_drops),
            ] {
                if let Ok(value) = u64::try_from(value) {
                    self.add(format!("net.{index}.{name}"), value);
                }
            }
        }
    }

    async fn disks(&mut self, guest: &Observed<'_>) -> Result<(), Error> {
        let figures = guest.ask("query-blockstats", Value::Null).await?;
        let drives = guest.ask("query-block", Value::Null).await?;
        // Each image is an entry of its own: disks, and below each, if that is wanted, its layers.
        let mut images: Vec<(&Element, &Element, blocks::Figures)> = Vec::new();
        for disk in blocks::disks(guest.root()) {
            let alias = disk.path_attr("alias", "name").unwrap_or_default();
            images.push((disk, disk, blocks::figures(&figures, &drives, alias).unwrap_or_default()));
            let mut image = disk;
            for layer in blocks::layers(&figures, &drives, alias).into_iter().filter(|_| self.backing) {
                let Some(below) = image.child("backingStore") else { break };
                images.push((disk, below, layer));
                image = below;
            }
        }
        self.add("block.count", count(images.len()));
        for (index, (disk, image, figures)) in images.into_iter().enumerate() {
            self.add(format!("block.{index}.name"), disk.path_attr("target", "dev").unwrap_or_default());
            if let Some(path) = blocks::source(image) {
                self.add(format!("block.{index}.path"), path);
            }
            let number = image.path_attr("source", "index").or(image.attr("index"));
            if let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) {
                self.add(format!("block.{index}.backingIndex"), number);
            }
            for (name, value) in [
                ("rd.reqs", figures.read_requests),
                ("rd.bytes", figures.read_bytes),
                ("rd.times", figures.read_ns),
                ("wr.reqs", figures.write_requests),
                ("wr.bytes", figures.write_bytes),
                ("wr.times", figures.write_ns),
                ("fl.reqs", figures.flush_requests),
                ("fl.times", figures.flush_ns),
            ] {
                self.add(format!("block.{index}.{name}"), value);
            }
            if let Some(size) = figures.size {
                self.add(format!("block.{index}.allocation"), figures.highest);
                self.add(format!("block.{index}.capacity"), size.capacity);
                self.add(format!("block.{index}.physical"), size.taken);
            }
            if figures.threshold > 0 {
                self.add(format!("block.{index}.threshold"), figures.threshold);
            }
        }
        Ok(())
    }

    fn iothreads(&mut self, threads: &Value) {
        // Where there are none, libvirt says nothing.
        let Some(threads) = threads.as_array().filter(|threads| !threads.is_empty()) else { return };
        self.add("iothread.count", count(threads.len()));
        for thread in threads {
            let id = thread.get("id").and_then(Value::as_str).and_then(|id| id.strip_prefix("iothread"));
            let Some(id) = id.and_then(|id| id.parse::<u32>().ok()) else { continue };
            let number = |name: &str| thread.get(name).and_then(Value::as_u64);
            if let Some(longest) = number("poll-max-ns") {
                self.add(format!("iothread.{id}.poll-max-ns"), longest);
            }
            for name in ["poll-grow", "poll-shrink"] {
                if let Some(value) = number(name).and_then(|value| u32::try_from(value).ok()) {
                    self.add(format!("iothread.{id}.{name}"), value);
                }
            }
        }
    }

    fn dirty_rate(&mut self, rate: &Value) {
        let text = |name: &str| rate.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| rate.get(name).and_then(Value::as_i64);
        let status = ["unstarted", "measuring", "measured"].iter().position(|known| *known == text("status"));
        let status = status.and_then(|status| i32::try_from(status).ok()).unwrap_or(0);
        self.add("dirtyrate.calc_status", status);
        self.add("dirtyrate.calc_start_time", number("start-time").unwrap_or(0));
        let period = number("calc-time").and_then(|period| i32::try_from(period).ok());
        self.add("dirtyrate.calc_period", period.unwrap_or(0));
        self.add("dirtyrate.calc_mode", text("mode"));
        if let Some(rate) = number("dirty-rate") {
            self.add("dirtyrate.megabytes_per_second", rate);
        }
    }
}
