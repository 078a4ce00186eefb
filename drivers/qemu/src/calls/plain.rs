//! Answers that take a few lines each: lists in the older form, what is the same for all guests, texts of a definition.

use super::{list, matches, unsupported_flags};
use crate::driver::Qemu;
use crate::guest::view::{View, vcpus_of};
use crate::statistics;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::types::{ControlInfo, DomainRef, DomainStatistics, SecurityLabel, SecurityModel};
use bulkhead_xml::{Element, Limits};
use std::sync::Arc;

/// The version of libvirt's API that is served.
pub(super) const API_VERSION: u64 = 11_003_000;
/// What QEMU's usual machine takes.
pub(super) const VCPUS_MAX: i32 = 255;
/// `virDomainVcpuFlags`.
const VCPU_LIVE: u32 = 1;
const VCPU_CONFIG: u32 = 2;
pub(super) const VCPU_MAXIMUM: u32 = 4;
pub(super) const VCPU_FLAGS: u32 = VCPU_LIVE | VCPU_CONFIG | VCPU_MAXIMUM;
/// `virDomainMetadataType`.
const DESCRIPTION: i32 = 0;
const TITLE: i32 = 1;
const ELEMENT: i32 = 2;
/// `virDomainModificationImpact`.
const AFFECT_CONFIG: u32 = 2;
/// `virConnectGetAllDomainStatsFlags` beside those of the list.
const STATS_BACKING: u32 = 1 << 30;
const STATS_NO_WAIT: u32 = 1 << 29;
const STATS_ENFORCE: u32 = 1 << 31;
/// `virDomainControlState`: nothing is going on, or a command is.
const CONTROL_OK: u32 = 0;
const CONTROL_OCCUPIED: u32 = 2;

/// Text as libvirt has it in the calls about security.
fn characters(text: &str) -> Vec<i8> {
    text.bytes().map(|byte| i8::try_from(byte).unwrap_or(0)).chain([0]).collect()
}

pub(super) fn security_model() -> SecurityModel {
    SecurityModel { model: characters("none"), interpretation: characters("0") }
}

pub(super) fn security_label() -> SecurityLabel {
    SecurityLabel { label: characters(""), enforcing: 0 }
}

/// The first so many of a list; a number below zero is a mistake.
pub(super) fn first<T>(list: Vec<T>, most: i32) -> Result<Vec<T>, Error> {
    let most = usize::try_from(most).map_err(|_negative| {
        let message = format!("invalid argument: {most} is no number of things");
        Error::new(Code::INVALID_ARG, Origin::QEMU, message)
    })?;
    Ok(list.into_iter().take(most).collect())
}

pub(super) fn count<T>(list: &[T]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}

impl Qemu {
    fn views(&self) -> impl Iterator<Item = Arc<View>> {
        self.environment.all().into_iter().map(|guest| guest.view.get()).filter(|view| view.exists())
    }

    /// Numbers of the domains that run.
    pub(super) fn running(&self) -> Vec<i32> {
        let mut ids: Vec<i32> =
            self.views().filter_map(|view| view.live.as_ref().map(|live| live.id)).collect();
        ids.sort_unstable();
        ids
    }

    /// Names of those that do not.
    pub(super) fn resting(&self) -> Vec<String> {
        self.views().filter(|view| view.live.is_none()).map(|view| view.name.clone()).collect()
    }

    /// The definition that a question is about, by its flags.
    fn asked(&self, domain: &DomainRef, config: bool) -> Result<Element, Error> {
        let view = self.guest(domain)?.view.get();
        let root = match (&view.persistent, config) {
            (Some(definition), true) => Some(&definition.root),
            (None, true) => {
                let message = format!(
                    "Requested operation is not valid: domain '{}' is transient: it has no definition beside the one that runs",
                    view.name
                );
                return Err(Error::new(Code::OPERATION_INVALID, Origin::QEMU, message));
            }
            (_, false) => view.root(),
        };
        root.cloned().ok_or_else(|| Error::new(Code::INTERNAL, Origin::QEMU, "The domain has no definition"))
    }

    pub(super) fn vcpus(&self, domain: &DomainRef, flags: u32) -> Result<i32, Error> {
        let view = self.guest(domain)?.view.get();
        if flags & VCPU_LIVE != 0 && view.live.is_none() {
            let message = "Requested operation is not valid: domain is not running";
            return Err(Error::new(Code::OPERATION_INVALID, Origin::QEMU, message));
        }
        let config = flags & VCPU_CONFIG != 0 || view.live.is_none() && flags & VCPU_LIVE == 0;
        let (current, most) = vcpus_of(Some(&self.asked(domain, config)?));
        let wanted = if flags & VCPU_MAXIMUM != 0 { most } else { current };
        Ok(i32::try_from(wanted).unwrap_or(i32::MAX))
    }

    pub(super) fn control(&self, domain: &DomainRef) -> Result<ControlInfo, Error> {
        let guest = self.guest(domain)?;
        if guest.view.get().live.is_none() {
            return Err(super::not_running(&guest));
        }
        let busy = guest.object.busy();
        Ok(ControlInfo {
            state: if busy.is_some() { CONTROL_OCCUPIED } else { CONTROL_OK },
            details: 0,
            state_time_ms: busy.map_or(0, |busy| busy.since_ms),
        })
    }

    pub(super) fn metadata(
        &self,
        domain: &DomainRef,
        kind: i32,
        uri: Option<&str>,
        flags: u32,
    ) -> Result<String, Error> {
        let root = self.asked(domain, flags & AFFECT_CONFIG != 0)?;
        let missing = |what: &str| {
            let message = format!("metadata not found: domain '{}' has no {what}", domain.name);
            Error::new(Code::NO_DOMAIN_METADATA, Origin::DOMAIN, message)
        };
        match kind {
            DESCRIPTION => root.child_text("description").ok_or_else(|| missing("description")),
            TITLE => root.child_text("title").ok_or_else(|| missing("title")),
            ELEMENT => {
                // It is kept as it was written; only whoever asks for a part has it read.
                let metadata = root.child("metadata").ok_or_else(|| missing("metadata"))?;
                let parsed = bulkhead_xml::parse(metadata.to_xml().as_bytes(), Limits::default(), "")
                    .map_err(|error| Error::new(Code::XML_DETAIL, Origin::DOMAIN, error.to_string()))?;
                let found = parsed.elements().find(|element| element.namespace.as_deref() == uri);
                found.map(Element::to_xml).ok_or_else(|| missing("element of that namespace"))
            }
            _ => {
                let message = format!("invalid argument: {kind} is no kind of metadata");
                Err(Error::new(Code::INVALID_ARG, Origin::DOMAIN, message))
            }
        }
    }

    pub(super) fn statistics(
        &self,
        call: &CallContext,
        domains: &[DomainRef],
        groups: u32,
        flags: u32,
    ) -> Result<Vec<DomainStatistics>, Error> {
        unsupported_flags(call, flags, list::ALL | STATS_BACKING | STATS_NO_WAIT | STATS_ENFORCE)?;
        let missing = groups & !statistics::GROUPS;
        if flags & STATS_ENFORCE != 0 && missing != 0 {
            let message =
                format!("argument unsupported: Stats types bits {missing:#x} can't be told by this driver");
            return Err(Error::new(Code::ARGUMENT_UNSUPPORTED, Origin::QEMU, message));
        }
        // Bits that can't be told alone ask for nothing, not for everything.
        let wanted = if groups == 0 { statistics::GROUPS } else { groups & statistics::GROUPS };
        let views: Vec<Arc<View>> = if domains.is_empty() {
            self.views().collect()
        } else {
            // Those that have gone since the client listed them are left out.
            domains.iter().filter_map(|domain| Some(self.guest(domain).ok()?.view.get())).collect()
        };
        let matching = views.iter().filter(|view| matches(view, flags & list::ALL));
        Ok(matching.map(|view| statistics::of_domain(view, wanted)).collect())
    }
}
