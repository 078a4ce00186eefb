//! The commands, with types.

use super::connection::Monitor;
use super::error::{Cause, MonitorError, quote};
use super::message::Version;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::os::fd::OwnedFd;
use std::time::Duration;

mod answers;

pub use answers::*;

/// The commands of a monitor, each with the same time to be answered in. Every one fails as
/// [`Monitor::execute`] does, or with [`MonitorError::Answer`].
#[derive(Debug, Clone, Copy)]
pub struct Commands<'a> {
    monitor: &'a Monitor,
    deadline: Duration,
}

type Answer<T> = Result<T, MonitorError>;

fn read<T: DeserializeOwned>(command: &str, value: Value) -> Answer<T> {
    T::deserialize(value).map_err(|error| MonitorError::Answer {
        command: command.to_owned(),
        reason: quote(&error.to_string()),
    })
}

/// An object of those of the fields that are there.
fn present<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

#[expect(clippy::missing_errors_doc, reason = "they all fail alike, and the type's documentation says how")]
impl<'a> Commands<'a> {
    pub(super) fn new(monitor: &'a Monitor, deadline: Duration) -> Self {
        Self { monitor, deadline }
    }

    async fn ask<T: DeserializeOwned>(self, command: &str, arguments: Value) -> Answer<T> {
        let value = self.monitor.execute(command, arguments, self.deadline).await?;
        read(command, value)
    }

    /// For commands that answer with nothing; what a newer QEMU may say instead is ignored.
    async fn tell(self, command: &str, arguments: Value) -> Answer<()> {
        self.monitor.execute(command, arguments, self.deadline).await.map(drop)
    }

    /// `query-status`: what the machine is doing.
    pub async fn query_status(self) -> Answer<Status> {
        self.ask("query-status", Value::Null).await
    }

    /// `cont`: runs the processors.
    pub async fn cont(self) -> Answer<()> {
        self.tell("cont", Value::Null).await
    }

    /// `stop`: stops the processors.
    pub async fn stop(self) -> Answer<()> {
        self.tell("stop", Value::Null).await
    }

    /// `system_powerdown`: presses the power button.
    pub async fn system_powerdown(self) -> Answer<()> {
        self.tell("system_powerdown", Value::Null).await
    }

    /// `system_reset`: presses the reset button.
    pub async fn system_reset(self) -> Answer<()> {
        self.tell("system_reset", Value::Null).await
    }

    /// `quit`: ends QEMU. That it closed the connection before its answer arrived is success too.
    pub async fn quit(self) -> Answer<()> {
        match self.tell("quit", Value::Null).await {
            Err(MonitorError::Closed { cause: Cause::EndOfFile, .. }) => Ok(()),
            answer => answer,
        }
    }

    /// `query-cpus-fast`: the processors and their threads.
    pub async fn query_cpus_fast(self) -> Answer<Vec<Cpu>> {
        self.ask("query-cpus-fast", Value::Null).await
    }

    /// `query-block`: the drives.
    pub async fn query_block(self) -> Answer<Vec<BlockDevice>> {
        self.ask("query-block", Value::Null).await
    }

    /// `query-chardev`: the character devices.
    pub async fn query_chardev(self) -> Answer<Vec<CharacterDevice>> {
        self.ask("query-chardev", Value::Null).await
    }

    /// `query-migrate`: how far the state's way out or in has come.
    pub async fn query_migrate(self) -> Answer<Migration> {
        self.ask("query-migrate", Value::Null).await
    }

    /// `query-version`: QEMU's version.
    pub async fn query_version(self) -> Answer<Version> {
        self.ask("query-version", Value::Null).await
    }

    /// `query-commands`: the names of all commands.
    pub async fn query_commands(self) -> Answer<Vec<String>> {
        let commands: Vec<Named> = self.ask("query-commands", Value::Null).await?;
        Ok(commands.into_iter().map(|command| command.name).collect())
    }

    /// `qom-list-types`: the types of objects, those that implement `implements` if given.
    pub async fn qom_list_types(
        self,
        implements: Option<&str>,
        with_abstract: bool,
    ) -> Answer<Vec<ObjectType>> {
        let arguments = present([("implements", json!(implements)), ("abstract", json!(with_abstract))]);
        self.ask("qom-list-types", arguments).await
    }

    /// `device-list-properties`: the properties of a type of device.
    pub async fn device_list_properties(self, device: &str) -> Answer<Vec<Property>> {
        self.ask("device-list-properties", json!({"typename": device})).await
    }

    /// `query-machines`: the machine types.
    pub async fn query_machines(self) -> Answer<Vec<Machine>> {
        self.ask("query-machines", Value::Null).await
    }

    /// `query-cpu-definitions`: the CPU models.
    pub async fn query_cpu_definitions(self) -> Answer<Vec<CpuDefinition>> {
        self.ask("query-cpu-definitions", Value::Null).await
    }

    /// `query-kvm`: whether KVM is there and used.
    pub async fn query_kvm(self) -> Answer<Kvm> {
        self.ask("query-kvm", Value::Null).await
    }

    /// `query-target`: the architecture that this binary emulates.
    pub async fn query_target(self) -> Answer<String> {
        let target: Target = self.ask("query-target", Value::Null).await?;
        Ok(target.arch)
    }

    /// `query-balloon`: the guest's memory in bytes. QEMU refuses it (`DeviceNotActive`) without a balloon.
    pub async fn query_balloon(self) -> Answer<u64> {
        let balloon: Balloon = self.ask("query-balloon", Value::Null).await?;
        Ok(balloon.actual)
    }

    /// `balloon`: asks the guest to shrink or grow its memory to that many bytes.
    pub async fn balloon(self, bytes: u64) -> Answer<()> {
        self.tell("balloon", json!({"value": bytes})).await
    }

    /// `screendump`: writes a picture of the screen to a file.
    pub async fn screendump(self, picture: &Screendump<'_>) -> Answer<()> {
        let arguments = present([
            ("filename", json!(picture.file)),
            ("device", json!(picture.device)),
            ("head", json!(picture.head)),
            ("format", json!(picture.format)),
        ]);
        self.tell("screendump", arguments).await
    }

    /// `human-monitor-command`: a command of the monitor for people, and what it printed.
    pub async fn human_monitor_command(self, line: &str) -> Answer<String> {
        self.ask("human-monitor-command", json!({"command-line": line})).await
    }

    /// `getfd`: gives QEMU a descriptor under a name.
    pub async fn getfd(self, name: &str, descriptor: OwnedFd) -> Answer<()> {
        let arguments = json!({"fdname": name});
        let descriptors = vec![descriptor];
        let answer = self.monitor.execute_with_descriptors("getfd", arguments, descriptors, self.deadline);
        answer.await.map(drop)
    }

    /// `display-update`: has the VNC display listen on a socket that QEMU was given under this name.
    pub async fn display_listen(self, name: &str) -> Answer<()> {
        self.tell("display-update", json!({"type": "vnc", "addresses": [{"type": "fd", "str": name}]})).await
    }

    /// `add-fd`: gives QEMU a descriptor in a set, a new one unless `set` names it.
    pub async fn add_fd(
        self,
        set: Option<u32>,
        opaque: Option<&str>,
        descriptor: OwnedFd,
    ) -> Answer<DescriptorInSet> {
        let command = "add-fd";
        let arguments = present([("fdset-id", json!(set)), ("opaque", json!(opaque))]);
        let descriptors = vec![descriptor];
        let answer = self.monitor.execute_with_descriptors(command, arguments, descriptors, self.deadline);
        read(command, answer.await?)
    }

    /// `query-name`: the guest's name, if it was given one.
    pub async fn query_name(self) -> Answer<Option<String>> {
        let name: OptionallyNamed = self.ask("query-name", Value::Null).await?;
        Ok(name.name)
    }

    /// `query-uuid`: the guest's UUID.
    pub async fn query_uuid(self) -> Answer<String> {
        let uuid: Uuid = self.ask("query-uuid", Value::Null).await?;
        Ok(uuid.uuid)
    }

    /// `set_password`: the password of the display; `connected` is `keep`, `disconnect` or `fail`.
    pub async fn set_password(
        self,
        protocol: Protocol,
        password: &str,
        connected: Option<&str>,
    ) -> Answer<()> {
        let arguments = present([
            ("protocol", json!(protocol)),
            ("password", json!(password)),
            ("connected", json!(connected)),
        ]);
        self.tell("set_password", arguments).await
    }

    /// `expire_password`: until when it holds: `now`, `never`, `+seconds` or seconds since 1970.
    pub async fn expire_password(self, protocol: Protocol, time: &str) -> Answer<()> {
        let arguments = json!({"protocol": protocol, "time": time});
        self.tell("expire_password", arguments).await
    }

    /// `query-vnc`: the VNC server.
    pub async fn query_vnc(self) -> Answer<Vnc> {
        self.ask("query-vnc", Value::Null).await
    }

    /// `set-action`: what follows on reboot, shutdown, panic and watchdog; what is not given stays.
    pub async fn set_action(self, actions: &Actions<'_>) -> Answer<()> {
        let arguments = present([
            ("reboot", json!(actions.reboot)),
            ("shutdown", json!(actions.shutdown)),
            ("panic", json!(actions.panic)),
            ("watchdog", json!(actions.watchdog)),
        ]);
        self.tell("set-action", arguments).await
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct OptionallyNamed {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    arch: String,
}

#[derive(Deserialize)]
struct Balloon {
    actual: u64,
}

#[derive(Deserialize)]
struct Uuid {
    #[serde(rename = "UUID")]
    uuid: String,
}
