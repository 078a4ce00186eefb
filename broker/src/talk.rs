//! A driver's control link.

use crate::stack::Happening;
use bulkhead_wire::codec;
use bulkhead_wire::control::FromDriver;
use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::link::{self, LinkError};
use bulkhead_wire::table::{Driver, REVISION};
use std::os::fd::OwnedFd;
use tokio::sync::mpsc;

/// What a driver says at most: as much as a program's arguments may be, and something more.
const SAID_MAX_BYTES: usize = 4 << 20;

/// One driver's control link, both ways, until it ends.
pub(crate) async fn talk(
    driver: Driver,
    incarnation: u64,
    socket: OwnedFd,
    mut queue: mpsc::Receiver<(Vec<u8>, Vec<OwnedFd>)>,
    happenings: mpsc::Sender<Happening>,
) {
    let opened = link::open(socket, REVISION).await;
    let (mut reader, mut writer) = match opened {
        Ok(halves) => halves,
        Err(error) => {
            let _ = happenings.send(Happening::LinkEnded(driver, incarnation, error)).await;
            return;
        }
    };
    let writing = tokio::spawn(async move {
        while let Some((body, files)) = queue.recv().await {
            if writer.write(Header::new(Kind::Control), &body, &files).await.is_err() {
                break;
            }
        }
    });
    let error = loop {
        let frame = match reader.read().await {
            Ok(frame) => frame,
            Err(error) => break error,
        };
        let (kind, bytes) = (frame.header.kind, frame.body.len());
        if kind != Kind::Control {
            break LinkError::Violation(format!("{kind:?} on the control link"));
        }
        if bytes > SAID_MAX_BYTES {
            break LinkError::Violation(format!("{bytes} bytes on the control link"));
        }
        match codec::decode::<FromDriver>(&frame.body, frame.descriptors) {
            Ok(message) => {
                if happenings.send(Happening::Said(driver, incarnation, Box::new(message))).await.is_err() {
                    break LinkError::Closed;
                }
            }
            Err(error) => break LinkError::Violation(error.to_string()),
        }
    };
    writing.abort();
    let _ = happenings.send(Happening::LinkEnded(driver, incarnation, error)).await;
}
