//! What is handed out as an open file: a console, a channel, a display, a picture of a screen.

use super::start::terminal_of;
use super::{COMMAND_WITHIN, Guest};
use crate::monitor::commands::Screendump;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Stream;
use bulkhead_xml::Element;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The name by which QEMU's monitor knows a display's new client.
const CLIENT: &str = "client";
/// Let it in without a password (`VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH`).
const GRAPHICS_SKIP_AUTH: u32 = 1;

impl Guest {
    /// Opens a console: the terminal itself, so that what flows through it does not pass through this driver.
    pub(crate) async fn open_console(&mut self, alias: Option<String>) -> Result<Descriptor, Error> {
        let running = self.active()?;
        let found = terminal_of(&running.live, alias.as_deref());
        let (alias, path) = found.ok_or_else(|| {
            let what = alias.as_deref().unwrap_or("any console");
            let message = format!("Domain '{}': cannot find character device {what}", self.name);
            Error::new(Code::INTERNAL, Origin::QEMU, message)
        })?;
        let path = path.ok_or_else(|| {
            let message = format!("Domain '{}': character device {alias} is not using a PTY", self.name);
            Error::new(Code::INTERNAL, Origin::QEMU, message)
        })?;
        // The broker knows the terminal by the name that QEMU has for it.
        let path = path.split_once("/root").map_or(path, |(_, path)| path);
        let file = self.environment.stack.open_terminal(&self.key(), Path::new(path)).await?;
        Ok(Descriptor::new(file))
    }

    /// Opens a channel: a connection to the socket that QEMU serves it on.
    pub(crate) async fn open_channel(&mut self, wanted: Option<String>) -> Result<Descriptor, Error> {
        let running = self.active()?;
        let internal = |what: String| {
            Error::new(Code::INTERNAL, Origin::QEMU, format!("Domain '{}': {what}", self.name))
        };
        let mut channels =
            running.live.child("devices").into_iter().flat_map(|devices| devices.all("channel"));
        let is_wanted = |channel: &&Element| {
            let names = [channel.path_attr("target", "name"), channel.path_attr("alias", "name")];
            wanted.as_deref().is_none_or(|wanted| names.contains(&Some(wanted)))
        };
        let channel = channels
            .find(is_wanted)
            .ok_or_else(|| internal(format!("cannot find channel {}", wanted.as_deref().unwrap_or("any"))))?;
        let alias = channel.path_attr("alias", "name").unwrap_or_default();
        if channel.attr("type") != Some("unix") {
            return Err(internal(format!("channel {alias} is not using a UNIX socket")));
        }
        let socket = format!("{alias}.sock");
        let connected = self.environment.stack.connect_helper(&self.key(), &socket).await;
        connected.map(Descriptor::new).map_err(|error| self.named(&error))
    }

    /// Lets a client of a display in, over this socket.
    pub(crate) async fn open_graphics(
        &mut self,
        display: u32,
        flags: u32,
        socket: OwnedFd,
    ) -> Result<(), Error> {
        let monitor = self.attached().await?;
        let displays = self.active()?.live.child("devices").into_iter();
        let mut displays = displays.flat_map(|devices| devices.all("graphics"));
        let graphics = usize::try_from(display).ok().and_then(|display| displays.nth(display));
        let graphics = graphics.ok_or_else(|| {
            let message = format!("Domain '{}': No graphics backend with index {display}", self.name);
            Error::new(Code::INTERNAL, Origin::QEMU, message)
        })?;
        let protocol = match graphics.attr("type") {
            Some("vnc") => "vnc",
            Some("spice") => "spice",
            other => {
                let message = format!(
                    "Domain '{}': invalid argument: Can only open VNC or SPICE graphics backends, not {}",
                    self.name,
                    other.unwrap_or("none")
                );
                return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
            }
        };
        let refused = |error| self.monitor_error(&error);
        monitor.within(COMMAND_WITHIN).getfd(CLIENT, socket).await.map_err(refused)?;
        let arguments = serde_json::json!({
            "protocol": protocol, "fdname": CLIENT, "skipauth": flags & GRAPHICS_SKIP_AUTH != 0,
        });
        let added = monitor.execute("add_client", arguments, COMMAND_WITHIN).await;
        if added.is_err() {
            // QEMU keeps what it was given until it takes it.
            let arguments = serde_json::json!({ "fdname": CLIENT });
            let _ = monitor.execute("closefd", arguments, COMMAND_WITHIN).await;
        }
        added.map(drop).map_err(refused)
    }

    /// Lets a client of a display in, over a socket that is made for it.
    pub(crate) async fn open_graphics_fd(&mut self, display: u32, flags: u32) -> Result<Descriptor, Error> {
        let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) =
            pair.map_err(|errno| Error::system(Origin::QEMU, "A pair of sockets", &errno.into()))?;
        self.open_graphics(display, flags, theirs).await?;
        Ok(Descriptor::new(ours))
    }

    /// Takes a picture of a screen, as a file in memory.
    pub(crate) async fn screenshot(&mut self, screen: u32) -> Result<Stream, Error> {
        let monitor = self.attached().await?;
        let running = self.active()?;
        let videos: Vec<_> = running
            .live
            .child("devices")
            .into_iter()
            .flat_map(|devices| devices.all("video"))
            .filter(|video| video.path_attr("model", "type") != Some("none"))
            .collect();
        let video = usize::try_from(screen).ok().and_then(|screen| videos.get(screen));
        let device = match video {
            Some(video) => video.path_attr("alias", "name"),
            None => {
                let message =
                    format!("Domain '{}': there is no screen {screen}; it has {}", self.name, videos.len());
                return Err(Error::new(Code::INVALID_ARG, Origin::QEMU, message));
            }
        };
        let system = |error: std::io::Error| {
            Error::system(Origin::QEMU, format!("Domain '{}': screenshot", self.name), &error)
        };
        // QEMU wants a descriptor that can be written and nothing else, the client one that can be read: one file, opened
        // twice, without a name from then on.
        let path = self
            .environment
            .layout
            .run
            .join("qemu")
            .join(format!("picture-{}", self.environment.next_number()));
        let (theirs, mut file) = self
            .environment
            .on_disk("Screenshot", move || {
                let theirs = OpenOptions::new().write(true).create_new(true).open(&path)?;
                let ours = File::open(&path);
                std::fs::remove_file(&path)?;
                Ok((OwnedFd::from(theirs), ours?))
            })
            .await?;
        let added = monitor
            .within(COMMAND_WITHIN)
            .add_fd(None, Some("screenshot"), theirs)
            .await
            .map_err(|error| self.monitor_error(&error))?;
        let set = added.fdset_id;
        let taken = monitor
            .within(COMMAND_WITHIN)
            .screendump(&Screendump {
                file: &format!("/dev/fdset/{set}"),
                device,
                head: None,
                format: Some("png"),
            })
            .await;
        let removed =
            monitor.execute("remove-fd", serde_json::json!({ "fdset-id": set }), COMMAND_WITHIN).await;
        taken.map_err(|error| self.monitor_error(&error))?;
        removed.map_err(|error| self.monitor_error(&error))?;
        file.seek(SeekFrom::Start(0)).map_err(system)?;
        Ok(Stream { mime: Some("image/png".to_owned()), file: Descriptor::new(file.into()) })
    }
}
