//! What QEMU tells of its own accord.

use super::error::quote;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What the reader of events gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// An event.
    Event(Box<Event>),
    /// That many events were lost here, since the reader lagged. What they told must be asked for.
    Lagged(u64),
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it happened, by QEMU's clock.
    pub at: Timestamp,
    /// QEMU's name of it.
    pub name: String,
    /// All that QEMU tells with it, as it came.
    pub data: Map<String, Value>,
    /// What happened.
    pub kind: EventKind,
}

/// QEMU's time of an event; both numbers are -1 when QEMU could not read its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Microseconds within the second.
    pub microseconds: i64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// The machine shut down.
    Shutdown(Shutdown),
    /// The machine was reset.
    Reset(Reset),
    /// The processors were stopped.
    Stop,
    /// The processors run again.
    Resume,
    /// The power button was pressed.
    Powerdown,
    /// The guest went to sleep.
    Suspend,
    /// The guest went to sleep on disk.
    SuspendDisk,
    /// The guest woke up.
    Wakeup,
    /// The guest's kernel panicked.
    GuestPanicked(GuestPanicked),
    /// The watchdog expired.
    Watchdog(Watchdog),
    /// A disk failed.
    BlockIoError(BlockIoError),
    /// The guest set its clock.
    RtcChange(RtcChange),
    /// A device is gone.
    DeviceDeleted(DeviceDeleted),
    /// The tray of a removable drive moved.
    TrayMoved(TrayMoved),
    /// The balloon changed its size.
    BalloonChange(BalloonChange),
    /// A program in the guest opened or closed a virtio-serial port.
    PortChange(PortChange),
    /// Any other event.
    Other {
        /// QEMU's name of it.
        name: String,
        /// What QEMU tells with it.
        data: Map<String, Value>,
    },
}

/// The machine shut down.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shutdown {
    /// Whether the guest asked for it.
    pub guest: bool,
    /// QEMU's `ShutdownCause`, such as `host-qmp-quit`.
    pub reason: String,
}

/// The machine was reset.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reset {
    /// Whether the guest asked for it.
    pub guest: bool,
    /// QEMU's `ShutdownCause`, such as `guest-reset`.
    pub reason: String,
}

/// The guest's kernel panicked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GuestPanicked {
    /// What QEMU does about it: `pause`, `poweroff` or `run`.
    pub action: String,
    /// What the guest told of it; its form depends on the panic device.
    pub info: Option<Value>,
}

/// The watchdog expired.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Watchdog {
    /// What QEMU does about it, such as `reset`.
    pub action: String,
}

/// A disk failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockIoError {
    /// The drive's name; empty with `-blockdev`.
    #[serde(default)]
    pub device: String,
    /// The device in the object tree (QEMU 9.2 and newer).
    pub qom_path: Option<String>,
    /// The node's name.
    pub node_name: Option<String>,
    /// `read` or `write`.
    pub operation: String,
    /// What QEMU does about it: `ignore`, `report` or `stop`.
    pub action: String,
    /// Whether the host's storage is full.
    pub nospace: Option<bool>,
    /// The operating system's text, for people.
    #[serde(default)]
    pub reason: String,
}

/// The guest set its clock.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RtcChange {
    /// Seconds between the guest's clock and the one it started with.
    pub offset: i64,
    /// The clock in the object tree.
    pub qom_path: Option<String>,
}

/// A device is gone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DeviceDeleted {
    /// Its id, where it has one.
    pub device: Option<String>,
    /// Its path in the object tree.
    pub path: String,
}

/// The tray of a removable drive moved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrayMoved {
    /// The drive's name; empty with `-blockdev`.
    #[serde(default)]
    pub device: String,
    /// The device's id or path.
    pub id: String,
    /// Whether it is open now.
    pub tray_open: bool,
}

/// The balloon changed its size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BalloonChange {
    /// The guest's memory in bytes, as it is now.
    pub actual: u64,
}

/// A program in the guest opened or closed a virtio-serial port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PortChange {
    /// The port's id.
    pub id: String,
    /// Whether it is open now.
    pub open: bool,
}

impl Event {
    /// Reads an event. One whose name is known must have the data that belong to it; fields that a newer QEMU
    /// adds are ignored.
    pub(super) fn read(at: Timestamp, name: String, data: Map<String, Value>) -> Result<Self, String> {
        let whole = data.clone();
        let kind = match name.as_str() {
            "SHUTDOWN" => typed(&name, data, EventKind::Shutdown)?,
            "RESET" => typed(&name, data, EventKind::Reset)?,
            "STOP" => EventKind::Stop,
            "RESUME" => EventKind::Resume,
            "POWERDOWN" => EventKind::Powerdown,
            "SUSPEND" => EventKind::Suspend,
            "SUSPEND_DISK" => EventKind::SuspendDisk,
            "WAKEUP" => EventKind::Wakeup,
            "GUEST_PANICKED" => typed(&name, data, EventKind::GuestPanicked)?,
            "WATCHDOG" => typed(&name, data, EventKind::Watchdog)?,
            "BLOCK_IO_ERROR" => typed(&name, data, EventKind::BlockIoError)?,
            "RTC_CHANGE" => typed(&name, data, EventKind::RtcChange)?,
            "DEVICE_DELETED" => typed(&name, data, EventKind::DeviceDeleted)?,
            "DEVICE_TRAY_MOVED" => typed(&name, data, EventKind::TrayMoved)?,
            "BALLOON_CHANGE" => typed(&name, data, EventKind::BalloonChange)?,
            "VSERPORT_CHANGE" => typed(&name, data, EventKind::PortChange)?,
            _ => EventKind::Other { name: name.clone(), data },
        };
        Ok(Self { at, name, data: whole, kind })
    }
}

fn typed<D: DeserializeOwned>(
    name: &str,
    data: Map<String, Value>,
    wrap: fn(D) -> EventKind,
) -> Result<EventKind, String> {
    D::deserialize(Value::Object(data))
        .map(wrap)
        .map_err(|error| format!("the data of event {name}: {}", quote(&error.to_string())))
}
