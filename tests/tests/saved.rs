//! A guest's state is stored and gone on from: not a number of its count is lost, whatever dies in between.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::{Connection, FaultRule};
use bulkhead_tests::fixture::{Root, domain, driver, guest_files, libexec, skip, ticker_xml, wait_for};
use bulkhead_wire::error::Code;
use bulkhead_wire::table::Driver;
use bulkhead_wire::types::{DomainRef, State};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// Drop a stored state and boot.
const FORCE_BOOT: u32 = 8;
/// Remove a stored state with the definition.
const WITH_STATE: u32 = 1;

/// A stack with one guest that counts into a file.
struct Counting {
    root: Root,
    stack: Connection,
    guest: DomainRef,
    output: PathBuf,
}

impl Counting {
    async fn begin(faults: Vec<FaultRule>, memory: &str) -> Option<Self> {
        let Some(files) = guest_files() else {
            skip("no guest files; tools/guest/build makes them");
            return None;
        };
        let root = Root::new();
        let builder = Connection::builder(&root.uri()).libexec(libexec()).faults(faults);
        let stack = builder.open().await.unwrap();
        let (disk, output) = (root.path().join("disk.img"), root.path().join("out"));
        std::fs::copy(files.join("ticker.img"), &disk).unwrap();
        let serial =
            format!("<serial type='file'><source path='{}' append='on'/></serial>", output.display());
        let xml = ticker_xml("web", &disk, &serial)
            .replace("<memory unit='MiB'>16</memory>", &format!("<memory unit='MiB'>{memory}</memory>"));
        let defined = stack.domains().domain_define_xml_flags(xml, 0).await.unwrap();
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

    async fn is_stored(&self) -> bool {
        self.stack.domains().domain_has_managed_save_image(self.guest.clone(), 0).await.unwrap() == 1
    }

    async fn next_incarnation(&self) {
        wait_for("the next incarnation", SOON, || async {
            let (_, incarnation) = driver(&self.stack, "qemu").await?;
            if incarnation > 1 { Ok(()) } else { Err("the first".to_owned()) }
        })
        .await;
    }

    fn files(&self) -> Vec<String> {
        let folder =
            std::fs::read_dir(self.root.path().join("lib/qemu/save")).into_iter().flatten().flatten();
        folder.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

#[tokio::test]
async fn a_stored_guest_goes_on_where_it_was() {
    let Some(counting) = Counting::begin(Vec::new(), "16").await else { return };
    let domains = counting.stack.domains();
    domains.domain_managed_save(counting.guest.clone(), 0).await.unwrap();
    assert_eq!(counting.state().await, (State::Shutoff as i32, 5), "shut off, saved");
    assert!(counting.root.helpers_gone());
    assert!(counting.is_stored().await);
    assert_eq!(counting.files(), ["web.save"]);
    let refusal = domains.domain_undefine_flags(counting.guest.clone(), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::OPERATION_INVALID);

    let last = *counting.numbers().last().unwrap();
    domains.domain_create_with_flags(counting.guest.clone(), 0).await.unwrap();
    assert_eq!(counting.state().await, (State::Running as i32, 3), "running, restored");
    assert!(!counting.is_stored().await);
    assert_eq!(counting.files(), Vec::<String>::new(), "an old memory must not meet a newer disk");
    counting.counts_beyond(last + 3).await;

    // Stored while its CPUs stand still: so it is when it goes on.
    domains.domain_suspend(counting.guest.clone()).await.unwrap();
    domains.domain_managed_save(counting.guest.clone(), 0).await.unwrap();
    domains.domain_create_with_flags(counting.guest.clone(), 0).await.unwrap();
    assert_eq!(counting.state().await, (State::Paused as i32, 1));
    let last = *counting.numbers().last().unwrap();
    domains.domain_resume(counting.guest.clone()).await.unwrap();
    counting.counts_beyond(last + 3).await;

    domains.domain_managed_save(counting.guest.clone(), 0).await.unwrap();
    domains.domain_create_with_flags(counting.guest.clone(), FORCE_BOOT).await.unwrap();
    wait_for("it counts from the beginning", SOON, || async {
        let numbers = counting.numbers();
        if numbers.windows(2).any(|pair| pair[1] < pair[0]) { Ok(()) } else { Err("going on".to_owned()) }
    })
    .await;
    domains.domain_managed_save(counting.guest.clone(), 0).await.unwrap();
    domains.domain_undefine_flags(counting.guest.clone(), WITH_STATE).await.unwrap();
    assert_eq!(counting.files(), Vec::<String>::new());
    assert!(domain(&counting.stack, "web").await.is_err());
    counting.stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_save_that_its_driver_does_not_survive_is_done_or_undone() {
    for (point, done) in
        [("save.before_store", false), ("save.before_rename", false), ("save.after_store", true)]
    {
        let fault = FaultRule { driver: Driver::Qemu, point: point.to_owned(), nth: 1, hang: false };
        let Some(counting) = Counting::begin(vec![fault], "16").await else { return };
        let domains = counting.stack.domains();
        let answer = domains.domain_managed_save(counting.guest.clone(), 0).await;
        assert!(answer.is_err(), "{point}: the driver died before it could answer");
        counting.next_incarnation().await;
        if done {
            wait_for("the guest has ended", SOON, || async {
                let state = counting.state().await;
                if state.0 == State::Shutoff as i32 { Ok(()) } else { Err(format!("{state:?}")) }
            })
            .await;
            assert!(counting.is_stored().await, "{point}");
            domains.domain_create_with_flags(counting.guest.clone(), 0).await.unwrap();
        } else {
            wait_for("the guest runs again", SOON, || async {
                let state = counting.state().await;
                if state.0 == State::Running as i32 { Ok(()) } else { Err(format!("{state:?}")) }
            })
            .await;
            assert!(!counting.is_stored().await, "{point}");
        }
        assert_eq!(counting.files(), Vec::<String>::new(), "{point}");
        let last = counting.numbers().last().copied().unwrap_or(0);
        counting.counts_beyond(last + 3).await;
        domains.domain_destroy_flags(counting.guest.clone(), 0).await.unwrap();
        assert!(counting.root.helpers_gone());
        counting.stack.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_save_can_be_watched_and_canceled_and_destroyed() {
    // Large enough to last; nobody touches the memory, so that none of it is there.
    let Some(counting) = Counting::begin(Vec::new(), "8192").await else { return };
    let domains = counting.stack.domains();
    let refusal = domains.domain_abort_job(counting.guest.clone()).await.unwrap_err();
    assert_eq!(refusal.code, Code::OPERATION_INVALID, "{refusal}");
    let saving = {
        let (domains, guest) = (domains.clone(), counting.guest.clone());
        tokio::spawn(async move { domains.domain_managed_save(guest, 0).await })
    };
    let job = wait_for("the job is seen", SOON, || async {
        let job = domains.domain_get_job_info(counting.guest.clone()).await.unwrap();
        if job.data_total_bytes > 0 { Ok(job) } else { Err(format!("{job:?}")) }
    })
    .await;
    assert!(job.data_total_bytes >= 8 << 30, "{job:?}");
    assert_eq!(job.data_processed_bytes + job.data_remaining_bytes, job.data_total_bytes);
    domains.domain_abort_job(counting.guest.clone()).await.unwrap();
    let canceled = saving.await.unwrap().unwrap_err();
    assert_eq!(canceled.code, Code::OPERATION_ABORTED, "{canceled}");
    assert!(canceled.message.contains("'web'"), "{canceled}");
    assert_eq!(counting.state().await.0, State::Running as i32);
    assert_eq!(counting.files(), Vec::<String>::new());
    let last = counting.numbers().last().copied().unwrap();
    counting.counts_beyond(last + 3).await;

    let saving = {
        let (domains, guest) = (domains.clone(), counting.guest.clone());
        tokio::spawn(async move { domains.domain_managed_save(guest, 0).await })
    };
    wait_for("the job is seen", SOON, || async {
        let job = domains.domain_get_job_info(counting.guest.clone()).await.unwrap();
        if job.data_total_bytes > 0 { Ok(()) } else { Err(format!("{job:?}")) }
    })
    .await;
    domains.domain_destroy_flags(counting.guest.clone(), 0).await.unwrap();
    assert!(saving.await.unwrap().is_err());
    assert_eq!(counting.state().await, (State::Shutoff as i32, 2), "shut off, destroyed");
    assert!(!counting.is_stored().await);
    assert_eq!(counting.files(), Vec::<String>::new());
    counting.stack.stop().await.unwrap();
}
