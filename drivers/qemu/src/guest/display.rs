//! Displays: where those that listen on a socket do so, and their passwords.
//!
//! QEMU may not make sockets with a name. The broker makes them, in the guest's own folder, and QEMU is given the listening
//! descriptor over its monitor before its CPUs run.

use super::{COMMAND_WITHIN, Guest};
use crate::monitor::Monitor;
use crate::monitor::commands::Protocol;
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_xml::Element;
use std::path::Path;
use std::sync::Arc;

/// The socket of a display whose XML names none.
const SOCKET: &str = "vnc.sock";
/// The name by which QEMU's monitor knows the descriptor.
const NAME: &str = "display";

/// Does it listen on a socket?
pub(super) fn is_on_socket(graphics: &Element) -> bool {
    graphics.attr("type") == Some("vnc") && graphics.path_attr("listen", "type") == Some("socket")
}

impl Guest {
    /// Writes into the live XML where a display's socket is. It lies in the guest's folder, or is refused.
    pub(super) fn place_displays(&self, live: &mut Element, folder: &Path) -> Result<(), Error> {
        for graphics in live.child_mut("devices").into_iter().flat_map(Element::elements_mut) {
            if graphics.name != "graphics" || !is_on_socket(graphics) {
                continue;
            }
            let given = graphics.path_attr("listen", "socket").map(Path::new);
            let path = given.map_or_else(|| folder.join(SOCKET), Path::to_owned);
            if path.parent() != Some(folder) || path.file_name().is_none() {
                let message = format!(
                    "Domain '{}': display: no socket is made at {}; its place is the guest's own folder, {}: leave its path out",
                    self.name,
                    path.display(),
                    folder.display()
                );
                return Err(Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message));
            }
            let path = path.display().to_string();
            graphics.set("socket", path.clone());
            if let Some(listen) = graphics.child_mut("listen") {
                listen.set("socket", path);
            }
        }
        Ok(())
    }

    /// Has the display listen that is to listen on a socket.
    pub(super) async fn open_displays(&self, monitor: &Monitor, live: &Element) -> Result<(), Error> {
        let displays = live.child("devices").into_iter().flat_map(|devices| devices.all("graphics"));
        for display in displays.filter(|display| is_on_socket(display)) {
            let path = display.path_attr("listen", "socket").map(Path::new);
            let name = path.and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or(SOCKET);
            let listens = self.environment.stack.listen_for_helper(&self.key(), name).await;
            let listens = listens.map_err(|error| self.named(&error))?;
            let refused = |error| self.monitor_error(&error);
            monitor.within(COMMAND_WITHIN).getfd(NAME, listens).await.map_err(refused)?;
            monitor.within(COMMAND_WITHIN).display_listen(NAME).await.map_err(refused)?;
        }
        Ok(())
    }

    /// Displays with a password let nobody in until it is set.
    pub(super) async fn set_display_password(&self, monitor: &Monitor) -> Result<(), Error> {
        let live = Arc::clone(&self.active()?.live);
        let displays = live.child("devices").into_iter().flat_map(|devices| devices.all("graphics"));
        for display in displays {
            let protocol = match display.attr("type") {
                Some("vnc") => Protocol::Vnc,
                Some("spice") => Protocol::Spice,
                _ => continue,
            };
            if let Some(password) = display.attr("passwd") {
                monitor
                    .within(COMMAND_WITHIN)
                    .set_password(protocol, password, None)
                    .await
                    .map_err(|error| self.monitor_error(&error))?;
            }
        }
        Ok(())
    }
}
