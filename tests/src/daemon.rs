//! The daemon in session mode, with a home of its own.

use crate::fixture::{libexec, wait_for};
use bulkhead::Connection;
use bulkhead::wire::control::Layout;
use std::path::Path;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Starts one; it ends with what this returns.
///
/// # Panics
/// When it can't be started.
#[must_use]
pub fn daemon(home: &Path) -> Child {
    let run = home.join("run");
    std::fs::create_dir_all(&run).expect("the runtime folder can be made");
    Command::new(libexec().join("bulkheadd"))
        .arg("--session")
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", run)
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon can be started")
}

/// Its folders, named without touching this process's own environment.
#[must_use]
pub fn layout(home: &Path) -> Layout {
    Layout::session(home, &home.join("run"))
}

/// Its owner's connection, over the control socket.
pub async fn reach(home: &Path) -> Connection {
    let layout = layout(home);
    wait_for("the daemon answers", Duration::from_secs(10), || async {
        Connection::attach_to(&layout).await.map_err(|error| error.to_string())
    })
    .await
}
