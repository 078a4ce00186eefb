//! A disk on a file server that does not answer holds up the guest that it belongs to, and nobody else.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{Root, SERIAL_PTY, domain, figure, guest_files, skip, ticker_xml, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file system whose server never says a word. Who looks at it waits until this is dropped.
struct DeadServer {
    folder: PathBuf,
    /// Open to nobody else: with it the kernel gives up everything that waits.
    _server: File,
}

impl DeadServer {
    fn mount(folder: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(folder).unwrap();
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let server = server.map_err(|error| format!("/dev/fuse: {error}"))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("dead"), folder, Some("fuse"), flags, Some(options.as_str()))
            .map_err(|error| format!("no file system of a server of ours can be mounted: {error}"))?;
        Ok(Self { folder: folder.to_owned(), _server: server })
    }
}

impl Drop for DeadServer {
    fn drop(&mut self) {
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_on_a_dead_file_server_holds_up_its_own_guest_alone() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let server = match DeadServer::mount(&root.path().join("server")) {
        Ok(server) => server,
        Err(why) => return skip(&why),
    };
    let (dead, disk) = (server.folder.join("disk.img"), root.path().join("disk.img"));
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let domains = stack.domains();
    let stuck = domains.domain_define_xml_flags(ticker_xml("stuck", &dead, SERIAL_PTY), 0).await.unwrap();
    let other = domains.domain_define_xml_flags(ticker_xml("other", &disk, SERIAL_PTY), 0).await.unwrap();
    let starting = tokio::spawn({
        let (domains, stuck) = (stack.domains(), stuck.clone());
        async move { (domains.domain_create_with_flags(stuck, 0).await, Instant::now()) }
    });
    wait_for("the start is seen", Duration::from_secs(10), || async {
        let status = stack.status().await.map_err(|error| error.to_string())?;
        let busy = status.drivers.iter().flat_map(|driver| &driver.busy);
        let found = busy.map(|busy| busy.object.clone()).any(|object| object.contains("stuck"));
        if found { Ok(()) } else { Err("nobody is busy with it".to_owned()) }
    })
    .await;

    // Everything else is served as ever, by the broker too.
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let began = Instant::now();
        domains.domain_create_with_flags(other.clone(), 0).await.unwrap();
        domains.domain_destroy_flags(other.clone(), 0).await.unwrap();
        stack.status().await.unwrap();
        longest = longest.max(began.elapsed());
    }
    figure(&format!(
        "start and destroy of a guest while another's disk does not answer: {longest:?} at most"
    ));
    assert!(!starting.is_finished());
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert_eq!(domain(&stack, "stuck").await.unwrap().uuid, stuck.uuid);

    // The one who waits is told, and for what.
    let (result, _) = tokio::time::timeout(Duration::from_secs(50), starting).await.unwrap().unwrap();
    let error = result.unwrap_err();
    assert!(error.message.contains("server/disk.img") && error.message.contains("'stuck'"), "{error}");
    // It is not in the way of anything either.
    drop(server);
    std::fs::copy(files.join("ticker.img"), root.path().join("server/disk.img")).unwrap();
    wait_for("it starts when its disk is back", Duration::from_secs(20), || async {
        let started = domains.domain_create_with_flags(stuck.clone(), 0).await;
        started.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
    domains.domain_destroy_flags(stuck, 0).await.unwrap();
    stack.stop().await.unwrap();
}
