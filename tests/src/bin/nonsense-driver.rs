//! A driver that is welcomed as every driver is and then says what no driver says. Started by a broker under the name of a
//! real one; what it says is in the file `nonsense` beside it: WHERE WHAT, where WHERE is `control` (its link to the broker) or
//! `channel` (the channels that it serves).

use bulkhead_wire::codec;
use bulkhead_wire::control::{FromDriver, Side, ToDriver};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::link::{self, LinkReader, LinkWriter};
use bulkhead_wire::table::REVISION;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Says one thing that is wrong on an open link; `raw` is the same socket.
async fn say(what: &str, writer: &mut LinkWriter, raw: &OwnedFd, kind: Kind, id: u64) -> Result<(), Failed> {
    let header = Header { id, ..Header::new(kind) };
    let files = |count: usize| (0..count).map(|_| raw.try_clone()).collect::<Result<Vec<_>, _>>();
    match what {
        "garbage" => UnixStream::from(raw.try_clone()?).write_all(&[0xa5; 4096])?,
        "oversized" => {
            let mut bytes = header.to_bytes();
            bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
            UnixStream::from(raw.try_clone()?).write_all(&bytes)?;
        }
        "body" => writer.write(header, &[0xff; 100], &[]).await?,
        "kind" => writer.write(Header::new(Kind::Cancel), &[], &[]).await?,
        "id" => writer.write(Header { id: u64::MAX, ..header }, &[], &[]).await?,
        // The message itself is right.
        "descriptors" if kind == Kind::Control => {
            let beat = FromDriver::Beat { number: 0, busy: Vec::new() };
            writer.write(header, &codec::encode(&beat)?.0, &files(64)?).await?;
        }
        "descriptors" => {
            let error = codec::encode(&Error::new(Code::INTERNAL, Origin::RPC, "No"))?.0;
            writer.write(Header { kind: Kind::Failure, ..header }, &error, &files(64)?).await?;
        }
        what => return Err(format!("unknown nonsense {what}").into()),
    }
    Ok(())
}

/// A channel that is served badly.
async fn serve(what: String, socket: OwnedFd) -> Result<(), Failed> {
    let raw = socket.try_clone()?;
    if what == "revision" {
        link::open(socket, REVISION ^ 1).await?;
        return Ok(());
    }
    let (mut reader, mut writer) = link::open(socket, REVISION).await?;
    loop {
        let call = reader.read().await?;
        say(&what, &mut writer, &raw, Kind::Reply, call.header.id).await?;
    }
}

async fn hear(reader: &mut LinkReader) -> Result<ToDriver, Failed> {
    let frame = reader.read().await?;
    Ok(codec::decode(&frame.body, frame.descriptors)?)
}

async fn tell(writer: &mut LinkWriter, message: FromDriver) -> Result<(), Failed> {
    let (body, files) = codec::encode(&message)?;
    Ok(writer.write(Header::new(Kind::Control), &body, &files).await?)
}

async fn run(place: &str, what: &str, socket: OwnedFd) -> Result<(), Failed> {
    let raw = socket.as_fd().try_clone_to_owned()?;
    if (place, what) == ("control", "revision") {
        link::open(socket, REVISION ^ 1).await?;
        return std::future::pending().await;
    }
    let (mut reader, mut writer) = link::open(socket, REVISION).await?;
    tell(&mut writer, FromDriver::Confined { in_force: Vec::new(), missing: Vec::new() }).await?;
    let ToDriver::Welcome(_) = hear(&mut reader).await? else { return Err("no welcome".into()) };
    tell(&mut writer, FromDriver::Ready).await?;
    if place == "control" {
        say(what, &mut writer, &raw, Kind::Control, 0).await?;
    }
    loop {
        match hear(&mut reader).await? {
            ToDriver::Heartbeat { number } => {
                tell(&mut writer, FromDriver::Beat { number, busy: Vec::new() }).await?;
            }
            ToDriver::ChannelUp { side: Side::Serve, socket, .. } => {
                let socket = Descriptor::into_owned(socket).ok_or("no socket")?;
                let what = what.to_owned();
                tokio::spawn(async move {
                    let _ = serve(what, socket).await;
                });
            }
            ToDriver::Stop => return Ok(()),
            _ => {}
        }
    }
}

fn main() -> Result<(), Failed> {
    let [socket, _profile] = bulkhead_sandbox::inherited([3, 4]);
    let own = std::env::args_os().next().ok_or("no name")?;
    let what = std::fs::read_to_string(Path::new(&own).with_file_name("nonsense"))?;
    let (place, what) = what.trim().split_once(' ').ok_or("WHERE WHAT")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(place, what, socket))
}
