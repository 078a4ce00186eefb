//! Displays that listen on a unix socket: made by the broker, in the guest's own folder, and given to QEMU.

use bulkhead::wire::error::Code;
use bulkhead_tests::fixture::{Root, guest_files, skip, ticker_xml};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[tokio::test]
async fn a_display_listens_on_a_socket_in_the_guests_folder_and_nowhere_else() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let disk = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let xml = |name: &str, listen: &str| {
        ticker_xml(name, &disk, &format!("<graphics type='vnc'><listen type='socket'{listen}/></graphics>"))
    };
    let guest = domains.domain_create_xml(xml("shown", ""), 0).await.unwrap();
    let socket = root.path().join(format!("run/guests/{}/vnc.sock", guest.uuid));
    let live = domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap();
    assert!(live.contains(&format!("<listen type='socket' socket='{}'/>", socket.display())), "{live}");
    let mut display = UnixStream::connect(&socket).unwrap();
    display.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut greeting = [0; 12];
    display.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"RFB 003.008\n");
    domains.domain_destroy_flags(guest, 0).await.unwrap();

    let elsewhere = xml("odd", " socket='/tmp/odd.sock'");
    let error = domains.domain_create_xml(elsewhere, 0).await.unwrap_err();
    assert_eq!(error.code, Code::CONFIG_UNSUPPORTED);
    assert!(error.message.contains("'odd'") && error.message.contains("/tmp/odd.sock"), "{error}");

    let huge =
        ticker_xml("huge", &disk, "").replace("<vcpu>", "<memoryBacking><hugepages/></memoryBacking><vcpu>");
    let error = domains.domain_create_xml(huge, 0).await.unwrap_err();
    assert!(error.message.contains("<hugepages>"), "{error}");
    assert!(root.helpers_gone());
    stack.stop().await.unwrap();
}
