//! Streams: a descriptor on one side, frames on the other.

use crate::client::Client;
use crate::console::Console;
use crate::lock;
use crate::outbox::{Gone, Outbox};
use bulkhead_wire::error::{Code, Error, Origin};
use bulkhead_wire::link;
use bulkhead_wire::remote::{Header, Incoming, Kind, Status};
use bulkhead_wire::xdr;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::uio::pwrite;
use nix::unistd::{Whence, ftruncate, lseek};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Streams of one client.
const STREAMS: usize = 64;
/// Streams of all clients: each has a descriptor, of which this process has a bounded number.
pub(crate) const STREAMS_OF_ALL: usize = 4096;
/// Frames from the client that wait to be written to one of them.
const INPUT: usize = 16;
/// Time that a client's reading waits for a stream that takes nothing; the stream is given up then, not the client.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Bytes of one frame of a stream, as stock cuts them.
const CHUNK: usize = 262_120;
/// Bytes that are read of a terminal at once.
const SMALL: usize = 16 << 10;

/// What a client says on a stream.
enum Said {
    Data(Vec<u8>),
    Finish,
    Abort,
    /// So many bytes are zeros; `None` if that could not be read.
    Hole(Option<i64>),
}

/// The streams of a client, by procedure and serial of the call that opened each.
#[derive(Default)]
pub(crate) struct Streams(Mutex<HashMap<(i32, u32), mpsc::Sender<Said>>>);

impl Streams {
    /// Begins a stream and answers the call that opened it.
    pub(crate) async fn open(
        &self,
        client: &Arc<Client>,
        call: Header,
        reply: Vec<u8>,
        (file, sparse): (OwnedFd, bool),
        console: Option<Arc<Console>>,
    ) {
        let (input, said) = mpsc::channel(INPUT);
        let begun =
            Source::new(file, sparse).map_err(|error| Error::system(Origin::STREAMS, "Stream", &error));
        let begun = begun.and_then(|source| {
            let mut streams = lock(&self.0);
            if streams.len() >= STREAMS {
                let message = format!("operation failed: this client has {STREAMS} streams open already");
                return Err(Error::new(Code::OPERATION_FAILED, Origin::STREAMS, message));
            }
            let place = Arc::clone(&client.shared.streams).try_acquire_owned().map_err(|_full| {
                let message =
                    format!("operation failed: {STREAMS_OF_ALL} streams of all clients are open already");
                Error::new(Code::OPERATION_FAILED, Origin::STREAMS, message)
            })?;
            // Before the answer: the client's first data may follow at once.
            streams.insert(key(call), input);
            Ok((source, place))
        });
        match begun {
            Ok((source, place)) => {
                client.outbox.answer(call, Ok((reply, Vec::new()))).await;
                let running = run(Arc::clone(client), call, Arc::new(source), said, console);
                tokio::spawn(async move {
                    running.await;
                    drop(place);
                });
            }
            Err(error) => client.outbox.answer(call, Err(error)).await,
        }
    }

    /// Hands on what a client said. One that is spoken to but does not exist is nothing.
    pub(crate) async fn heard(&self, frame: Incoming) {
        let key = key(frame.header);
        let Some(stream) = lock(&self.0).get(&key).cloned() else { return };
        let said = match (frame.header.kind, frame.header.status) {
            (Some(Kind::StreamHole), _) => {
                let hole = xdr::decode::<(i64, u32)>(&frame.payload, Vec::new());
                Said::Hole(hole.ok().map(|((length, _flags), _)| length))
            }
            (_, status) if status == Status::Continue as i32 => Said::Data(frame.payload),
            (_, status) if status == Status::Ok as i32 => Said::Finish,
            _ => Said::Abort,
        };
        if timeout(STUCK_AFTER, stream.send(said)).await.is_err() {
            lock(&self.0).remove(&key);
        }
    }

    fn close(&self, call: Header) {
        lock(&self.0).remove(&key(call));
    }

    /// Ends all: their tasks see that nothing more will be said.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}

fn key(header: Header) -> (i32, u32) {
    (header.procedure, header.serial)
}

/// What goes from a file to the client.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// Empty at the end.
    Data(Vec<u8>),
    /// So many bytes are zeros and take no room.
    Hole(i64),
}

/// What is behind a stream, and whether holes are spoken of on it.
struct Source {
    file: Open,
    sparse: bool,
}

/// The open file.
enum Open {
    /// A terminal, a pipe, a socket.
    Waits(AsyncFd<OwnedFd>),
    /// A file, for which nobody has to wait. What may not be read is written to, and the other way round.
    File(Arc<File>, Direction),
}

/// Which way a file's content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
}

impl Source {
    fn new(file: OwnedFd, sparse: bool) -> io::Result<Self> {
        Ok(Self { file: Open::new(file)?, sparse })
    }

    async fn next(&self) -> io::Result<Piece> {
        self.file.next(self.sparse).await
    }

    async fn write(&self, given: Vec<u8>) -> io::Result<()> {
        self.file.write(given).await
    }

    /// Goes on so many bytes further; what was there is zeros afterwards.
    async fn skip(&self, length: i64) -> io::Result<()> {
        if self.sparse { self.file.skip(length).await } else { Err(io::ErrorKind::Unsupported.into()) }
    }
}

impl Open {
    fn new(file: OwnedFd) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT;
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        if kind == SFlag::S_IFREG {
            let written = flags & OFlag::O_ACCMODE == OFlag::O_WRONLY;
            let direction = if written { Direction::In } else { Direction::Out };
            return Ok(Self::File(Arc::new(file.into()), direction));
        }
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self::Waits(link::watch(file)?))
    }

    /// Empty at the end: a terminal whose other side has gone says EIO.
    async fn next(&self, sparse: bool) -> io::Result<Piece> {
        match self {
            Self::Waits(file) => loop {
                let mut ready = file.readable().await?;
                let mut buffer = vec![0; SMALL];
                match nix::unistd::read(file.get_ref(), &mut buffer) {
                    Ok(count) => {
                        buffer.truncate(count);
                        return Ok(Piece::Data(buffer));
                    }
                    Err(Errno::EIO) => return Ok(Piece::Data(Vec::new())),
                    Err(Errno::EAGAIN) => ready.clear_ready(),
                    Err(error) => return Err(error.into()),
                }
            },
            // The client alone speaks on such a stream.
            Self::File(_, Direction::In) => std::future::pending().await,
            Self::File(file, Direction::Out) => {
                let file = Arc::clone(file);
                tokio::task::spawn_blocking(move || piece(&file, sparse)).await.map_err(io::Error::other)?
            }
        }
    }

    async fn write(&self, given: Vec<u8>) -> io::Result<()> {
        let mut bytes = &given[..];
        let file = match self {
            Self::Waits(file) => file,
            Self::File(file, Direction::In) => {
                let file = Arc::clone(file);
                let write = move || io::Write::write_all(&mut &*file, &given);
                return tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?;
            }
            Self::File(_, Direction::Out) => return Err(io::ErrorKind::Unsupported.into()),
        };
        while !bytes.is_empty() {
            let mut ready = file.writable().await?;
            match nix::unistd::write(file.get_ref(), bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Goes on so many bytes further; what was there is zeros afterwards.
    async fn skip(&self, length: i64) -> io::Result<()> {
        let file = match self {
            Self::File(file, Direction::In) => Arc::clone(file),
            Self::File(_, Direction::Out) => return Err(io::ErrorKind::Unsupported.into()),
            // Nothing can be left out here: it is filled.
            Self::Waits(_) => {
                let mut left = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
                while left > 0 {
                    let count = left.min(CHUNK);
                    self.write(vec![0; count]).await?;
                    left -= count;
                }
                return Ok(());
            }
        };
        tokio::task::spawn_blocking(move || skip(&file, length)).await.map_err(io::Error::other)?
    }
}

/// What comes next of a file, from where it is.
fn piece(file: &File, sparse: bool) -> io::Result<Piece> {
    let mut room = CHUNK;
    if sparse {
        let begin = lseek(file, 0, Whence::SeekCur)?;
        let data = match lseek(file, begin, Whence::SeekData) {
            Ok(data) => data,
            // Nothing but a hole from here on, if anything.
            Err(Errno::ENXIO) => lseek(file, 0, Whence::SeekEnd)?.max(begin),
            Err(error) => return Err(error.into()),
        };
        if data > begin {
            lseek(file, data, Whence::SeekSet)?;
            return Ok(Piece::Hole(data - begin));
        }
        let hole = lseek(file, begin, Whence::SeekHole).unwrap_or(i64::MAX);
        lseek(file, begin, Whence::SeekSet)?;
        room = usize::try_from(hole - begin).unwrap_or(CHUNK).min(CHUNK);
    }
    let mut buffer = vec![0; room];
    let count = nix::unistd::read(file, &mut buffer)?;
    buffer.truncate(count);
    Ok(Piece::Data(buffer))
}

fn skip(file: &File, length: i64) -> io::Result<()> {
    let begin = lseek(file, 0, Whence::SeekCur)?;
    let end = begin.checked_add(length).filter(|end| *end >= begin).ok_or(io::ErrorKind::InvalidInput)?;
    let size = fstat(file)?.st_size;
    let (mut at, old) = (begin, end.min(size));
    let zeros = [0; SMALL];
    while at < old {
        match lseek(file, at, Whence::SeekData) {
            Ok(data) => at = data,
            // Holes alone from here on.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        }
        let hole = lseek(file, at, Whence::SeekHole).unwrap_or(old).min(old);
        while at < hole {
            let count = usize::try_from(hole - at).unwrap_or(SMALL).min(SMALL);
            at += i64::try_from(pwrite(file, zeros.get(..count).unwrap_or(&zeros), at)?).unwrap_or(i64::MAX);
        }
    }
    if end > size {
        ftruncate(file, end)?;
    }
    lseek(file, end, Whence::SeekSet)?;
    Ok(())
}

fn failed(message: &str) -> Error {
    Error::new(Code::RPC, Origin::STREAMS, message)
}

/// A stream's task. Ends when the client has said its last word, or with an error.
async fn run(
    client: Arc<Client>,
    call: Header,
    source: Arc<Source>,
    mut said: mpsc::Receiver<Said>,
    console: Option<Arc<Console>>,
) {
    let outbox = client.outbox.clone();
    // A stream can't be taken over: its descriptor dies with this process.
    let _busy = client.state.busy();
    let outward = tokio::spawn(send(outbox.clone(), call, Arc::clone(&source)));
    let taken = async {
        match &console {
            Some(console) => console.taken.notified().await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        // Either ends the stream; what was half written is of no use then.
        ended = receive(&source, &mut said) => ended,
        () = taken => Err(failed("stream had I/O failure: somebody else has taken the console")),
    };
    outward.abort();
    let _ = outward.await;
    // Whoever comes next finds the console free when he hears that this is over.
    drop(console);
    drop(source);
    client.streams.close(call);
    match ended {
        Ok(true) => drop(outbox.stream(call, Status::Ok, &[]).await),
        Ok(false) => {}
        Err(error) => outbox.stream_failed(call, &error).await,
    }
}

/// From the file to the client; an empty frame is the end.
async fn send(outbox: Outbox, call: Header, source: Arc<Source>) -> Result<(), Gone> {
    loop {
        let piece = source.next().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "stream");
            Piece::Data(Vec::new())
        });
        match piece {
            Piece::Hole(length) => outbox.hole(call, length).await?,
            Piece::Data(data) => {
                outbox.stream(call, Status::Continue, &data).await?;
                if data.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// From the client to the file, until it finishes. False when the client has gone.
async fn receive(source: &Source, said: &mut mpsc::Receiver<Said>) -> Result<bool, Error> {
    while let Some(said) = said.recv().await {
        match said {
            Said::Data(data) => match source.write(data).await {
                Ok(()) => {}
                // A terminal without another side takes everything.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {}
                Err(error) => return Err(failed(&format!("stream had unexpected termination: {error}"))),
            },
            Said::Finish | Said::Abort => return Ok(true),
            Said::Hole(length) => {
                let length = length.filter(|length| *length >= 0);
                let skipped = source.skip(length.ok_or_else(|| failed("Unexpected stream hole"))?).await;
                skipped.map_err(|error| failed(&format!("Unexpected stream hole: {error}")))?;
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn file() -> File {
        nix::sys::memfd::memfd_create("stream", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap().into()
    }

    #[test]
    fn a_file_goes_out_in_data_and_holes_or_in_data_alone() {
        let file = file();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"here", 512 << 10).unwrap();
        let (mut bytes, mut holes) = (0, 0);
        loop {
            match piece(&file, true).unwrap() {
                Piece::Data(data) if data.is_empty() => break,
                Piece::Data(data) => bytes += data.len(),
                Piece::Hole(length) => holes += usize::try_from(length).unwrap(),
            }
        }
        assert_eq!(bytes + holes, 1 << 20);
        assert!((4..=64 << 10).contains(&bytes), "{bytes}");
        lseek(&file, 0, Whence::SeekSet).unwrap();
        assert_eq!(piece(&file, false).unwrap(), Piece::Data(vec![0; CHUNK]));
    }

    #[tokio::test]
    async fn holes_are_taken_where_they_were_spoken_of_and_nowhere_else() {
        let path = std::env::temp_dir().join(format!("bulkhead-stream-{}", std::process::id()));
        std::fs::write(&path, [7; 10_000]).unwrap();
        let open = || OwnedFd::from(File::options().write(true).open(&path).unwrap());
        let plain = Source::new(open(), false).unwrap();
        assert_eq!(plain.skip(10).await.unwrap_err().kind(), io::ErrorKind::Unsupported);
        let sparse = Source::new(open(), true).unwrap();
        sparse.skip(4096).await.unwrap();
        sparse.write(b"data".to_vec()).await.unwrap();
        sparse.skip(1 << 20).await.unwrap();
        assert!(sparse.skip(i64::MAX).await.is_err());
        let now = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(now.len(), 4100 + (1 << 20));
        assert!(now[..4096].iter().chain(&now[4100..]).all(|byte| *byte == 0));
        assert_eq!(&now[4096..4100], b"data");
    }

    #[tokio::test]
    async fn a_pipe_gets_the_zeros_that_a_hole_stands_for() {
        let (reading, writing) = nix::unistd::pipe().unwrap();
        let pipe = Source::new(writing, true).unwrap();
        pipe.skip(1000).await.unwrap();
        drop(pipe);
        let mut got = Vec::new();
        io::Read::read_to_end(&mut File::from(reading), &mut got).unwrap();
        assert_eq!(got, [0; 1000]);
    }
}
