//! What each decoder accepts: the golden bytes of `wire/`, frames that a real stack exchanged (`fuzz/seeds/frames.txt`, written
//! by `tests/tests/frames.rs`), and texts.

use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::table::{CallInfo, EachCall, REVISION, each_call};
use bulkhead_wire::{codec, remote, xdr as xdr_codec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;

const CALLS: &str = include_str!("../../../wire/golden/calls.txt");
const MESSAGES: &str = include_str!("../../../wire/golden/messages.txt");
const FRAMES: &str = include_str!("../../../fuzz/seeds/frames.txt");

/// Bytes of a hexadecimal text.
#[must_use]
pub fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).unwrap_or_default();
        u8::from_str_radix(text, 16).unwrap_or_default()
    };
    hex.as_bytes().chunks(2).map(digit).collect()
}

/// The bytes at the end of a golden line, and how many descriptors belong to them.
fn golden(line: &str) -> (u8, Vec<u8>) {
    let (line, count) = match line.split_once(" + ") {
        Some((line, count)) => {
            (line, count.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0))
        }
        None => (line, 0),
    };
    let hex = line.rsplit_once(' ').map_or("", |(_, hex)| hex);
    (count, bytes_of(hex))
}

/// Arguments and replies of all calls, in the order of the tables.
fn bodies() -> impl Iterator<Item = (u8, Vec<u8>)> {
    CALLS.lines().map(golden)
}

/// A frame's bytes.
fn frame(header: Header, body: &[u8]) -> Vec<u8> {
    let body_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = Header { body_bytes, ..header }.to_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// Frames of that kind, `call` or `reply`, that a real stack exchanged, one after the other and each alone.
fn recorded(kind: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        FRAMES.lines().filter_map(|line| line.strip_prefix(kind)).map(|hex| bytes_of(hex.trim())).collect();
    all.push(all.concat());
    all
}

/// Headers.
#[must_use]
pub fn headers() -> Vec<Vec<u8>> {
    let kinds =
        [Kind::Hello, Kind::Call, Kind::Reply, Kind::Failure, Kind::Cancel, Kind::Event, Kind::Control];
    kinds.into_iter().map(|kind| frame(Header { id: REVISION, ..Header::new(kind) }, &[])).collect()
}

/// Messages beside calls.
#[must_use]
pub fn messages() -> Vec<Vec<u8>> {
    let kinds = ["to_driver", "from_driver", "event", "error", "request", "response"];
    let message = |line: &str| {
        let which = kinds.iter().position(|kind| line.split(' ').next() == Some(*kind))?;
        let (count, bytes) = golden(line);
        Some([vec![count, u8::try_from(which).ok()?], bytes].concat())
    };
    MESSAGES.lines().filter_map(message).collect()
}

fn numbered(bodies: impl Iterator<Item = (u8, Vec<u8>)>) -> Vec<Vec<u8>> {
    let number = |(index, (count, body)): (usize, (u8, Vec<u8>))| {
        [vec![count, u8::try_from(index).unwrap_or(u8::MAX)], body].concat()
    };
    bodies.enumerate().map(number).collect()
}

/// Arguments and replies.
#[must_use]
pub fn calls() -> Vec<Vec<u8>> {
    numbered(bodies())
}

/// Turns the golden bodies into libvirt's encoding.
struct Turn {
    bodies: Vec<(u8, Vec<u8>)>,
    turned: Vec<(u8, Vec<u8>)>,
    procedures: Vec<Vec<u8>>,
}

impl Turn {
    fn one<T: Serialize + DeserializeOwned>(&mut self) -> Option<Vec<u8>> {
        let (count, body) = self.bodies.get(self.turned.len())?.clone();
        let files = (0..count).filter_map(|_| std::fs::File::open("/dev/null").ok().map(OwnedFd::from));
        let message = codec::decode::<T>(&body, files.collect());
        let turned = message.ok().and_then(|message| xdr_codec::encode(&message).ok());
        let turned = turned.map(|(bytes, _)| bytes).unwrap_or_default();
        self.turned.push((count, turned.clone()));
        Some(turned)
    }
}

impl EachCall for Turn {
    fn call<A, R>(&mut self, info: &'static CallInfo)
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let (arguments, _) = (self.one::<A>(), self.one::<R>());
        if let (Some(arguments), Some(number)) =
            (arguments, info.remote.and_then(|number| u16::try_from(number).ok()))
        {
            self.procedures.push([&number.to_be_bytes()[..], &[0], &arguments].concat());
        }
    }
}

fn turned() -> Turn {
    let mut turn = Turn { bodies: bodies().collect(), turned: Vec::new(), procedures: Vec::new() };
    each_call(&mut turn);
    turn
}

/// Arguments and replies in libvirt's encoding.
#[must_use]
pub fn xdr() -> Vec<Vec<u8>> {
    numbered(turned().turned.into_iter())
}

/// What libvirt's clients send.
#[must_use]
pub fn translate() -> Vec<Vec<u8>> {
    turned().procedures
}

/// Frames as a caller sends them.
#[must_use]
pub fn frames() -> Vec<Vec<u8>> {
    let mut all = recorded("call");
    let mut add = AllFrames(&mut all, bodies().collect(), 0);
    each_call(&mut add);
    all
}

/// Adds a frame for each call of the qemu driver.
struct AllFrames<'a>(&'a mut Vec<Vec<u8>>, Vec<(u8, Vec<u8>)>, usize);

impl EachCall for AllFrames<'_> {
    fn call<A, R>(&mut self, info: &'static CallInfo)
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let index = self.2;
        self.2 += 2;
        if let Some((0, body)) = self.1.get(index) {
            let id = u64::try_from(index).unwrap_or(0);
            self.0.push(frame(Header { operation: info.operation, id, ..Header::new(Kind::Call) }, body));
        }
    }
}

/// Frames as a server sends them; the call under way has number 1.
#[must_use]
pub fn answers() -> Vec<Vec<u8>> {
    let mut all = recorded("reply");
    let name = codec::encode(&"host").map(|(body, _)| body).unwrap_or_default();
    all.push(frame(Header { id: 1, ..Header::new(Kind::Reply) }, &name));
    all.push(frame(Header { id: 1, ..Header::new(Kind::Failure) }, &name));
    all.push(frame(Header::new(Kind::Event), &name));
    all
}

/// Frames of libvirt's own protocol.
#[must_use]
pub fn remote() -> Vec<Vec<u8>> {
    let header = remote::Header {
        program: remote::program::REMOTE,
        version: 1,
        procedure: 66,
        kind: Some(remote::Kind::Call),
        serial: 1,
        status: 0,
    };
    let with_files = remote::Header { kind: Some(remote::Kind::CallWithFiles), ..header };
    let frames = [remote::frame(header, &[0; 8]), remote::frame(with_files, &[0; 12])];
    let mut all: Vec<Vec<u8>> = frames.into_iter().flatten().collect();
    all.push(all.concat());
    all
}

/// XML of domains.
#[must_use]
pub fn xml() -> Vec<Vec<u8>> {
    let texts = [
        "<domain type='qemu'><name>a</name><memory unit='MiB'>16</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>",
        "<domain type='qemu'><name>b&amp;c</name><uuid>5fb7f3e9-3f49-4a9b-8f5b-0d6c3c1c8a11</uuid>\
         <title>t</title><description><![CDATA[<d>]]></description><metadata><x:y xmlns:x='u'> z </x:y></metadata>\
         <memory>131072</memory><currentMemory unit='KiB'>65536</currentMemory><vcpu current='1'>2</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/></features>\
         <cpu mode='custom' match='exact'><model>qemu64</model><topology sockets='1' cores='2' threads='1'/></cpu>\
         <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock><on_crash>destroy</on_crash>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/d'/>\
         <target dev='vda' bus='virtio'/></disk><interface type='user'><mac address='52:54:00:00:00:01'/>\
         <model type='virtio'/></interface><serial type='pty'/><console type='pty'/>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <graphics type='vnc' port='-1'/><video><model type='vga'/></video><input type='tablet' bus='usb'/>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>\
         <watchdog model='itco' action='reset'/></devices></domain>",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The file of a QEMU's capabilities.
#[must_use]
pub fn capabilities() -> Vec<Vec<u8>> {
    let text = r#"{"version":{"major":10,"minor":0,"micro":2},"target":"x86_64","kvm":true,"machines":[{"name":"pc",
        "alias":null,"default":true,"cpu_max":255,"hotpluggable_cpus":true,"numa":true,"deprecated":false,
        "default_cpu":null,"default_ram_id":"pc.ram","acpi":true}],"types":["qxl"],"properties":{"qxl":["ram"]},
        "options":{"chardev":["id"]},"cpus":[{"name":"max","type_name":"max-x86_64-cpu","unavailable":[],
        "deprecated":false}],"cpu_features":["sse"],"vendor":"AMD","host_model":{"name":"EPYC","vendor":"AMD","features":[["svm",true]]}}"#;
    vec![text.as_bytes().to_vec()]
}

/// What QEMU says on its monitor.
#[must_use]
pub fn monitor() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#,
        r#"{"return": {}, "id": "bulkhead-1"}"#,
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}"#,
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#,
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "BLOCK_IO_ERROR", "data": {"device": "d", "operation": "read", "action": "stop"}}"#,
        r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 7}"#,
    ];
    let greeting = format!("{}\r\n", lines[0]).into_bytes();
    lines.iter().map(|line| [&greeting[..], line.as_bytes(), b"\r\n"].concat()).collect()
}
