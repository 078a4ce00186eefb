//! A pool's worker: does what the driver orders in one folder, several things at a time. It ends when the driver's end of the
//! socket closes, so it never outlives the driver that it works for.
//!
//! Owns: the pool's folder, by a descriptor. Never does: open anything by a name that leads out of that folder, follow a link
//! for writing, wait for a file that is none.

mod copy;
mod folder;
mod scan;

use crate::protocol::{Answer, Failure, Order, Reply, Request, SOCKET_NUMBER};
use bulkhead_wire::codec;
use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::link::{self, LinkError};
use bulkhead_wire::table::REVISION;
use folder::Folder;
use nix::errno::Errno;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Orders that are followed at one time; each upload that goes on takes a place too.
const AT_ONCE: usize = 128;

type Sent = (Vec<u8>, Vec<OwnedFd>);

/// The whole of the worker's `main`; `path` is its folder.
///
/// # Errors
/// A folder that can't be opened, and a driver that speaks another language.
pub fn main(path: Option<OsString>) -> Result<(), String> {
    let path = path.ok_or("the first argument is no folder")?;
    let [socket] = bulkhead_actors::inherited([SOCKET_NUMBER]);
    let folder = Folder::at(Path::new(&path)).map_err(|error| format!("{}: {error}", path.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(AT_ONCE)
        .build()
        .map_err(|error| error.to_string())?;
    let ended = runtime.block_on(serve(socket, Arc::new(folder)));
    // What still goes on is of no use to anybody.
    runtime.shutdown_background();
    match ended {
        LinkError::Closed => Ok(()),
        error => Err(error.to_string()),
    }
}

async fn serve(socket: OwnedFd, folder: Arc<Folder>) -> LinkError {
    let (mut reader, mut writer) = match link::open(socket, REVISION).await {
        Ok(halves) => halves,
        Err(error) => return error,
    };
    let (outbox, mut queue) = mpsc::channel::<Sent>(AT_ONCE);
    tokio::spawn(async move {
        while let Some((body, files)) = queue.recv().await {
            if writer.write(Header::new(Kind::Control), &body, &files).await.is_err() {
                break;
            }
        }
    });
    loop {
        let frame = match reader.read().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        let Request { id, order } = match codec::decode(&frame.body, frame.descriptors) {
            Ok(request) => request,
            Err(error) => return LinkError::Violation(error.to_string()),
        };
        let (folder, outbox) = (Arc::clone(&folder), outbox.clone());
        tokio::task::spawn_blocking(move || {
            let reply = Reply { id, result: follow(&folder, order) };
            let encoded = codec::encode(&reply).or_else(|error| {
                let failure = Failure { message: error.to_string(), errno: 0 };
                codec::encode(&Reply { id, result: Err(failure) })
            });
            if let Ok(sent) = encoded {
                // The driver has gone if nobody takes it.
                drop(outbox.blocking_send(sent));
            }
        });
    }
}

fn follow(folder: &Folder, order: Order) -> Result<Answer, Failure> {
    match order {
        Order::Scan { raw } => folder.scan(&raw).map(|content| Answer::Content(Box::new(content))),
        Order::Look { name, raw } => folder.look(&name, raw).map(|found| Answer::File(Box::new(found))),
        Order::Make { unfinished, capacity_bytes, allocation_bytes } => {
            folder.make(&unfinished, capacity_bytes, allocation_bytes).map(|()| Answer::Done)
        }
        Order::Copy { unfinished, source, capacity_bytes } => {
            let source = source.into_owned().ok_or_else(|| failure("the source", Errno::EBADF))?;
            folder.copy(&unfinished, &source, capacity_bytes).map(|()| Answer::Done)
        }
        Order::Finish { unfinished, name, permissions, raw } => {
            folder.finish(&unfinished, &name, permissions)?;
            folder.look(&name, raw).map(|found| Answer::File(Box::new(found)))
        }
        Order::Discard { unfinished } => folder.discard(&unfinished).map(|()| Answer::Done),
        Order::MakeFolder { name, permissions } => {
            folder.make_folder(&name, permissions)?;
            folder.look(&name, true).map(|found| Answer::File(Box::new(found)))
        }
        Order::Remove { name } => folder.remove(&name).map(|()| Answer::Done),
        Order::Resize { name, capacity_bytes, allocate } => {
            folder.resize(&name, capacity_bytes, allocate).map(|()| Answer::Done)
        }
        Order::Wipe { name } => folder.wipe(&name).map(|()| Answer::Done),
        Order::Open { name, write, offset, length } => {
            folder.open_for(&name, write, offset, length).map(Answer::Opened)
        }
        Order::Released { name } => folder.released(&name).map(|()| Answer::Done),
        Order::Own { permissions } => folder.own(permissions).map(|()| Answer::Done),
    }
}

fn failure(what: impl std::fmt::Display, errno: Errno) -> Failure {
    Failure { message: format!("{what}: {}", errno.desc()), errno: errno as i32 }
}
