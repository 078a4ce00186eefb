//! The PCI buses of a guest and which functions of their slots are taken.

use super::super::refuse;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// Where a device sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) bus: usize,
    pub(super) slot: usize,
    pub(super) function: usize,
}

/// What a device, or the controller itself, plugs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plug {
    /// A conventional PCI device.
    Pci,
    /// A PCI Express device.
    Pcie,
    /// A device that is part of the root complex.
    Integrated,
    /// A bridge of conventional PCI.
    PciBridge,
    /// A second root bus on a conventional one.
    PciExpander,
    /// A second root complex.
    PcieExpander,
    /// A port of a root complex.
    RootPort,
    /// A switch's port towards the root.
    Upstream,
    /// A switch's ports towards devices.
    Downstream,
    /// A bridge from DMI to conventional PCI.
    DmiBridge,
    /// A bridge from PCI Express to conventional PCI.
    PcieBridge,
}

impl Plug {
    /// What a controller of that model plugs into; root buses plug into nothing.
    pub(super) fn of_controller(model: &str) -> Option<Self> {
        Some(match model {
            "pci-bridge" => Self::PciBridge,
            "pci-expander-bus" => Self::PciExpander,
            "pcie-expander-bus" => Self::PcieExpander,
            "pcie-root-port" => Self::RootPort,
            "pcie-switch-upstream-port" => Self::Upstream,
            "pcie-switch-downstream-port" => Self::Downstream,
            "dmi-to-pci-bridge" => Self::DmiBridge,
            "pcie-to-pci-bridge" => Self::PcieBridge,
            _ => return None,
        })
    }
}

/// A bus, named by the model of its controller.
#[derive(Debug, Clone)]
pub(super) struct Bus {
    pub(super) model: String,
    functions: [u8; 32],
    /// Slots whose only function is one of several of the same kind, and may be joined.
    shared: [bool; 32],
}

impl Bus {
    pub(super) fn new(model: &str) -> Self {
        Self { model: model.to_owned(), functions: [0; 32], shared: [false; 32] }
    }

    /// The slots that the bus has.
    fn slots(&self) -> std::ops::RangeInclusive<usize> {
        match self.model.as_str() {
            "pci-root" | "pcie-root" | "pci-bridge" | "pcie-to-pci-bridge" => 1..=31,
            "pcie-root-port" | "pcie-switch-downstream-port" | "pcie-expander-bus" => 0..=0,
            _ => 0..=31,
        }
    }

    /// Whether a device of that kind may be put here without being told. In a guest without PCI Express its devices
    /// are conventional ones.
    fn takes(&self, plug: Plug, express: bool) -> bool {
        use Plug::*;
        let plug = if plug == Pcie && !express { Pci } else { plug };
        match self.model.as_str() {
            "pci-root" => matches!(plug, Pci | Integrated | PciBridge | PciExpander),
            "pci-bridge" | "pci-expander-bus" => matches!(plug, Pci | PciBridge),
            "pcie-root" => matches!(plug, Integrated | RootPort | DmiBridge | PcieExpander),
            // Nothing can be unplugged here, so no device is put here unasked.
            "dmi-to-pci-bridge" => plug == PciBridge,
            "pcie-to-pci-bridge" => matches!(plug, Pci | PciBridge),
            "pcie-root-port" | "pcie-switch-downstream-port" => matches!(plug, Pcie | Upstream | PcieBridge),
            "pcie-switch-upstream-port" => matches!(plug, Downstream),
            "pcie-expander-bus" => matches!(plug, RootPort | DmiBridge),
            _ => false,
        }
    }

    /// Whether a device of that kind may be here if the definition says so.
    fn accepts(&self, plug: Plug) -> bool {
        use Plug::*;
        self.takes(plug, true)
            || match plug {
                Pci | Pcie => matches!(
                    self.model.as_str(),
                    "pci-root"
                        | "pcie-root"
                        | "pci-bridge"
                        | "pci-expander-bus"
                        | "dmi-to-pci-bridge"
                        | "pcie-to-pci-bridge"
                        | "pcie-root-port"
                        | "pcie-switch-downstream-port"
                ),
                _ => false,
            }
    }
}

/// All buses; their numbers are those of their controllers.
#[derive(Debug, Clone)]
pub(super) struct Buses {
    pub(super) all: Vec<Bus>,
    /// Whether buses may be added where there is no place.
    pub(super) may_grow: bool,
    /// Whether the guest runs.
    pub(super) runs: bool,
}

/// More buses than this no guest has.
const MAXIMUM_BUSES: usize = 256;

impl Buses {
    fn full(&self) -> Error {
        if self.runs {
            return refuse::no_place(
                "No more available PCI slots: add controllers of model 'pcie-root-port' (of 'pci-bridge', on a machine without PCI Express) to the definition, and start the guest again",
            );
        }
        refuse::xml("No PCI bus of the guest has a free place for a device; add a controller")
    }

    /// Whether the guest has PCI Express.
    pub(super) fn is_express(&self) -> bool {
        self.all.first().is_some_and(|root| root.model == "pcie-root")
    }

    /// Whether no slot of any bus is free.
    pub(super) fn all_reserved(&self) -> bool {
        self.all.iter().all(|bus| bus.slots().all(|slot| bus.functions[slot] != 0))
    }

    /// Whether a slot has no device at all.
    pub(super) fn is_free(&self, place: Place) -> bool {
        self.all.get(place.bus).is_some_and(|bus| bus.functions.get(place.slot) == Some(&0))
    }

    /// Takes one function that a definition or the chip set names.
    pub(super) fn reserve(&mut self, place: Place, plug: Plug, checked: bool) -> Result<(), Error> {
        let name = format!("0000:{:02x}:{:02x}.{:x}", place.bus, place.slot, place.function);
        let Some(bus) = self.all.get_mut(place.bus) else {
            let added = match self.all.first().map(|root| root.model.as_str()) {
                Some("pci-root") => "pci-bridge",
                _ => "pcie-root-port",
            };
            if self.may_grow && !self.all.is_empty() && place.bus < MAXIMUM_BUSES {
                self.all.resize_with(place.bus + 1, || Bus::new(added));
                return self.reserve(place, plug, checked);
            }
            return Err(refuse::xml(format!("PCI address {name}: there is no controller {}", place.bus)));
        };
        if checked {
            if !bus.accepts(plug) {
                return Err(refuse::xml(format!(
                    "PCI address {name}: a controller of model '{}' does not take such a device",
                    bus.model
                )));
            }
            if !bus.slots().contains(&place.slot) {
                return Err(refuse::xml(format!(
                    "PCI address {name}: slots of controller {} run from {} to {}",
                    place.bus,
                    bus.slots().start(),
                    bus.slots().end()
                )));
            }
        }
        let bit = 1_u8 << (place.function & 7);
        let Some(functions) = bus.functions.get_mut(place.slot) else {
            return Err(refuse::xml(format!("PCI address {name}: there is no such slot")));
        };
        if *functions & bit != 0 {
            return Err(refuse::xml(format!("PCI address {name} is used twice; change one")));
        }
        *functions |= bit;
        if plug == Plug::RootPort
            && let Some(shared) = bus.shared.get_mut(place.slot)
        {
            *shared = *functions == bit || *shared;
        }
        Ok(())
    }

    /// Takes the next free place for a device of that kind, adding buses if need be.
    pub(super) fn next(&mut self, plug: Plug) -> Result<Place, Error> {
        loop {
            let express = self.is_express();
            for (number, bus) in self.all.iter_mut().enumerate() {
                if !bus.takes(plug, express) {
                    continue;
                }
                for slot in bus.slots() {
                    let used = bus.functions[slot];
                    let function = if used == 0 {
                        0
                    } else if plug == Plug::RootPort && bus.shared[slot] && used != 0xff {
                        used.trailing_ones() as usize
                    } else {
                        continue;
                    };
                    bus.functions[slot] |= 1 << function;
                    if plug == Plug::RootPort {
                        bus.shared[slot] = true;
                    }
                    return Ok(Place { bus: number, slot, function });
                }
            }
            self.grow(plug)?;
        }
    }

    /// Takes one function of a slot that is otherwise free.
    pub(super) fn next_slot(&mut self, plug: Plug, function: usize) -> Result<Place, Error> {
        let place = self.next(plug)?;
        if let Some(functions) = self.all.get_mut(place.bus).and_then(|bus| bus.functions.get_mut(place.slot))
        {
            *functions = 1 << (function & 7);
        }
        Ok(Place { function, ..place })
    }

    /// Adds the buses that a device of that kind needs.
    fn grow(&mut self, plug: Plug) -> Result<(), Error> {
        if !self.may_grow || self.all.len() + 2 > MAXIMUM_BUSES {
            return Err(self.full());
        }
        let express = self.is_express();
        let added: &[&str] = match plug {
            Plug::Pci | Plug::PciBridge if express => &["pcie-root-port", "pcie-to-pci-bridge"],
            Plug::Pci | Plug::Pcie | Plug::PciBridge if !express => &["pci-bridge"],
            Plug::Pcie | Plug::Upstream | Plug::PcieBridge if express => &["pcie-root-port"],
            _ => return Err(self.full()),
        };
        self.all.extend(added.iter().map(|model| Bus::new(model)));
        Ok(())
    }
}

/// A complete PCI address as an element.
pub(super) fn element(place: Place, multifunction: bool) -> Element {
    let mut address = Element::new("address")
        .with("type", "pci")
        .with("domain", "0x0000")
        .with("bus", format!("0x{:02x}", place.bus))
        .with("slot", format!("0x{:02x}", place.slot))
        .with("function", format!("0x{:x}", place.function));
    if multifunction {
        address.set("multifunction", "on");
    }
    address
}
