//! Which of libvirt's procedures answer, asked one by one through libvirt's own library by the probe that lies beside the
//! protocol's facts.

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, figure, libexec, skip};
use bulkhead_wire::remote::absent;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

const PYTHON: &str = "/usr/bin/python3";
/// The probe gives each call its time; all of them take seconds.
const WITHIN: Duration = Duration::from_secs(150);
/// The groups that this is about.
const GROUPS: &[&str] = &["hypervisor/host", "hypervisor/domain", "hypervisor (qemu)"];
/// What answers with an error in the probe's scenario and should: stock's answers are errors too, but for those that say so.
const ERRORS: &[(&str, &str)] = &[
    ("domain_block_peek", "its disk is qcow2"),
    ("domain_abort_job", "there is no job"),
    ("domain_abort_job_flags", "there is no job"),
    ("connect_get_sysinfo", "the host's firmware may tell nothing"),
    ("node_suspend_for_duration", "the target does not exist"),
    ("node_get_sev_info", "there are no encrypted guests"),
    ("domain_set_launch_security_state", "the guest is not encrypted"),
    ("domain_graphics_reload", "its display has no TLS"),
    ("domain_pm_wakeup", "the guest does not sleep"),
    // By its agent, which is not there.
    ("domain_get_hostname", "no agent"),
    ("domain_pm_suspend_for_duration", "no agent"),
    ("domain_fstrim", "no agent"),
    ("domain_fsfreeze", "no agent"),
    ("domain_fsthaw", "no agent"),
    ("domain_get_time", "no agent"),
    ("domain_set_time", "no agent"),
    ("domain_get_fsinfo", "no agent"),
    ("domain_set_user_password", "no agent"),
    ("domain_set_guest_vcpus", "no agent"),
    ("domain_get_guest_info", "no agent"),
    ("domain_authorized_ssh_keys_get", "no agent"),
    ("domain_authorized_ssh_keys_set", "no agent"),
    ("qemu_domain_agent_command", "no agent"),
    ("domain_detach_device_alias", "no device has the alias that is tried"),
    // Until there are networks the probe's guest has a user interface.
    ("domain_set_interface_parameters", "a user interface can't be limited"),
    ("domain_interface_stats", "a user interface has no tap"),
    // Where nobody may make cgroups, or none count what is asked about.
    ("domain_get_scheduler_parameters", "the host may have no cgroups for guests"),
    ("domain_set_scheduler_parameters", "the host may have no cgroups for guests"),
    ("node_get_memory_parameters", "the host may not share pages"),
    ("node_set_memory_parameters", "an ordinary user may not set them"),
    ("node_alloc_pages", "an ordinary user may not set them"),
];

fn shared() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("BULKHEAD_SHARED")?);
    folder.join("tools/coverage-probe").is_file().then_some(folder)
}

#[tokio::test]
async fn each_procedure_answers_or_is_one_of_those_that_are_listed() {
    let Some(shared) = shared() else {
        return skip("BULKHEAD_SHARED names no folder with coverage-probe");
    };
    let module = Command::new(PYTHON).args(["-c", "import libvirt, libvirt_qemu"]).output().await;
    if !module.is_ok_and(|output| output.status.success()) {
        return skip("no libvirt for python; python3-libvirt has it");
    }
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).gateway(true).open().await.unwrap();
    let socket = root.path().join("run/libvirt-sock");
    let uri = format!("qemu+unix:///session?socket={}", socket.display());
    let (answers, folder) = (root.path().join("answers.json"), root.path().join("probe"));
    std::fs::create_dir(&folder).unwrap();
    let mut probe = Command::new(PYTHON);
    probe.arg(shared.join("tools/coverage-probe")).args([&uri, "--json"]).arg(&answers);
    probe.arg("--dir").arg(&folder);
    // Guests of KVM hang on some machines that have it.
    probe.env("PROBE_VIRT", "qemu").env("LC_ALL", "C").kill_on_drop(true);
    probe.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(WITHIN, probe.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Nothing hung and no connection was lost.
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let incarnations = stack.status().await.unwrap().drivers.into_iter().map(|driver| driver.incarnation);
    assert!(incarnations.max() <= Some(1), "a driver died: {said}");

    let read =
        |path: &std::path::Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let (answers, facts) = (read(&answers), read(&shared.join("protocol/procedures.json")));
    let (mut wrong, mut well, mut errors, mut absent) = (Vec::new(), 0, 0, 0);
    for procedure in facts["procedures"].as_array().unwrap() {
        let served = ["qemu", "daemon"].iter().any(|who| procedure["implemented_11_3"][who] == "yes");
        if !served || !GROUPS.contains(&procedure["driver"].as_str().unwrap_or_default()) {
            continue;
        }
        let (key, name) = match procedure["program"].as_str() {
            Some("qemu") => (
                format!("qemu/{}", procedure["name"].as_str().unwrap()),
                format!("qemu_{}", procedure["snake_name"].as_str().unwrap()),
            ),
            _ => (
                procedure["name"].as_str().unwrap().to_owned(),
                procedure["snake_name"].as_str().unwrap().to_owned(),
            ),
        };
        let detail = answers["detail"][&key].as_str().unwrap_or_default();
        let listed = absent::reason(&name).is_some();
        match answers["result"][&key].as_str() {
            Some("ok") if !listed => well += 1,
            // The module for Python takes the error for an answer here.
            Some("ok") if name.starts_with("domain_migrate_get_") => absent += 1,
            Some("failed") if ERRORS.iter().any(|(known, _)| *known == name) => errors += 1,
            Some("unsupported") if listed => absent += 1,
            // What the probe did not come to.
            None => {}
            other => wrong.push(format!("{name} is {other:?}: {detail}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{said}");
    figure(&format!(
        "procedures for host, domains and QEMU: {well} answer, {errors} with an error that is due, {absent} are listed as absent"
    ));
    assert!(well >= 145, "only {well} answered");
    stack.stop().await.unwrap();
}
