//! `-rtc`, the PIT, and power management.

use super::builder::{Builder, switch};
use super::option::KeyValues;
use bulkhead_wire::error::Error;

const DAY: i64 = 86_400;

impl Builder<'_> {
    pub(crate) fn clock(&mut self) -> Result<(), Error> {
        let Some(clock) = self.root.child("clock") else {
            return self.option("-rtc", KeyValues::empty().with("base", "utc"));
        };
        let base = match clock.attr("offset") {
            Some("localtime" | "timezone") => "localtime".to_owned(),
            Some("variable") => {
                let adjustment =
                    clock.attr("adjustment").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
                date(self.paths.now.saturating_add(adjustment))
            }
            Some("absolute") => {
                date(clock.attr("start").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0))
            }
            _ => "utc".to_owned(),
        };
        let mut list = KeyValues::empty();
        list.set("base", base);
        let mut pit = None;
        for timer in clock.all("timer") {
            match timer.attr("name") {
                Some("rtc") => {
                    match timer.attr("track") {
                        Some("guest") => list.set("clock", "vm"),
                        Some("wall") => list.set("clock", "host"),
                        Some("realtime") => list.set("clock", "rt"),
                        _ => &mut list,
                    };
                    if timer.attr("tickpolicy") == Some("catchup") {
                        list.set("driftfix", "slew");
                    }
                }
                Some("pit") => {
                    pit = match timer.attr("tickpolicy") {
                        None | Some("delay") => Some("delay"),
                        Some("discard") => Some("discard"),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        self.option("-rtc", list)?;
        if let Some(policy) = pit.filter(|_| self.is_x86()) {
            let list = KeyValues::empty().with("kvm-pit.lost_tick_policy", policy);
            self.option("-global", list)?;
        }
        Ok(())
    }

    /// What the chipset offers for sleeping.
    pub(crate) fn power_management(&mut self) -> Result<(), Error> {
        let Some(management) = self.root.child("pm") else {
            return Ok(());
        };
        let part = if self.is_q35() { "ICH9-LPC" } else { "PIIX4_PM" };
        for (element, property) in [("suspend-to-mem", "disable_s3"), ("suspend-to-disk", "disable_s4")] {
            if let Some(enabled) = management.child(element).and_then(|state| switch(state, "enabled")) {
                let list = KeyValues::empty().with(&format!("{part}.{property}"), i32::from(!enabled));
                self.option("-global", list)?;
            }
        }
        Ok(())
    }

    /// PCI hotplug at the root, where the definition says something of it.
    pub(crate) fn root_hotplug(&mut self) -> Result<(), Error> {
        let root = self.devices("controller").find(|controller| controller.attr("model") == Some("pci-root"));
        let Some(on) = root
            .and_then(|root| root.child("target"))
            .and_then(|target| switch(target, "hotplug"))
            .filter(|_| self.is_i440fx())
        else {
            return Ok(());
        };
        let mut list = KeyValues::empty();
        list.switch("PIIX4_PM.acpi-root-pci-hotplug", on);
        self.option("-global", list)
    }
}

/// A moment in UTC, as `-rtc` reads it.
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Days since 0000-03-01, so that the leap day ends a year; an era is 400 years.
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) =
        if month < 10 { (year + era * 400, month + 3) } else { (year + era * 400 + 1, month - 9) };
    format!("{year:04}-{month:02}-{of_month:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn writes_dates() {
        assert_eq!(date(0), "1970-01-01T00:00:00");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(date(1_707_119_289), "2024-02-05T07:48:09");
        assert_eq!(date(-1), "1969-12-31T23:59:59");
    }
}
