//! A guest's state and memory go into files that a client names, and nothing is lost or left half-done on the way.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::{Connection, FaultRule};
use bulkhead_tests::fixture::{Root, driver, guest_files, libexec, skip, ticker_xml, wait_for};
use bulkhead_wire::error::Code;
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::{DomainRef, Parameter, State};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// `virDomainSaveRestoreFlags`.
const PAUSED: u32 = 4;
const RUNNING: u32 = 2;
/// `virDomainCoreDumpFlags`.
const CRASH: u32 = 1;
const LIVE: u32 = 2;
const RESET: u32 = 8;
const MEMORY_ONLY: u32 = 16;

/// A stack with one guest that counts into a file.
struct Counting {
    root: Root,
    stack: Connection,
    guest: DomainRef,
    output: PathBuf,
}

impl Counting {
    async fn begin(faults: Vec<FaultRule>) -> Option<Self> {
        let Some(files) = guest_files() else {
            skip("no guest files; tools/guest/build makes them");
            return None;
        };
        let root = Root::new();
        let stack = Connection::builder(&root.uri()).libexec(libexec()).faults(faults).open().await.unwrap();
        let (disk, output) = (root.path().join("disk.img"), root.path().join("out"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let serial =
            format!("<serial type='file'><source path='{}' append='on'/></serial>", output.display());
        let defined =
            stack.domains().domain_define_xml_flags(ticker_xml("web", &disk, &serial), 0).await.unwrap();
        let guest = stack.domains().domain_create_with_flags(defined, 0).await.unwrap();
        let counting = Self { root, stack, guest, output };
        counting.counts_beyond(3).await;
        Some(counting)
    }

    fn numbers(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// Waits until the guest has counted further, and demands that no number is missing or there twice.
    async fn counts_beyond(&self, number: u64) -> u64 {
        let last = wait_for("the guest counts", SOON, || async {
            let last = self.numbers().last().copied().unwrap_or(0);
            if last > number { Ok(last) } else { Err(format!("{last}")) }
        })
        .await;
        for pair in self.numbers().windows(2) {
            assert_eq!(pair[0] + 1, pair[1], "a number is missing or there twice");
        }
        last
    }

    async fn state(&self) -> (i32, i32) {
        let state = self.stack.domains().domain_get_state(self.guest.clone(), 0).await.unwrap();
        (state.state, state.reason)
    }

    async fn is(&self, wanted: State) {
        wait_for("the state", SOON, || async {
            let (state, reason) = self.state().await;
            if state == wanted as i32 { Ok(()) } else { Err(format!("{state} ({reason})")) }
        })
        .await;
    }

    fn file(&self, name: &str) -> (PathBuf, String) {
        let path = self.root.path().join(name);
        let text = path.display().to_string();
        (path, text)
    }
}

#[tokio::test]
async fn a_guest_goes_on_from_a_file_where_it_was() {
    let Some(counting) = Counting::begin(Vec::new()).await else { return };
    let domains = counting.stack.domains();
    let (path, file) = counting.file("state");
    // What can't be done changes nothing: no file in a folder that is not there, none where no guest may write.
    for wrong in ["/nowhere/state", "/etc/bulkhead-state", "state"] {
        assert!(domains.domain_save(counting.guest.clone(), wrong.to_owned()).await.is_err(), "{wrong}");
    }
    let other = domains.domain_get_xml_desc(counting.guest.clone(), 2).await.unwrap();
    let renamed = other.replace("<name>web<", "<name>other<");
    let refused = domains.domain_save_flags(counting.guest.clone(), file.clone(), Some(renamed), 0).await;
    assert_eq!(refused.unwrap_err().code, Code::CONFIG_UNSUPPORTED);
    assert!(!path.exists());
    counting.is(State::Running).await;

    domains.domain_save(counting.guest.clone(), file.clone()).await.unwrap();
    counting.is(State::Shutoff).await;
    assert!(std::fs::read(&path).unwrap().starts_with(b"LibvirtQemudSave"));
    let last = counting.numbers().last().copied().unwrap();
    // The definition in it can be seen, and changed as far as the guest does not see it.
    let xml = domains.domain_save_image_get_xml_desc(file.clone(), 0).await.unwrap();
    assert!(xml.contains("<name>web</name>"));
    let more = xml.replace("<memory", "<title>it was saved</title><memory");
    domains.domain_save_image_define_xml(file.clone(), more, RUNNING).await.unwrap();
    let larger = xml.replace("16384", "32768");
    let refused = domains.domain_save_image_define_xml(file.clone(), larger, 0).await.unwrap_err();
    assert_eq!(refused.code, Code::CONFIG_UNSUPPORTED, "{}", refused.message);

    domains.domain_restore(file.clone()).await.unwrap();
    counting.is(State::Running).await;
    let live = domains.domain_get_xml_desc(counting.guest.clone(), 0).await.unwrap();
    assert!(live.contains("<title>it was saved</title>"));
    counting.counts_beyond(last + 3).await;
    let refused = domains.domain_restore(file.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::OPERATION_INVALID, "{}", refused.message);

    // With everything in named values, and its CPUs stopped.
    let parameters = vec![Parameter::new("file", file.clone())];
    domains.domain_save_params(counting.guest.clone(), parameters.clone(), PAUSED).await.unwrap();
    domains.domain_restore_params(parameters, 0).await.unwrap();
    counting.is(State::Paused).await;
    domains.domain_resume(counting.guest.clone()).await.unwrap();
    let last = counting.numbers().last().copied().unwrap();
    counting.counts_beyond(last).await;

    // What is no state is refused as that.
    let (junk, name) = counting.file("junk");
    std::fs::write(junk, vec![b'x'; 4000]).unwrap();
    let refused = domains.domain_restore(name.clone()).await.unwrap_err();
    assert_eq!(refused.code, Code::OPERATION_FAILED, "{}", refused.message);
    assert!(domains.domain_save_image_get_xml_desc("/etc/shadow".to_owned(), 0).await.is_err());
    counting.stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_transient_guest_comes_back_from_its_file() {
    let Some(counting) = Counting::begin(Vec::new()).await else { return };
    let domains = counting.stack.domains();
    domains.domain_undefine(counting.guest.clone()).await.unwrap();
    let (_, file) = counting.file("state");
    domains.domain_save(counting.guest.clone(), file.clone()).await.unwrap();
    assert_eq!(domains.domain_lookup_by_name("web".to_owned()).await.unwrap_err().code, Code::NO_DOMAIN);
    let last = counting.numbers().last().copied().unwrap();
    domains.domain_restore(file).await.unwrap();
    counting.counts_beyond(last + 2).await;
    assert_eq!(domains.domain_is_persistent(counting.guest.clone()).await.unwrap(), 0);
    counting.stack.stop().await.unwrap();
}

#[tokio::test]
async fn the_definition_of_a_managed_save_can_be_changed() {
    let Some(counting) = Counting::begin(Vec::new()).await else { return };
    let domains = counting.stack.domains();
    let guest = || counting.guest.clone();
    let none = domains.domain_managed_save_define_xml(guest(), Some("<domain/>".to_owned()), 0).await;
    assert_eq!(none.unwrap_err().code, Code::OPERATION_INVALID);
    domains.domain_managed_save(guest(), 0).await.unwrap();
    let xml = domains.domain_managed_save_get_xml_desc(guest(), 0).await.unwrap();
    let titled = xml.replace("<memory", "<title>later</title><memory");
    domains.domain_managed_save_define_xml(guest(), Some(titled), PAUSED).await.unwrap();
    let last = counting.numbers().last().copied().unwrap();
    domains.domain_create_with_flags(guest(), 0).await.unwrap();
    counting.is(State::Paused).await;
    let live = domains.domain_get_xml_desc(guest(), 0).await.unwrap();
    assert!(live.contains("<title>later</title>"));
    domains.domain_resume(guest()).await.unwrap();
    counting.counts_beyond(last).await;
    counting.stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_guests_memory_is_written_in_all_formats_and_the_guest_goes_on() {
    let Some(counting) = Counting::begin(Vec::new()).await else { return };
    let domains = counting.stack.domains();
    let guest = || counting.guest.clone();
    let formats: [(u32, &[u8]); 3] = [(0, b"\x7fELF"), (1, b"makedumpfile"), (5, b"KDUMP   ")];
    for (format, begins) in formats {
        let (path, file) = counting.file(&format!("core-{format}"));
        let dumped = domains.domain_core_dump_with_format(guest(), file, format, MEMORY_ONLY).await;
        dumped.unwrap_or_else(|error| panic!("format {format}: {error}"));
        let begin = std::fs::read(&path).unwrap();
        assert!(begin.starts_with(begins), "format {format}: {:?}", &begin[..16.min(begin.len())]);
        counting.is(State::Running).await;
    }
    // The whole state, and while the guest runs.
    let (path, file) = counting.file("whole");
    domains.domain_core_dump(guest(), file.clone(), 0).await.unwrap();
    assert!(std::fs::read(&path).unwrap().starts_with(b"QEVM"));
    domains.domain_core_dump(guest(), file.clone(), LIVE | MEMORY_ONLY).await.unwrap();
    let last = counting.counts_beyond(counting.numbers().last().copied().unwrap()).await;
    // What is asked for wrongly, and where nobody may write.
    for (format, flags, code) in [
        (1, 0, Code::OPERATION_UNSUPPORTED),
        (99, MEMORY_ONLY, Code::INVALID_ARG),
        (0, CRASH | LIVE, Code::INVALID_ARG),
        (0, CRASH | RESET, Code::INVALID_ARG),
        (0, 1 << 20, Code::INVALID_ARG),
    ] {
        let refused = domains.domain_core_dump_with_format(guest(), file.clone(), format, flags).await;
        assert_eq!(refused.unwrap_err().code, code, "{format} {flags}");
    }
    assert!(domains.domain_core_dump(guest(), "/usr/bin/core".to_owned(), MEMORY_ONLY).await.is_err());
    counting.counts_beyond(last).await;
    domains.domain_core_dump(guest(), file, CRASH | MEMORY_ONLY).await.unwrap();
    // Shut off, since it crashed.
    assert_eq!(counting.state().await, (State::Shutoff as i32, 3));
    counting.stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_driver_that_dies_at_a_save_or_a_dump_leaves_a_guest_that_counts_or_a_whole_file() {
    for (point, dumps) in [
        ("save.before_store", false),
        ("save.before_rename", false),
        ("save.after_store", false),
        ("dump.before_write", true),
        ("dump.after_write", true),
    ] {
        let fault = FaultRule { driver: Driver::Qemu, point: point.to_owned(), nth: 1, hang: false };
        let Some(counting) = Counting::begin(vec![fault]).await else { return };
        let domains = counting.stack.domains();
        let (path, file) = counting.file("state");
        let last = counting.numbers().last().copied().unwrap();
        let ended = if dumps {
            domains.domain_core_dump(counting.guest.clone(), file.clone(), MEMORY_ONLY).await
        } else {
            domains.domain_save(counting.guest.clone(), file.clone()).await
        };
        assert!(ended.is_err(), "{point}: the driver died");
        wait_for("the next incarnation", SOON, || async {
            let (_, incarnation) = driver(&counting.stack, "qemu").await?;
            if incarnation > 1 { Ok(()) } else { Err("the first".to_owned()) }
        })
        .await;
        if point == "save.after_store" {
            counting.is(State::Shutoff).await;
            domains.domain_restore(file).await.unwrap();
        } else {
            counting.is(State::Running).await;
            assert!(dumps || !path.exists(), "{point}: what is not whole does not stay");
        }
        counting.counts_beyond(last).await;
        counting.stack.stop().await.unwrap();
    }
}
