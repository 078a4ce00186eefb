//! The sockets that libvirt's clients know. What comes over them is the gateway's to read; here only the kernel's word about
//! who connected is taken.

use crate::OpenError;
use crate::root::{Mode, short_socket_path};
use bulkhead_wire::control::Identity;
use interprocess::local_socket::{GenericFilePath, Listener, ListenerOptions, prelude::*};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use nix::sys::socket::{UnixAddr, getsockname, getsockopt, sockopt::AcceptConn};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Where libvirt's clients find a stack, and who may come. A service manager that listens already decides both instead.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// The folder; the sockets in it have the names that [`PUBLIC`] lists, and those of a stock host's single drivers lead to them.
    pub folder: PathBuf,
    /// The group that may change things, beside this user and root; everybody may look then.
    pub group: Option<u32>,
}

/// The daemons of a stock host that is split by drivers: clients look for sockets of these names first.
const MODULAR: [&str; 4] = ["virtqemud", "virtnetworkd", "virtsecretd", "virtstoraged"];
/// Connections that wait for the stack's task; who comes later waits in the kernel's queue.
const CONNECTED: usize = 16;
/// Pause after an accept that failed for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// A client's connection: who it is, and the socket.
pub(crate) type Connected = (Identity, OwnedFd);

/// The sockets' names, as files and with a service manager, and whether who comes over them may only look.
const PUBLIC: [(&str, bool); 3] =
    [("libvirt-sock", false), ("libvirt-sock-ro", true), ("libvirt-admin-sock", false)];

/// The sockets, each with whether who comes over it may only look: those among `given` if there are any, since whoever has them
/// made says by that which there are to be; otherwise they are made.
pub(crate) fn bind(
    sockets: &Sockets,
    mode: Mode,
    mut given: Option<&mut Vec<(String, OwnedFd)>>,
) -> Result<Vec<(UnixListener, bool)>, OpenError> {
    let failed = |name| move |source| OpenError::Control { path: sockets.folder.join(name), source };
    let mut listeners = Vec::new();
    for (name, read_only) in PUBLIC {
        let given = given.iter_mut().flat_map(|given| given.extract_if(.., |(given, _)| given == name));
        for (_, socket) in given {
            listeners.push((inherit(socket).map_err(failed(name))?, read_only));
        }
    }
    if !listeners.is_empty() {
        return Ok(listeners);
    }
    for (name, read_only) in PUBLIC {
        let group = sockets.group.filter(|_| name == "libvirt-sock");
        let open_to = match (mode, name) {
            (Mode::System, "libvirt-sock-ro") => 0o666,
            (Mode::System, _) if group.is_some() => 0o660,
            _ => 0o600,
        };
        listeners.push((listen(&sockets.folder, name, open_to, group).map_err(failed(name))?, read_only));
        for daemon in MODULAR {
            // What is there already is this, or somebody else's.
            let _ = symlink(name, sockets.folder.join(name.replacen("libvirt", daemon, 1)));
        }
    }
    Ok(listeners)
}

/// A socket on which somebody else listened for this process.
fn inherit(socket: OwnedFd) -> io::Result<UnixListener> {
    if getsockname::<UnixAddr>(socket.as_raw_fd()).is_err() || !getsockopt(&socket, AcceptConn)? {
        return Err(io::Error::other("what was handed over under its name is no unix socket that listens"));
    }
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn listen(folder: &Path, name: &str, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let (path, _handle) = short_socket_path(folder, name)?;
    match std::os::unix::net::UnixStream::connect(&path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there")),
        // Nobody's any more.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(&path)?,
        Err(_) => {}
    }
    // Narrow at first: whom it is opened to is decided before anybody can come.
    let address = path.as_path().to_fs_name::<GenericFilePath>()?;
    let listener = ListenerOptions::new().name(address).mode(0o600).reclaim_name(false).create_sync()?;
    chown(&path, None, group)?;
    fs::set_permissions(&path, Permissions::from_mode(mode))?;
    let Listener::UdSocket(listener) = listener;
    inherit(listener.into())
}

/// Who is at the other end of a connection.
pub(crate) fn identity(stream: &UnixStream, read_only: bool) -> io::Result<Identity> {
    let peer = stream.peer_cred()?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    Ok(Identity { uid: peer.uid(), gid: peer.gid(), pid, read_only })
}

/// Accepts for as long as the stack takes what comes.
pub(crate) fn accept(listeners: Vec<(UnixListener, bool)>) -> mpsc::Receiver<Connected> {
    let (connections, connected) = mpsc::channel(CONNECTED);
    for (listener, read_only) in listeners {
        let connections = connections.clone();
        tokio::spawn(async move {
            while !connections.is_closed() {
                let connection = tokio::select! {
                    // Dropped half-way, it has accepted nobody.
                    accepted = listener.accept() => accepted.and_then(|(stream, _)| {
                        Ok((identity(&stream, read_only)?, OwnedFd::from(stream.into_std()?)))
                    }),
                    () = connections.closed() => break,
                };
                match connection {
                    Ok(connection) => drop(connections.send(connection).await),
                    Err(error) => {
                        tracing::error!(%error, "public socket");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }
    connected
}
