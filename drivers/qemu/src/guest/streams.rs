//! What is handed out as an open file: a console, a picture of a screen.

use super::start::terminal_of;
use super::{COMMAND_WITHIN, Guest};
use crate::monitor::commands::Screendump;
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::types::Stream;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

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
