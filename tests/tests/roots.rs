//! Roots with odd names work as others do, or are refused before anything is made.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use bulkhead::wire::types::State;
use bulkhead::{Connection, OpenError};
use bulkhead_tests::fixture::{Root, SERIAL_PTY, guest_files, libexec, skip, ticker_xml, wait_for};
use std::path::Path;
use std::time::Duration;

fn uri(root: &Path) -> String {
    let mut uri = "qemu:///embed?root=".to_owned();
    for byte in root.to_str().unwrap().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

async fn open(root: &Path) -> Result<Connection, OpenError> {
    Connection::builder(&uri(root)).libexec(libexec()).open().await
}

/// A guest with a console, a channel on a unix socket, a log file and a disk, all below the root.
async fn a_guest_lives_below(base: &Root, name: &str) {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = base.path().join(name);
    std::fs::create_dir_all(&root).unwrap();
    let (disk, output) = (root.join("disk, 1%.img"), root.join("output, 1%.txt"));
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let devices = format!(
        "{SERIAL_PTY}<serial type='file'><source path='{}'/></serial>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        output.display()
    );
    let stack = open(&root).await.unwrap();
    let domains = stack.domains();
    let guest = domains.domain_create_xml(ticker_xml("web, 1%", &disk, &devices), 0).await.unwrap();
    let console = domains.domain_open_console(guest.clone(), None, 0).await.unwrap();
    assert!(console.into_owned().is_some());
    assert!(output.is_file());
    // The control socket is reached, whatever the length of its path.
    let attached = Connection::attach(&root).await.unwrap();
    let state = attached.domains().domain_get_state(guest.clone(), 0).await.unwrap();
    assert_eq!(state.state, State::Running as i32);
    drop(attached);
    domains.domain_destroy_flags(guest, 0).await.unwrap();
    wait_for("the helper is forgotten", Duration::from_secs(1), || async {
        let helpers = stack.status().await.unwrap().helpers;
        helpers.is_empty().then_some(()).ok_or_else(|| format!("{helpers:?}"))
    })
    .await;
    stack.close().await;
}

#[tokio::test]
async fn a_guest_lives_below_a_root_with_spaces_commas_and_percent_signs() {
    let base = Root::new();
    for name in ["a root", "a,root,,=on", "100%25%", "it's \"quoted\" \\ & é"] {
        // What stands in XML is escaped there; this test's concern is everything behind it.
        if !name.contains(['\'', '&']) {
            a_guest_lives_below(&base, name).await;
        } else {
            open(&base.path().join(name)).await.unwrap().close().await;
        }
    }
}

#[tokio::test]
async fn a_guest_lives_below_a_root_of_200_characters() {
    let base = Root::new();
    let name = "x".repeat(200 - base.path().as_os_str().len() - 1);
    a_guest_lives_below(&base, &name).await;
}

#[tokio::test]
async fn a_guest_lives_below_a_root_behind_a_symbolic_link() {
    let base = Root::new();
    std::fs::create_dir_all(base.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", base.path().join("link")).unwrap();
    a_guest_lives_below(&base, "link").await;
}

#[tokio::test]
async fn unfit_roots_are_refused_with_the_reason_and_nothing_is_made() {
    let base = Root::new();
    for (name, reason) in [("a\nroot", "control characters"), ("a/../b", "'..'")] {
        let root = base.path().join(name);
        let error = open(&root).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(!base.path().exists());
    std::fs::create_dir_all(base.path()).unwrap();
    let file = base.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (root, reason) in [
        (file.as_path(), "File exists"),
        (Path::new("/proc/bulkhead"), "No such file"),
        (Path::new("/"), "own root"),
    ] {
        let error = open(root).await.unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(&*root.to_string_lossy()), "{error}");
    }
    let uri = format!("log:///embed?root={}", base.path().join("s").display());
    let error = Connection::open(&uri).await.unwrap_err();
    assert!(error.to_string().contains("no driver 'log' that can be opened"), "{error}");
    assert!(!base.path().join("s").exists());
}
