//! A guest's whole life, through broker, confined driver and a real QEMU.

use bulkhead::wire::types::State;
use bulkhead_tests::fixture::{Root, SERIAL_PTY, domain, guest_files, skip, ticker_xml};

#[tokio::test]
async fn a_guest_is_defined_started_suspended_resumed_destroyed_and_undefined() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    std::fs::create_dir_all(root.path()).unwrap();
    let disk = root.path().join("disk.img");
    std::fs::copy(files.join("ticker.img"), &disk).unwrap();
    let defined = domains.domain_define_xml_flags(ticker_xml("web", &disk, SERIAL_PTY), 0).await.unwrap();
    assert_eq!((defined.name.as_str(), defined.id), ("web", -1));

    let started = domains.domain_create_with_flags(defined.clone(), 0).await.unwrap();
    assert!(started.id > 0);
    let state = |domain| {
        let domains = domains.clone();
        async move { domains.domain_get_state(domain, 0).await.unwrap().state }
    };
    assert_eq!(state(defined.clone()).await, State::Running as i32);
    domains.domain_suspend(defined.clone()).await.unwrap();
    assert_eq!(state(defined.clone()).await, State::Paused as i32);
    domains.domain_resume(defined.clone()).await.unwrap();
    let xml = domains.domain_get_xml_desc(defined.clone(), 0).await.unwrap();
    assert!(xml.contains("<alias name='serial0'/>") && xml.contains(" id='"), "{xml}");

    domains.domain_destroy_flags(defined.clone(), 0).await.unwrap();
    assert_eq!(state(defined.clone()).await, State::Shutoff as i32);
    assert!(root.helpers_gone());
    domains.domain_undefine_flags(defined, 0).await.unwrap();
    assert!(domain(&stack, "web").await.is_err());
    stack.stop().await.unwrap();
}
