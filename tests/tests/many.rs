//! Ten thousand connections that say nothing: who is served is served on, and whoever comes when they are gone.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{Root, figure, libexec, skip, wait_for};
use bulkhead_wire::remote::{Header, Kind, Status, frame, program};
use bulkhead_wire::xdr;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MANY: usize = 10_000;
const SOON: Duration = Duration::from_secs(60);

/// A client that speaks the protocol by hand.
struct Raw(UnixStream, u32);

impl Raw {
    fn open(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SOON))?;
        let mut raw = Self(stream, 0);
        raw.call(66, &[])?;
        raw.call(1, &xdr::encode(&(Some("qemu:///session"), 0_u32)).unwrap().0)?;
        Ok(raw)
    }

    /// Calls, and waits for the answer.
    fn call(&mut self, procedure: i32, payload: &[u8]) -> std::io::Result<()> {
        self.1 += 1;
        let kind = Some(Kind::Call);
        let header =
            Header { program: program::REMOTE, version: 1, procedure, kind, serial: self.1, status: 0 };
        self.0.write_all(&frame(header, payload).unwrap())?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.0.read_exact(&mut rest)?;
        let header = Header::from_bytes(rest.first_chunk().unwrap());
        assert_eq!((header.serial, header.status), (self.1, Status::Ok as i32));
        Ok(())
    }
}

/// The process that keeps the stack; gone with the test, however that ends.
struct Keeper(std::process::Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection, unless nobody takes one at the moment.
fn silent(path: &Path) -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    match connect(made.as_raw_fd(), &UnixAddr::new(path).unwrap()) {
        Ok(()) => Some(made),
        Err(Errno::EAGAIN) => None,
        Err(errno) => panic!("{errno}"),
    }
}

#[tokio::test]
async fn ten_thousand_silent_connections_harm_nobody_who_is_served() {
    if getrlimit(Resource::RLIMIT_NOFILE).unwrap().1 < 18_000 {
        return skip("fewer than 18,000 descriptors may be open here");
    }
    let root = Root::new();
    let mut keeper = Command::new(libexec().join("bulkhead"));
    keeper.arg("--root").arg(root.path()).arg("--libexec").arg(libexec()).args(["keep", "--idle", "3600"]);
    let mut keeper = Keeper(keeper.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut ready = [0; 6];
    keeper.0.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    let socket = root.path().join("run/libvirt-sock");
    let mut good = Raw::open(&socket).unwrap();
    let mut silents = Vec::new();
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    let (mut tried, mut longest_pause) = (0, Duration::ZERO);
    while tried < MANY {
        match silent(&socket) {
            Some(connection) => silents.push(connection),
            // The door is shut, or those behind it are not let in fast enough: either way nobody waits for long.
            None => {
                let since = Instant::now();
                good.call(4, &[]).unwrap();
                longest_pause = longest_pause.max(since.elapsed());
            }
        }
        tried += 1;
        if tried % 500 == 0 {
            let asked = Instant::now();
            good.call(4, &[]).unwrap();
            slowest = slowest.max(asked.elapsed());
        }
    }
    figure(&format!(
        "{MANY} connections tried in {:?}, {} made; slowest call meanwhile {slowest:?}, {longest_pause:?}",
        began.elapsed(),
        silents.len()
    ));
    assert!(slowest.max(longest_pause) < Duration::from_secs(5), "{slowest:?} {longest_pause:?}");
    drop(silents);
    wait_for("a new client is served", SOON, || async {
        Raw::open(&socket).map(drop).map_err(|error| error.to_string())
    })
    .await;
    let stack = bulkhead::Connection::attach(root.path()).await.unwrap();
    let status = stack.status().await.unwrap();
    for driver in &status.drivers {
        assert_eq!(driver.restarts, 0, "{} was ended: {:?}", driver.name, driver.reason);
    }
    let memory: u64 = status.drivers.iter().map(|driver| driver.memory_kib).sum();
    figure(&format!("afterwards all drivers together take {memory} KiB"));
    assert!(memory < 400 << 10, "{memory} KiB");
    // The process that answers ends with what it is asked to end; that it does so in order is seen below.
    drop(stack.stop().await);
    assert!(keeper.0.wait().unwrap().success());
}
