//! What a driver leaves to its next incarnation reaches it, however much it is.

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, figure, libexec, skip, wait_for};
use bulkhead_wire::table::Driver;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time to start that many helpers on a loaded host.
const STARTED_WITHIN: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_driver_gets_back_the_helpers_and_deposits_of_two_hundred_guests() {
    if !Path::new("/usr/bin/swtpm").exists() {
        return skip("no swtpm, which is the helper that this starts by the hundred");
    }
    let root = Root::new();
    let folder = root.path().join("libexec");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(libexec()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("bulkhead-") && entry.path().is_file() && !name.ends_with(".d") {
            let real = if name == "bulkhead-qemu" { "hoarding-driver" } else { name.as_str() };
            std::os::unix::fs::symlink(libexec().join(real), folder.join(&name)).unwrap();
        }
    }
    std::fs::write(folder.join("hoard"), "100 200").unwrap();
    let began = Instant::now();
    let stack = Connection::builder(&root.uri()).libexec(&folder).open().await.unwrap();
    stack.release(Driver::Qemu).await.unwrap();
    let found = wait_for("the next incarnation", STARTED_WITHIN, || async {
        std::fs::read_to_string(folder.join("found")).map_err(|error| error.to_string())
    })
    .await;
    figure(&format!("100 helpers and 300 deposits left and found in {} ms", began.elapsed().as_millis()));
    assert_eq!(found, "200 pipes, 100 ends, 100 helpers");
    assert_eq!(stack.status().await.unwrap().helpers.len(), 100);
    stack.stop().await.unwrap();
}
