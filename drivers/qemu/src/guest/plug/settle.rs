//! After a death, or when QEMU did not answer in time: what was begun with a guest's devices is done or undone, by what QEMU
//! has of it.

use super::super::Guest;
use super::super::amend::tree;
use super::super::live::Change;
use crate::domain::plug;
use bulkhead_wire::error::Error;
use bulkhead_wire::types::DomainEvent;
use bulkhead_xml::Element;
use serde_json::json;
use std::sync::Arc;

impl Guest {
    /// Makes what is known of the guest's devices agree with what QEMU has. With `again`, QEMU is told once more what is to go: who
    /// was to tell it may have died before that.
    pub(crate) async fn settle_devices(&mut self, again: bool) -> Result<(), Error> {
        let devices = &self.active()?.devices;
        if devices.change.is_none() && devices.leaving.is_empty() {
            return Ok(());
        }
        let (change, leaving) = (devices.change.clone(), devices.leaving.clone());
        let monitor = self.monitor()?;
        let present = self.present(&monitor).await?;
        for alias in &leaving {
            if !present.contains(alias) {
                self.device_gone(alias).await;
            } else if again {
                self.try_to(&monitor, "device_del", json!({ "id": alias })).await;
            }
        }
        match change {
            None => Ok(()),
            Some(Change::Added { device, .. }) => {
                let device = tree(&device)?;
                let alias = device.path_attr("alias", "name").unwrap_or_default().to_owned();
                if present.contains(&alias) {
                    self.finish_plug(&monitor).await?;
                    let domain = self.view.get().reference();
                    self.environment.emit(&DomainEvent::DeviceAdded { domain, alias });
                    return Ok(());
                }
                let mut root = Element::clone(&Arc::clone(&self.active()?.live));
                plug::add(&mut root, device.clone());
                self.clear_behind(&monitor, &root, &device).await;
                self.running_mut()?.devices.change = None;
                self.record(super::Phase::Running).await
            }
            Some(Change::Medium { disk, config }) => {
                let disk = tree(&disk)?;
                self.settle_medium(&monitor, &disk, config).await
            }
        }
    }
}
