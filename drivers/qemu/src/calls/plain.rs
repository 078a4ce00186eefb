//! Answers that take a few lines each: lists in the older form, what is the same for all guests, texts of a definition.

use crate::driver::Qemu;
use crate::guest::view::View;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::{SecurityLabel, SecurityModel};
use std::sync::Arc;

/// The version of libvirt's API that is served.
pub(super) const API_VERSION: u64 = 11_003_000;
/// What QEMU's usual machine takes.
pub(super) const VCPUS_MAX: i32 = 255;

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
}
