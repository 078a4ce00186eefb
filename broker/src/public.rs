//! The sockets that libvirt's clients know. What comes over them is the gateway's to read; here only the kernel's word about
//! who connected is taken.

use crate::OpenError;
use crate::root::{Mode, short_socket_path};
use bulkhead_wire::control::Identity;
use interprocess::local_socket::{GenericFilePath, Listener, ListenerOptions, prelude::*};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Where libvirt's clients find a stack, and who may come.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// The folder; the sockets in it are `libvirt-sock`, `libvirt-sock-ro` and, for the owner alone,
    /// `libvirt-admin-sock`; the names that a stock host's single drivers have lead to them.
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

/// Makes the sockets. Each comes with what it means to come over it: only looking, or more.
pub(crate) fn bind(sockets: &Sockets, mode: Mode) -> Result<Vec<(UnixListener, bool)>, OpenError> {
    let (writing, reading) = match (mode, sockets.group) {
        (Mode::System, Some(_)) => (0o660, 0o666),
        (Mode::System, None) => (0o600, 0o666),
        _ => (0o600, 0o600),
    };
    let one = |name: &str, mode: u32, read_only: bool| {
        let group = sockets.group.filter(|_| !read_only);
        let path = sockets.folder.join(name);
        let bound = listen(&sockets.folder, name, mode, group);
        bound.map(|listener| (listener, read_only)).map_err(|source| OpenError::Control { path, source })
    };
    let public = [
        ("libvirt-sock", writing, false),
        ("libvirt-sock-ro", reading, true),
        ("libvirt-admin-sock", 0o600, false),
    ];
    let bound = public.into_iter().map(|(name, mode, read_only)| one(name, mode, read_only)).collect();
    for (daemon, (socket, _, _)) in MODULAR.iter().flat_map(|daemon| public.map(|public| (daemon, public))) {
        let name = socket.replacen("libvirt", daemon, 1);
        // What is there already is this, or somebody else's.
        let _ = symlink(socket, sockets.folder.join(name));
    }
    bound
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
    let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(listener));
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
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
