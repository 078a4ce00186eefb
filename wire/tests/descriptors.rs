//! A process that can't open one more file: alone in its file, since the limit counts for the whole process.
use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::link;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

#[tokio::test]
async fn descriptors_that_find_no_room_end_the_link_and_none_stays_open() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (file, mut witness) = UnixStream::pair().unwrap();
    let (mut reader, _writer) = link::split(OwnedFd::from(ours)).unwrap();
    let files = [file.as_raw_fd(); 60];
    let header = Header { descriptors: 60, ..Header::new(Kind::Event) }.to_bytes();
    let rights = [ControlMessage::ScmRights(&files)];
    let slices = [IoSlice::new(&header)];
    sendmsg::<()>(theirs.as_raw_fd(), &slices, &rights, MsgFlags::empty(), None).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let next = u64::try_from(std::fs::File::open("/dev/null").unwrap().as_raw_fd()).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, next + 10, hard).unwrap();
    let refused = reader.read().await.unwrap_err().to_string();
    assert!(refused.contains("more descriptors came than fit"), "{refused}");
    drop(file);
    witness.set_nonblocking(true).unwrap();
    assert_eq!(witness.read(&mut [0]).unwrap(), 0, "a descriptor stays open");
}
