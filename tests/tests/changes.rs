//! What clients change about a domain holds: in its definition, in the guest that runs, over the death of the driver.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, domain, guest_files, libexec, skip, wait_for};
use bulkhead_wire::error::Code;
use bulkhead_wire::types::{ByteString, DomainRef, Parameter, ParameterValue};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const LIVE: u32 = 1;
const CONFIG: u32 = 2;
const INACTIVE: u32 = 2;

fn xml(root: &Root) -> String {
    format!(
        "<domain type='qemu'><name>web</name><memory unit='MiB'>32</memory><vcpu current='1'>2</vcpu>\
         <iothreads>1</iothreads><os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='hda' bus='ide'/></disk><memballoon model='virtio'/></devices></domain>",
        root.path().join("disk.img").display()
    )
}

/// A stack with one domain that is defined.
async fn begin() -> Option<(Root, Connection, DomainRef)> {
    let Some(files) = guest_files() else {
        skip("no guest files; tools/guest/build makes them");
        return None;
    };
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).open().await.unwrap();
    std::fs::copy(files.join("ticker.img"), root.path().join("disk.img")).unwrap();
    let defined = stack.domains().domain_define_xml_flags(xml(&root), 0).await.unwrap();
    Some((root, stack, defined))
}

async fn description(stack: &Connection, guest: &DomainRef, flags: u32) -> String {
    stack.domains().domain_get_xml_desc(guest.clone(), flags).await.unwrap()
}

#[tokio::test]
async fn a_definition_is_changed_piece_by_piece() {
    let Some((root, stack, web)) = begin().await else { return };
    let domains = stack.domains();
    let set = |kind: i32, text: Option<&str>, flags: u32| {
        domains.domain_set_metadata(
            web.clone(),
            kind,
            text.map(str::to_owned),
            Some("k".to_owned()),
            Some("http://x/".to_owned()),
            flags,
        )
    };
    set(1, Some("Front door"), CONFIG).await.unwrap();
    set(2, Some("<a b='1'>x</a>"), 0).await.unwrap();
    assert_eq!(set(1, Some("a\nb"), CONFIG).await.unwrap_err().code, Code::INVALID_ARG);
    assert_eq!(set(2, Some("<a"), CONFIG).await.unwrap_err().code, Code::XML_DETAIL);
    assert_eq!(set(0, Some("x"), LIVE).await.unwrap_err().code, Code::OPERATION_INVALID);
    let uri = Some("http://x/".to_owned());
    let element = domains.domain_get_metadata(web.clone(), 2, uri.clone(), 0).await.unwrap();
    assert_eq!(element, "<a b='1'>x</a>");
    let none = domains.domain_get_metadata(web.clone(), 0, None, 0).await.unwrap_err();
    assert_eq!((none.code, none.origin.0), (Code::NO_DOMAIN_METADATA, 20));

    domains.domain_set_vcpus_flags(web.clone(), 2, CONFIG).await.unwrap();
    assert_eq!(domains.domain_get_vcpus_flags(web.clone(), CONFIG).await.unwrap(), 2);
    for (count, flags) in [(3, CONFIG), (0, CONFIG), (4, LIVE | 4)] {
        let refusal = domains.domain_set_vcpus_flags(web.clone(), count, flags).await.unwrap_err();
        assert_eq!(refusal.code, Code::INVALID_ARG, "{count} {flags}: {refusal}");
    }
    domains.domain_set_vcpus_flags(web.clone(), 4, CONFIG | 4).await.unwrap();
    domains.domain_set_max_memory(web.clone(), 65536).await.unwrap();
    domains.domain_set_memory_flags(web.clone(), 49152, CONFIG).await.unwrap();
    let refusal = domains.domain_set_memory_flags(web.clone(), 1 << 30, CONFIG).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG, "{refusal}");
    domains.domain_pin_vcpu_flags(web.clone(), 0, ByteString(vec![1]), CONFIG).await.unwrap();
    let refusal =
        domains.domain_pin_vcpu_flags(web.clone(), 9, ByteString(vec![1]), CONFIG).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG, "{refusal}");
    let pins = domains.domain_get_vcpu_pin_info(web.clone(), 4, 1, CONFIG).await.unwrap();
    assert_eq!((pins.count, pins.maps.0[0]), (2, 1));
    let shares = vec![Parameter::new("cpu_shares", 100_u64), Parameter::new("vcpu_quota", -1_i64)];
    domains.domain_set_scheduler_parameters_flags(web.clone(), shares, CONFIG).await.unwrap();
    let shares = domains.domain_get_scheduler_parameters_flags(web.clone(), 9, CONFIG).await.unwrap();
    assert_eq!(shares[0], Parameter::new("cpu_shares", 100_u64));
    let wrong = vec![Parameter::new("cpu_shares", "many")];
    let refusal =
        domains.domain_set_scheduler_parameters_flags(web.clone(), wrong, CONFIG).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG, "{refusal}");
    let wrong = vec![Parameter::new("cpu_sharesx", 1_u64)];
    let refusal =
        domains.domain_set_scheduler_parameters_flags(web.clone(), wrong, CONFIG).await.unwrap_err();
    assert_eq!(refusal.code, Code::ARGUMENT_UNSUPPORTED, "{refusal}");
    let limits = vec![Parameter::new("hard_limit", 1_000_000_u64)];
    domains.domain_set_memory_parameters(web.clone(), limits, CONFIG).await.unwrap();
    let counters = domains.domain_get_perf_events(web.clone(), 0).await.unwrap();
    assert_eq!(counters.len(), 22, "as many as libvirt tells of: {counters:?}");
    let limits = domains.domain_get_memory_parameters(web.clone(), 3, CONFIG).await.unwrap();
    assert_eq!(limits.parameters[0].value, ParameterValue::UnsignedLong(1_000_000));
    assert_eq!(limits.parameters[1].value, ParameterValue::UnsignedLong(9_007_199_254_740_991));
    let weights = vec![Parameter::new("weight", 500_u32)];
    domains.domain_set_blkio_parameters(web.clone(), weights, CONFIG).await.unwrap();
    let nodes = vec![Parameter::new("numa_nodeset", "0")];
    domains.domain_set_numa_parameters(web.clone(), nodes, CONFIG).await.unwrap();
    let tune = vec![Parameter::new("total_bytes_sec", 1_000_000_u64)];
    domains.domain_set_block_io_tune(web.clone(), "hda".to_owned(), tune, CONFIG).await.unwrap();
    domains.domain_add_iothread(web.clone(), 3, CONFIG).await.unwrap();
    assert_eq!(
        domains.domain_add_iothread(web.clone(), 3, CONFIG).await.unwrap_err().code,
        Code::INVALID_ARG
    );
    assert_eq!(
        domains.domain_del_iothread(web.clone(), 7, CONFIG).await.unwrap_err().code,
        Code::INVALID_ARG
    );

    // As libvirt writes it, and as it is read again from the disk.
    let text = description(&stack, &web, 0).await;
    for expected in [
        "<title>Front door</title>\n",
        "  <metadata>\n    <k:a xmlns:k='http://x/' b='1'>x</k:a>\n  </metadata>\n",
        "<memory unit='KiB'>65536</memory>\n  <currentMemory unit='KiB'>49152</currentMemory>\n",
        "<vcpu placement='static' current='2'>4</vcpu>\n  <iothreads>2</iothreads>\n  <iothreadids>\n    \
         <iothread id='1'/>\n    <iothread id='3'/>\n",
        "<cputune>\n    <shares>100</shares>\n    <quota>-1</quota>\n    <vcpupin vcpu='0' cpuset='0'/>\n",
        "<hard_limit unit='KiB'>1000000</hard_limit>",
        "<weight>500</weight>",
        "<memory mode='strict' nodeset='0'/>",
        "<total_bytes_sec>1000000</total_bytes_sec>",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    let on_disk = std::fs::read_to_string(root.path().join("etc/qemu/web.xml")).unwrap();
    assert_eq!(on_disk, text);
    assert_eq!(domains.domain_get_os_type(web.clone()).await.unwrap(), "hvm");

    // Another name: its files go with it, and the old name is free.
    domains.domain_set_autostart(web.clone(), 1).await.unwrap();
    let refusal = domains.domain_rename(web.clone(), Some("a/b".to_owned()), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::XML_ERROR, "{refusal}");
    let refusal = domains.domain_rename(web.clone(), Some("web".to_owned()), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::OPERATION_INVALID, "{refusal}");
    domains.domain_rename(web.clone(), Some("shop".to_owned()), 0).await.unwrap();
    assert!(domain(&stack, "web").await.is_err());
    let shop = domain(&stack, "shop").await.unwrap();
    assert_eq!((shop.uuid, shop.name.as_str()), (web.uuid, "shop"));
    for (old, new) in [
        ("etc/qemu/web.xml", "etc/qemu/shop.xml"),
        ("etc/qemu/autostart/web.xml", "etc/qemu/autostart/shop.xml"),
    ] {
        assert!(!root.path().join(old).exists() && root.path().join(new).exists(), "{new}");
    }
    let other = xml(&root);
    domains.domain_define_xml_flags(other, 0).await.unwrap();
    let refusal = domains.domain_rename(shop, Some("web".to_owned()), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::OPERATION_INVALID, "{refusal}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_guest_that_runs_is_changed_and_its_next_driver_knows() {
    let Some((root, stack, web)) = begin().await else { return };
    let domains = stack.domains();
    let web = domains.domain_create_with_flags(web, 0).await.unwrap();
    domains.domain_set_metadata(web.clone(), 0, Some("Now".to_owned()), None, None, LIVE).await.unwrap();
    domains.domain_set_vcpus_flags(web.clone(), 2, LIVE).await.unwrap();
    let vcpus = domains.domain_get_vcpus(web.clone(), 8, 1).await.unwrap();
    assert_eq!(vcpus.info.len(), 2, "QEMU has both: {vcpus:?}");
    assert_eq!(domains.domain_get_vcpus_flags(web.clone(), LIVE).await.unwrap(), 2);
    assert_eq!(domains.domain_get_vcpus_flags(web.clone(), CONFIG).await.unwrap(), 1);
    domains.domain_add_iothread(web.clone(), 5, LIVE | CONFIG).await.unwrap();
    let threads = domains.domain_get_iothread_info(web.clone(), LIVE).await.unwrap();
    assert_eq!(threads.threads.iter().map(|thread| thread.id).collect::<Vec<_>>(), [1, 5]);
    let tune = vec![Parameter::new("total_iops_sec", 5_000_u64)];
    domains.domain_set_block_io_tune(web.clone(), "hda".to_owned(), tune, LIVE).await.unwrap();
    let asked = r#"{"execute":"query-block"}"#.to_owned();
    let told = domains.domain_monitor_command(web.clone(), asked, 0).await.unwrap();
    assert!(told.contains("\"iops\":5000"), "{told}");
    let refused =
        domains.domain_monitor_command(web.clone(), r#"{"execute":"nonsense"}"#.to_owned(), 0).await;
    assert!(refused.unwrap().contains("CommandNotFound"));
    let status = domains.domain_monitor_command(web.clone(), "info status".to_owned(), 1).await.unwrap();
    assert!(status.contains("running"), "{status}");

    // The balloon of a guest without a driver does not move; what is asked for is checked all the same.
    domains.domain_set_memory(web.clone(), 16384).await.unwrap();
    assert_eq!(domains.domain_set_memory(web.clone(), 1 << 30).await.unwrap_err().code, Code::INVALID_ARG);
    let refusal = domains.domain_set_max_memory(web.clone(), 65536).await.unwrap_err();
    assert_eq!(refusal.code, Code::OPERATION_INVALID, "{refusal}");
    // Without a cgroup nothing that takes one is said to hold.
    let shares = vec![Parameter::new("cpu_shares", 100_u64)];
    if let Err(refusal) = domains.domain_set_scheduler_parameters_flags(web.clone(), shares, LIVE).await {
        assert_eq!(refusal.code, Code::OPERATION_INVALID, "{refusal}");
        assert!(refusal.message.contains("cgroup"), "{refusal}");
    }

    domains.domain_send_key(web.clone(), 0, 10, vec![29, 56, 111], 0).await.unwrap();
    assert_eq!(
        domains.domain_send_key(web.clone(), 0, 0, vec![65535], 0).await.unwrap_err().code,
        Code::INTERNAL
    );
    domains.domain_inject_nmi(web.clone(), 0).await.unwrap();
    // The boot sector is where every PC has it.
    let sector = std::fs::read(root.path().join("disk.img")).unwrap();
    wait_for("the boot sector is in memory", SOON, || async {
        let peeked = domains.domain_memory_peek(web.clone(), 0x7c00, 5000, 2).await.unwrap();
        assert_eq!(peeked.0.len(), 5000);
        if peeked.0[..64] == sector[..64] { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let grown = domains.domain_block_resize(web.clone(), "hda".to_owned(), 64, 0).await;
    grown.unwrap();
    assert_eq!(std::fs::metadata(root.path().join("disk.img")).unwrap().len(), 64 << 10);
    assert!(domains.domain_get_disk_errors(web.clone(), 8, 0).await.unwrap().errors.is_empty());
    domains.domain_start_dirty_rate_calc(web.clone(), 1, 0).await.unwrap();

    // The next driver finds the guest as it was changed.
    let before = description(&stack, &web, 0).await;
    let pid = bulkhead_tests::fixture::driver(&stack, "qemu").await.unwrap().0;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("the next incarnation", SOON, || async {
        let (_, incarnation) = bulkhead_tests::fixture::driver(&stack, "qemu").await?;
        if incarnation > 1 { Ok(()) } else { Err("the first".to_owned()) }
    })
    .await;
    let after = description(&stack, &web, 0).await;
    assert_eq!(after, before);
    for expected in [
        "<description>Now</description>",
        "<vcpu placement='static'>2</vcpu>",
        "<iothread id='5'/>",
        "<total_iops_sec>5000<",
    ] {
        assert!(after.contains(expected), "{expected} is not in {after}");
    }
    let defined = description(&stack, &web, INACTIVE).await;
    assert!(defined.contains("<iothread id='5'/>") && !defined.contains("Now"), "{defined}");
    domains.domain_destroy_flags(web, 0).await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn the_host_tells_of_its_processors_and_memory() {
    let Some((_root, stack, _web)) = begin().await else { return };
    let domains = stack.domains();
    assert_eq!(domains.node_get_cpu_stats(-1, 0, 0).await.unwrap().count, 4);
    let all = domains.node_get_cpu_stats(-1, 4, 0).await.unwrap();
    assert_eq!(
        all.parameters.iter().map(|stat| stat.field.as_str()).collect::<Vec<_>>(),
        ["kernel", "user", "idle", "iowait"]
    );
    assert!(all.parameters[2].value > 0);
    assert_eq!(domains.node_get_cpu_stats(99_999, 4, 0).await.unwrap_err().code, Code::INVALID_ARG);
    let memory = domains.node_get_memory_stats(4, -1, 0).await.unwrap();
    let free = domains.node_get_free_memory().await.unwrap();
    assert!(free > 0 && free / 1024 <= memory.parameters[0].value);
    assert_eq!(domains.node_get_memory_stats(2, 0, 0).await.unwrap().parameters.len(), 2);
    assert_eq!(domains.node_get_memory_stats(2, 99, 0).await.unwrap_err().code, Code::INVALID_ARG);
    assert!(!domains.node_get_cells_free_memory(0, 4).await.unwrap().is_empty());
    let map = domains.node_get_cpu_map(1, 1, 0).await.unwrap();
    assert_eq!(map.map.0.iter().map(|byte| byte.count_ones()).sum::<u32>(), map.online);
    assert!(domains.node_get_free_pages(vec![4], 0, 1, 0).await.unwrap()[0] > 0);
    assert_eq!(domains.node_get_free_pages(vec![5], 0, 1, 0).await.unwrap_err().code, Code::OPERATION_FAILED);
    let models = domains.connect_get_cpu_model_names("x86_64".to_owned(), 1, 0).await.unwrap();
    assert!(
        models.names.iter().any(|name| name == "qemu64") && !models.names.iter().any(|name| name == "host")
    );
    let refusal = domains.connect_get_cpu_model_names("foo".to_owned(), 1, 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG, "{refusal}");
    stack.stop().await.unwrap();
}
