//! What guests have done is told as libvirt's clients expect it, and a guest that is stuck holds up nobody.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{Root, guest_files, skip, wait_for};
use bulkhead_wire::error::Code;
use bulkhead_wire::types::{DomainStats, ParameterValue};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

/// The values of one domain by name.
fn values(stats: &DomainStats) -> BTreeMap<&str, &ParameterValue> {
    stats.parameters.iter().map(|parameter| (parameter.field.as_str(), &parameter.value)).collect()
}

fn number(values: &BTreeMap<&str, &ParameterValue>, name: &str) -> u64 {
    match values.get(name) {
        Some(ParameterValue::UnsignedLong(value)) => *value,
        Some(ParameterValue::UnsignedInt(value)) => u64::from(*value),
        other => panic!("{name}: {other:?}"),
    }
}

/// A guest with one disk of two layers, a drive without a medium, a balloon, an I/O thread and room for a second CPU.
fn xml(name: &str, folder: &std::path::Path) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu current='1'>2</vcpu>\
         <iothreads>1</iothreads><os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{0}/top.qcow2'/>\
         <target dev='hda' bus='ide'/></disk>\
         <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>\
         <interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <memballoon model='virtio'/></devices></domain>",
        folder.display()
    )
}

fn image(arguments: &[&str]) {
    assert!(Command::new("qemu-img").args(arguments).arg("-q").status().unwrap().success());
}

#[tokio::test]
async fn statistics_are_libvirts_and_a_stuck_guest_holds_up_nobody() {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let path = |name: &str| root.path().join(name).display().to_string();
    std::fs::copy(files.join("ticker.img"), path("base.img")).unwrap();
    let base = path("base.img");
    image(&["create", "-f", "qcow2", "-b", &base, "-F", "raw", &path("top.qcow2"), "1M"]);
    let domains = stack.domains();
    let defined = domains.domain_define_xml_flags(xml("web", root.path()), 0).await.unwrap();
    domains.domain_define_xml_flags(xml("off", root.path()).replace("00:01", "00:02"), 0).await.unwrap();

    // Not running: what needs a guest says so, and what is on disk is read from there.
    let refusal = domains.domain_memory_stats(defined.clone(), 16, 0).await.unwrap_err();
    assert_eq!((refusal.code, refusal.origin.0), (Code::OPERATION_INVALID, 20), "{refusal}");
    let info = domains.domain_get_block_info(defined.clone(), "hda".to_owned(), 0).await.unwrap();
    assert_eq!(info.capacity, 1 << 20);
    assert!(info.physical > 0 && info.physical < 1 << 20, "{info:?}");

    let guest = domains.domain_create_with_flags(defined, 0).await.unwrap();
    let all = wait_for("the guest has read its disk", SOON, || async {
        let all = domains.connect_get_all_domain_stats(Vec::new(), 0, 0).await.unwrap();
        let web = all.iter().find(|stats| stats.domain.name == "web").unwrap();
        if number(&values(web), "block.0.rd.bytes") >= 512 { Ok(all) } else { Err(format!("{web:?}")) }
    })
    .await;
    assert_eq!(all.len(), 2);
    let web = values(all.iter().find(|stats| stats.domain.name == "web").unwrap());
    for (name, value) in [
        ("state.state", ParameterValue::Int(1)),
        ("state.reason", ParameterValue::Int(1)),
        ("balloon.current", ParameterValue::UnsignedLong(32 << 10)),
        ("balloon.maximum", ParameterValue::UnsignedLong(32 << 10)),
        ("vcpu.current", ParameterValue::UnsignedInt(1)),
        ("vcpu.maximum", ParameterValue::UnsignedInt(2)),
        ("vcpu.0.state", ParameterValue::Int(1)),
        ("net.count", ParameterValue::UnsignedInt(1)),
        ("block.count", ParameterValue::UnsignedInt(2)),
        ("block.0.name", "hda".into()),
        ("block.0.path", path("top.qcow2").into()),
        ("block.0.capacity", ParameterValue::UnsignedLong(1 << 20)),
        ("block.1.name", "hdc".into()),
        ("iothread.count", ParameterValue::UnsignedInt(1)),
        ("dirtyrate.calc_status", ParameterValue::Int(0)),
        ("dirtyrate.calc_mode", "page-sampling".into()),
    ] {
        assert_eq!(web.get(name), Some(&&value), "{name}: {web:#?}");
    }
    assert!(number(&web, "balloon.rss") > 1024 && number(&web, "iothread.1.poll-max-ns") > 0);
    assert!(!web.contains_key("block.1.path"));
    let off = values(all.iter().find(|stats| stats.domain.name == "off").unwrap());
    assert_eq!(off.get("state.state"), Some(&&ParameterValue::Int(5)));
    assert_eq!(off.get("block.0.name"), Some(&&"hda".into()));

    // Only what was asked for, of those that were asked for, with the layers below.
    let some = domains.connect_get_all_domain_stats(vec![guest.clone()], 32, 1 << 30).await.unwrap();
    let some = values(&some[0]);
    assert_eq!(some.get("block.count"), Some(&&ParameterValue::UnsignedInt(3)), "{some:#?}");
    assert_eq!(some.get("block.1.path"), Some(&&path("base.img").into()), "{some:#?}");
    assert_eq!(number(&some, "block.1.capacity"), 512, "{some:#?}");
    assert!(!some.contains_key("state.state"));
    assert_eq!(domains.connect_get_all_domain_stats(Vec::new(), 1, 1).await.unwrap().len(), 1, "active ones");
    let refusal = domains.connect_get_all_domain_stats(Vec::new(), 1 << 20, 1 << 31).await.unwrap_err();
    assert_eq!(refusal.code, Code::ARGUMENT_UNSUPPORTED, "{refusal}");

    let whole = domains.domain_block_stats(guest.clone(), String::new()).await.unwrap();
    let disk = domains.domain_block_stats(guest.clone(), path("top.qcow2")).await.unwrap();
    assert!(disk.read_bytes >= 512 && whole.read_bytes >= disk.read_bytes, "{disk:?} {whole:?}");
    assert_eq!(disk.errors, -1);
    let refusal = domains.domain_block_stats(guest.clone(), "vdz".to_owned()).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG, "{refusal}");
    let counted = domains.domain_block_stats_flags(guest.clone(), "hda".to_owned(), 0, 4).await.unwrap();
    assert_eq!((counted.parameters.len(), counted.count), (0, 8));
    let counted = domains.domain_block_stats_flags(guest.clone(), "hda".to_owned(), 8, 4).await.unwrap();
    assert_eq!((counted.parameters.len(), counted.count), (8, 0));
    let info = domains.domain_get_block_info(guest.clone(), "hda".to_owned(), 0).await.unwrap();
    assert_eq!(info.capacity, 1 << 20);
    assert!(info.physical >= 512 && info.allocation >= 512, "{info:?}");
    let refusal = domains.domain_get_block_info(guest.clone(), "hdc".to_owned(), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG, "{refusal}");

    let memory = domains.domain_memory_stats(guest.clone(), 16, 0).await.unwrap();
    assert_eq!((memory[0].tag, memory[0].value), (6, 32 << 10));
    assert!(memory.iter().any(|stat| stat.tag == 7 && stat.value > 1024), "{memory:?}");
    let mac = "52:54:00:00:00:01".to_owned();
    let refusal = domains.domain_interface_stats(guest.clone(), mac).await.unwrap_err();
    assert_eq!((refusal.code, refusal.origin.0), (Code::INTERNAL, 0), "{refusal}");
    let refusal = domains.domain_interface_stats(guest.clone(), "vnet9".to_owned()).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG, "{refusal}");

    let vcpus = domains.domain_get_vcpus(guest.clone(), 2, 8).await.unwrap();
    assert_eq!((vcpus.info.len(), vcpus.info[0].state, vcpus.maps.0.len()), (1, 1, 8));
    assert_ne!(vcpus.maps.0[0], 0);
    assert_eq!(domains.domain_get_max_vcpus(guest.clone()).await.unwrap(), 2);
    assert_eq!(domains.domain_get_vcpus_flags(guest.clone(), 0).await.unwrap(), 1);
    assert_eq!(domains.domain_get_vcpus_flags(guest.clone(), 6).await.unwrap(), 2);
    assert_eq!(domains.domain_get_max_memory(guest.clone()).await.unwrap(), 32 << 10);
    let total = domains.domain_get_cpu_stats(guest.clone(), 3, -1, 1, 0).await.unwrap();
    assert_eq!((total.parameters.len(), total.count), (3, 3));
    assert_eq!(domains.domain_get_control_info(guest.clone(), 0).await.unwrap().state, 0);
    assert_eq!(domains.domain_get_job_stats(guest.clone(), 0).await.unwrap().kind, 0);
    // Nothing in the guest has opened the agent's channel: told at once, not after a time of waiting.
    let begun = Instant::now();
    let refusal = domains.domain_get_time(guest.clone(), 0).await.unwrap_err();
    assert_eq!(refusal.code, Code::AGENT_UNRESPONSIVE, "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(4));

    // Its QEMU stands still: what is known is told, within a bound.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(root.helpers()[0]).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let all = domains.connect_get_all_domain_stats(Vec::new(), 0, 0).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let web = values(all.iter().find(|stats| stats.domain.name == "web").unwrap());
    assert_eq!(web.get("state.state"), Some(&&ParameterValue::Int(1)));
    assert_eq!(web.get("block.0.name"), Some(&&"hda".into()), "{web:#?}");
    assert!(number(&web, "cpu.time") > 0);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    domains.domain_destroy_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}
