//! The order of everything.

use super::builder::{Builder, invalid, number_attr, switch, unsupported};
use super::json::Object;
use super::option::KeyValues;
use super::{CommandLine, DescriptorUse, Paths, Purpose, Rendering, alias};
use crate::capabilities::Capabilities;
use crate::device;
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;

/// More I/O threads than anybody has.
const MOST_IO_THREADS: u64 = 4096;
/// The namespace of `<qemu:commandline>`.
const NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// The command line of a complete definition (`<domain>` as an inactive dump prints it; missing aliases are derived).
///
/// # Errors
/// What the definition asks for and this QEMU, or we, can't do; text that no option may carry.
pub fn build(root: &Element, capabilities: &Capabilities, paths: &Paths) -> Result<CommandLine, Error> {
    let mut root = root.clone();
    if paths.rendering == Rendering::Native {
        reduce_interfaces(&mut root);
    }
    alias::assign(&mut root);
    let program = root
        .at("devices/emulator")
        .map(Element::text)
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| invalid("The definition has no <emulator> with an absolute path"))?;
    let mut builder = Builder::new(&root, capabilities, paths)?;
    machine(&mut builder)?;
    platform(&mut builder)?;
    devices(&mut builder)?;
    rest(&mut builder)?;
    let environment = environment(&builder);
    let native = !builder.launches();
    let (arguments, descriptors, secrets) = builder.finish();
    Ok(CommandLine {
        program,
        arguments,
        environment,
        descriptors: if native { Vec::new() } else { descriptors },
        secrets,
    })
}

/// Makes of every interface what `domainXMLToNative` makes of it: a tap of that model and MAC address. Its address
/// stays; a caller that wants what stock answers takes it away and has addresses assigned again.
pub fn reduce_interfaces(root: &mut Element) {
    let Some(devices) = root.child_mut("devices") else {
        return;
    };
    for interface in devices.elements_mut().filter(|device| device.name == "interface") {
        let mut reduced = Element::new("interface").with("type", "ethernet");
        for part in ["mac", "model", "address"] {
            if let Some(child) = interface.take(part) {
                reduced.push(child);
            }
        }
        *interface = reduced;
    }
}

/// Processor, memory and firmware.
fn machine(builder: &mut Builder<'_>) -> Result<(), Error> {
    let name = builder
        .root
        .child_text("name")
        .filter(|name| !name.is_empty())
        .ok_or_else(|| invalid("The definition has no <name>"))?;
    let mut list = KeyValues::empty();
    list.set("guest", name).switch("debug-threads", true);
    builder.option("-name", list)?;
    // Stopped, until disks are leased and networks plugged.
    builder.flag("-S");
    builder.master_key();
    builder.pflash()?;
    builder.machine_option()?;
    builder.accelerator()?;
    builder.tseg()?;
    builder.cpu()?;
    builder.firmware()?;
    builder.memory_option()?;
    builder.overcommit()?;
    builder.smp()?;
    io_threads(builder)?;
    throttle_groups(builder)?;
    builder.numa()
}

fn thread_pool(element: &Element, object: &mut Object) -> Result<(), Error> {
    for (attribute, property) in
        [("thread_pool_min", "thread-pool-min"), ("thread_pool_max", "thread-pool-max")]
    {
        object.set_some(property, number_attr(element, attribute)?);
    }
    if let Some(poll) = element.child("poll") {
        for (attribute, property) in
            [("max", "poll-max-ns"), ("grow", "poll-grow"), ("shrink", "poll-shrink")]
        {
            object.set_some(property, number_attr(poll, attribute)?);
        }
    }
    Ok(())
}

fn io_threads(builder: &mut Builder<'_>) -> Result<(), Error> {
    let root = builder.root;
    let thread = |id: u64| Object::new().with("qom-type", "iothread").with("id", format!("iothread{id}"));
    match root.child("iothreadids") {
        Some(ids) => {
            for one in ids.all("iothread") {
                let id = number_attr(one, "id")?.ok_or_else(|| invalid("<iothread> has no id"))?;
                let mut object = thread(id);
                thread_pool(one, &mut object)?;
                builder.object(&object);
            }
        }
        None => {
            if let Some(count) = root.child("iothreads") {
                let count = super::builder::number_text(count)?;
                if count > MOST_IO_THREADS {
                    return Err(invalid(format!("{count} I/O threads are too many")));
                }
                for id in 1..=count {
                    builder.object(&thread(id));
                }
            }
        }
    }
    if let Some(default) = root.child("defaultiothread") {
        let mut object = Object::new().with("qom-type", "main-loop").with("id", "main-loop");
        thread_pool(default, &mut object)?;
        builder.object(&object);
    }
    Ok(())
}

/// Limits that several disks share.
fn throttle_groups(builder: &mut Builder<'_>) -> Result<(), Error> {
    let groups: Vec<&Element> = builder
        .root
        .child("throttlegroups")
        .into_iter()
        .flat_map(|groups| groups.all("throttlegroup"))
        .collect();
    for group in groups {
        let name =
            group.child_text("group_name").ok_or_else(|| invalid("<throttlegroup> has no <group_name>"))?;
        let limit = |element: &str| group.child(element).map(super::builder::number_text).transpose();
        let mut limits = Object::new();
        for (element, property) in [("bytes", "bps"), ("iops", "iops")] {
            for part in ["total", "read", "write"] {
                let value = limit(&format!("{part}_{element}_sec"))?.unwrap_or(0);
                limits.set(&format!("{property}-{part}"), value);
            }
        }
        for (element, property) in [("bytes", "bps"), ("iops", "iops")] {
            for part in ["total", "read", "write"] {
                let value = limit(&format!("{part}_{element}_sec_max"))?.unwrap_or(0);
                limits.set(&format!("{property}-{part}-max"), value);
            }
        }
        limits.set("iops-size", limit("size_iops_sec")?.unwrap_or(0));
        for (element, property) in [("bytes", "bps"), ("iops", "iops")] {
            for part in ["total", "read", "write"] {
                let value = limit(&format!("{part}_{element}_sec_max_length"))?;
                limits.set_some(&format!("{property}-{part}-max-length"), value);
            }
        }
        let object = Object::new()
            .with("qom-type", "throttle-group")
            .with("id", format!("throttle-{name}"))
            .with("limits", limits);
        builder.object(&object);
    }
    Ok(())
}

/// Identity, monitor, clock, boot.
fn platform(builder: &mut Builder<'_>) -> Result<(), Error> {
    let root = builder.root;
    let uuid = root.child_text("uuid").ok_or_else(|| invalid("The definition has no <uuid>"))?;
    let uuid = root.child_text("hwuuid").unwrap_or(uuid);
    builder.option("-uuid", KeyValues::new(&uuid))?;
    builder.smbios()?;
    builder.firmware_configuration()?;
    if device::graphics::args::is_headless(builder) {
        builder.option("-display", KeyValues::new("none"))?;
    }
    if let Some(id) = root.child("genid") {
        let object = Object::new().with("driver", "vmgenid").with("guid", id.text()).with("id", "vmgenid0");
        builder.device(&object);
    }
    builder.flag("-no-user-config");
    builder.flag("-nodefaults");
    monitor(builder)?;
    builder.clock()?;
    // QEMU stays after the guest's end, so that its last state can be read.
    builder.flag("-no-shutdown");
    builder.root_hotplug()?;
    builder.power_management()?;
    builder.boot_options()
}

fn monitor(builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut list = KeyValues::new("socket");
    list.set("id", "charmonitor");
    if builder.launches() {
        let number = builder.descriptor(Purpose::Monitor);
        list.set("fd", number);
    } else {
        list.set("path", format!("{}/monitor.sock", builder.paths.guest));
    }
    list.switch("server", true).switch("wait", false);
    builder.option("-chardev", list)?;
    let list =
        KeyValues::empty().with("chardev", "charmonitor").with("id", "monitor").with("mode", "control");
    builder.option("-mon", list)
}

fn each(
    builder: &mut Builder<'_>,
    name: &'static str,
    part: impl Fn(&mut Builder<'_>, &Element) -> Result<(), Error>,
) -> Result<(), Error> {
    let found: Vec<&Element> = builder.devices(name).collect();
    found.into_iter().try_for_each(|element| part(builder, element))
}

fn devices(builder: &mut Builder<'_>) -> Result<(), Error> {
    each(builder, "iommu", device::iommu::args::build)?;
    device::controller::args::globals(builder)?;
    device::controller::args::build(builder)?;
    each(builder, "memory", device::memory::args::build)?;
    each(builder, "hub", device::hub::args::build)?;
    reservations(builder);
    device::disk::args::floppy_controller(builder)?;
    each(builder, "disk", device::disk::args::build)?;
    each(builder, "filesystem", device::filesystem::args::build)?;
    each(builder, "interface", device::interface::args::build)?;
    each(builder, "smartcard", device::smartcard::args::build)?;
    each(builder, "serial", device::character::args::serial)?;
    each(builder, "parallel", device::character::args::parallel)?;
    each(builder, "channel", device::character::args::channel)?;
    each(builder, "console", device::character::args::console)?;
    each(builder, "tpm", device::tpm::args::build)?;
    each(builder, "input", device::input::args::build)?;
    each(builder, "audio", device::audio::args::build)?;
    each(builder, "graphics", device::graphics::args::build)?;
    each(builder, "video", device::video::args::build)?;
    each(builder, "sound", device::sound::args::build)?;
    device::watchdog::args::build(builder)?;
    each(builder, "redirdev", device::redirdev::args::build)?;
    each(builder, "hostdev", device::hostdev::args::build)?;
    if builder.paths.incoming {
        builder.option("-incoming", "defer")?;
    }
    each(builder, "memballoon", device::memballoon::args::build)?;
    each(builder, "rng", device::rng::args::build)?;
    each(builder, "nvram", device::nvram::args::build)
}

/// What one device of a guest is to QEMU, on its own: as it is added to a guest that runs. Its tree has all aliases.
///
/// # Errors
/// What QEMU takes at its start alone, or not at all.
pub(crate) fn of_device(
    root: &Element,
    device: &Element,
    capabilities: &Capabilities,
    paths: &Paths,
) -> Result<(Vec<String>, Vec<DescriptorUse>), Error> {
    let mut builder = Builder::new(root, capabilities, paths)?;
    match device.name.as_str() {
        "disk" => device::disk::args::build(&mut builder, device)?,
        "controller" => device::controller::args::one(&mut builder, device)?,
        "interface" => device::interface::args::build(&mut builder, device)?,
        "serial" => device::character::args::serial(&mut builder, device)?,
        "parallel" => device::character::args::parallel(&mut builder, device)?,
        "channel" => device::character::args::channel(&mut builder, device)?,
        "console" => device::character::args::console(&mut builder, device)?,
        "input" => device::input::args::build(&mut builder, device)?,
        "watchdog" => device::watchdog::args::one(&mut builder, device)?,
        "memory" => device::memory::args::build(&mut builder, device)?,
        "rng" => device::rng::args::build(&mut builder, device)?,
        "redirdev" => device::redirdev::args::build(&mut builder, device)?,
        other => return Err(unsupported(format!("A <{other}> can't be added to a guest that runs"))),
    }
    let (arguments, descriptors, secrets) = builder.finish();
    if !secrets.is_empty() {
        return Err(unsupported("A device that needs a secret's value can't be added to a guest that runs"));
    }
    Ok((arguments, descriptors))
}

/// The helper that keeps SCSI reservations, where the guest has one of its own.
fn reservations(builder: &mut Builder<'_>) {
    let managed = builder.devices("disk").any(|disk| {
        disk.at("source/reservations")
            .is_some_and(|reservations| switch(reservations, "managed") == Some(true))
    });
    if managed {
        let helper = Object::new()
            .with("qom-type", "pr-manager-helper")
            .with("id", "pr-helper0")
            .with("path", format!("{}/pr-helper0.sock", builder.paths.guest));
        builder.object(&helper);
    }
}

/// What comes after the devices, and devices that come late.
fn rest(builder: &mut Builder<'_>) -> Result<(), Error> {
    let root = builder.root;
    if root.at("features/vmcoreinfo").is_some_and(|feature| switch(feature, "state") == Some(true)) {
        builder.device(&Object::new().with("driver", "vmcoreinfo"));
    }
    for part in root.elements().filter(|part| is_passthrough(part, "commandline")) {
        for argument in part.elements().filter(|argument| is_passthrough(argument, "arg")) {
            builder.verbatim(argument.attr("value").unwrap_or_default().to_owned());
        }
    }
    let list = KeyValues::new("on")
        .with("obsolete", "deny")
        .with("elevateprivileges", "deny")
        .with("spawn", "deny")
        .with("resourcecontrol", "deny");
    builder.option("-sandbox", list)?;
    each(builder, "panic", device::panic::args::build)?;
    each(builder, "shmem", device::shmem::args::build)?;
    each(builder, "vsock", device::vsock::args::build)?;
    each(builder, "crypto", device::crypto::args::build)?;
    each(builder, "pstore", device::pstore::args::build)?;
    if let Some(on) = root.at("features/async-teardown").and_then(|feature| switch(feature, "enabled")) {
        if builder.capabilities.at_least(8, 1) {
            let mut list = KeyValues::empty();
            list.switch("async-teardown", on);
            builder.option("-run-with", list)?;
        } else if on {
            builder.flag("-async-teardown");
        }
    }
    let mut list = KeyValues::empty();
    list.switch("timestamp", true);
    builder.option("-msg", list)
}

fn is_passthrough(element: &Element, name: &str) -> bool {
    element.namespace.as_deref() == Some(NAMESPACE)
        && element.name.rsplit(':').next().is_some_and(|local| local == name)
}

fn environment(builder: &Builder<'_>) -> Vec<(String, String)> {
    let home = builder.paths.guest.as_str();
    let mut variables: Vec<(String, String)> = [
        ("LC_ALL", "C".to_owned()),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME", home.to_owned()),
        ("XDG_DATA_HOME", format!("{home}/.local/share")),
        ("XDG_CACHE_HOME", format!("{home}/.cache")),
        ("XDG_CONFIG_HOME", format!("{home}/.config")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let clock = builder.root.child("clock");
    if let Some(zone) = clock.and_then(|clock| clock.attr("timezone")) {
        variables.push(("TZ".to_owned(), zone.to_owned()));
    }
    variables.extend(device::audio::args::environment(builder));
    for graphics in builder.devices("graphics").filter(|one| one.attr("type") == Some("sdl")) {
        for (attribute, name) in [("xauth", "XAUTHORITY"), ("display", "DISPLAY")] {
            if let Some(value) = graphics.attr(attribute) {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    for part in builder.root.elements().filter(|part| is_passthrough(part, "commandline")) {
        for variable in part.elements().filter(|variable| is_passthrough(variable, "env")) {
            if let Some(name) = variable.attr("name") {
                variables.push((name.to_owned(), variable.attr("value").unwrap_or_default().to_owned()));
            }
        }
    }
    variables
}
