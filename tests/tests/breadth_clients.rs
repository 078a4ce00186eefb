//! What scripts set and ask of hosts and guests, through libvirt's own module for Python.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead::Connection;
use bulkhead_tests::fixture::{Root, guest_files, libexec, skip};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(55);
/// Where Debian puts the interpreter for which it has libvirt's module.
const PYTHON: &str = "/usr/bin/python3";

/// What every script begins with.
const BEGIN: &str = r#"
import ctypes, libvirt, os, sys, time
import xml.etree.ElementTree as ET
libvirt.registerErrorHandler(lambda *a: None, None)
conn = libvirt.open(None)
root, files = sys.argv[1:3]
LIVE, CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
def fails(code, call, *arguments):
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        assert error.get_error_code() == code, (error.get_error_code(), str(error))
        return str(error)
    raise AssertionError('no error %d' % code)
def define(name, extra='', devices='', vcpu='<vcpu>1</vcpu>'):
    disk = os.path.join(root, name + '.img')
    with open(os.path.join(files, 'ticker.img'), 'rb') as image, open(disk, 'wb') as copy:
        copy.write(image.read().ljust(1 << 20, b'\0'))
    return conn.defineXML("""<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory>%s%s
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
%s</devices></domain>""" % (name, vcpu, extra, disk, devices))
def lines(xml, *words):
    return [line.strip() for line in xml.splitlines() if any(word in line for word in words)]
"#;

async fn script(body: &str) {
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    let probe = Command::new(PYTHON).args(["-c", "import libvirt"]).output().await;
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip("no libvirt for python; python3-libvirt has it");
    }
    let root = Root::new();
    let stack = Connection::builder(&root.uri()).libexec(libexec()).gateway(true).open().await.unwrap();
    let socket = root.path().join("run/libvirt-sock");
    let uri = format!("qemu+unix:///session?socket={}", socket.display());
    let mut command = Command::new(PYTHON);
    command.args(["-c", &format!("{BEGIN}{body}")]).arg(root.path()).arg(&files);
    command.env("LIBVIRT_DEFAULT_URI", uri).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(WITHIN, command.output()).await.unwrap().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn cpus_are_compared_and_what_they_share_is_found() {
    script(r#"
caps = ET.fromstring(conn.getCapabilities())
host = ET.tostring(caps.find('host/cpu'), encoding='unicode')
assert conn.compareCPU(host, 0) == 1, 'the host is what it is'
named = "<cpu mode='custom' match='exact'><model fallback='forbid'>%s</model>%s</cpu>"
assert conn.compareCPU(named % ('486', ''), 0) == 2
assert conn.compareCPU("<cpu><arch>ppc64</arch><model>POWER8</model></cpu>", 0) == 0
more = named % ('486', "<feature policy='forbid' name='sse2'/>")
assert conn.compareCPU(more, 0) == 0
assert 'sse2' in fails(91, conn.compareCPU, more, 1)
fails(1, conn.compareCPU, named % ('nosuch', ''), 0)
fails(27, conn.compareCPU, '<foo/>', 0)
fails(35, conn.compareCPU, '<cpu', 0)
fails(8, conn.compareCPU, host, 64)
# What an emulator can give: all of a small model, and nothing that it does not emulate.
assert conn.compareHypervisorCPU(None, None, None, 'qemu', named % ('qemu64', ''), 0) == 2
absent = named % ('qemu64', "<feature policy='require' name='avx512f'/>")
assert conn.compareHypervisorCPU(None, None, None, 'qemu', absent, 0) == 0
fails(91, conn.compareHypervisorCPU, None, None, None, 'qemu', absent, 1)
fails(8, conn.compareHypervisorCPU, '/usr/bin/nothing', None, None, 'qemu', absent, 0)
plain = "<cpu><arch>x86_64</arch><model>%s</model></cpu>"
def baseline(models, flags=0):
    return ET.fromstring(conn.baselineCPU([plain % model for model in models], flags))
assert baseline(['Nehalem', 'Westmere']).findtext('model') == 'Nehalem'
assert baseline(['Haswell', 'SandyBridge']).findtext('model') == 'SandyBridge'
assert baseline(['qemu64']).find('feature') is None
expanded = [f.get('name') for f in baseline(['Nehalem', 'Westmere'], 1).findall('feature')]
assert 'sse4.2' in expanded and 'aes' not in expanded, expanded
given = ET.fromstring(conn.baselineHypervisorCPU(None, None, None, 'qemu', [plain % 'Nehalem', plain % 'Westmere'], 0))
assert given.findtext('model') == 'Nehalem'
fails(1, conn.baselineCPU, [plain % 'nosuch'], 0)
fails(8, conn.baselineHypervisorCPU, None, None, None, 'qemu', ["<cpu mode='host-model'/>"], 0)
fails(67, conn.baselineCPU, ["<cpu mode='host-model'/>"], 0)
vendors = ["<cpu><arch>x86_64</arch><model>Nehalem</model><vendor>%s</vendor></cpu>" % v for v in ('Intel', 'AMD')]
fails(9, conn.baselineCPU, vendors, 0)
"#)
    .await;
}

#[tokio::test]
async fn the_host_tells_of_itself_and_takes_settings() {
    script(
        r#"
try:
    assert ET.fromstring(conn.getSysinfo(0)).get('type') == 'smbios'
except libvirt.libvirtError as error:
    assert error.get_error_code() == 67, error
fails(8, conn.getSysinfo, 1)
fails(8, conn.suspendForDuration, 99, 60, 0)
fails(74, conn.suspendForDuration, 0, 60, 0)
fails(84, conn.getSEVInfo, 0)
if os.path.exists('/sys/kernel/mm/ksm'):
    known = conn.getMemoryParameters(0)
    assert known['shm_pages_to_scan'] > 0 and 'shm_pages_shared' in known, known
    fails(74, conn.setMemoryParameters, {'shm_pages_shared': 1}, 0)
    if os.getuid() == 0:
        conn.setMemoryParameters({'shm_pages_to_scan': known['shm_pages_to_scan']}, 0)
fails(84, conn.allocPages, {4: 1}, 0, 1, 0)
fails(9, conn.allocPages, {17: 1}, 0, 1, 0)
fails(9, conn.allocPages, {2048: 0}, 9, 1, 0)
if os.path.exists('/sys/devices/system/node/node0/hugepages/hugepages-2048kB'):
    assert conn.allocPages({2048: 0}, 0, 1, 0) == 1
"#,
    )
    .await;
}

#[tokio::test]
async fn limits_hold_while_a_guest_runs_and_are_kept_in_its_definition() {
    script(
        r#"
dom = define('web', '<iothreads>2</iothreads>', vcpu="<vcpu current='1'>3</vcpu>")
dom.setSchedulerParametersFlags({'cpu_shares': 600, 'vcpu_quota': 50000, 'global_period': 200000}, CONFIG)
assert dom.schedulerParametersFlags(CONFIG)['cpu_shares'] == 600
fails(8, dom.setSchedulerParametersFlags, {'vcpu_quota': 5}, CONFIG)
fails(55, dom.setSchedulerParametersFlags, {'cpu_shares': 5}, LIVE)
dom.setMemoryParameters({'soft_limit': 400000}, CONFIG)
assert dom.memoryParameters(CONFIG)['soft_limit'] == 400000
fails(8, dom.setMemoryParameters, {'hard_limit': 900000, 'swap_hard_limit': 800000}, CONFIG)
dom.pinEmulator((True,), CONFIG)
dom.pinIOThread(2, (True,), CONFIG)
fails(8, dom.pinIOThread, 5, (True,), CONFIG)
try:
    dom.create()
except libvirt.libvirtError as error:
    # Where nobody may make cgroups the start says so; the rest is about those that hold.
    assert os.getuid() != 0 or 'cgroup' in str(error), error
    print('skipped: no cgroups here:', error)
    sys.exit(0)
now = dom.schedulerParametersFlags(LIVE)
assert now['cpu_shares'] == 600 and now['vcpu_quota'] == 50000 and now['global_period'] == 200000, now
assert now['emulator_quota'] == -1, now
def groups(pid):
    found = {}
    with open('/proc/%d/cgroup' % pid) as text:
        for line in text:
            number, controllers, path = line.strip().split(':', 2)
            found.update({name: path for name in controllers.split(',')})
    return found
pid = next(int(p) for p in os.listdir('/proc') if p.isdigit()
           and dom.UUIDString().encode() in open('/proc/%s/cmdline' % p, 'rb').read().replace(b'\0', b' ')
           and b'qemu-system' in open('/proc/%s/cmdline' % p, 'rb').read().split(b'\0')[0])
assert any('bulkhead-' + dom.UUIDString() in path for path in groups(pid).values()), groups(pid)
dom.setSchedulerParameters({'cpu_shares': 700})
assert dom.schedulerParameters()['cpu_shares'] == 700
assert dom.schedulerParametersFlags(CONFIG)['cpu_shares'] == 600
dom.setSchedulerParameters({'emulator_quota': 40000})
assert dom.schedulerParameters()['emulator_quota'] == 40000
assert dom.memoryParameters(LIVE)['soft_limit'] == 400000
dom.setMemoryParameters({'hard_limit': 2048000}, LIVE)
assert dom.memoryParameters(LIVE)['hard_limit'] == 2048000
assert dom.memoryParameters(CONFIG)['hard_limit'] > 1 << 50
assert lines(dom.XMLDesc(0), 'hard_limit') and not lines(dom.XMLDesc(2), 'hard_limit')
# Threads are where they were said to be.
def allowed(thread):
    with open('/proc/%d/task/%d/status' % (pid, thread)) as text:
        return next(line.split()[1] for line in text if line.startswith('Cpus_allowed_list'))
assert allowed(pid) == '0', allowed(pid)
assert dict(dom.ioThreadInfo(LIVE))[2][0] and not any(dict(dom.ioThreadInfo(LIVE))[2][1:])
cpus = len(os.sched_getaffinity(0))
if cpus > 1:
    dom.pinVcpu(0, (False, True))
    assert dom.vcpuPinInfo(LIVE)[0][:2] == (False, True)
    assert any(allowed(int(t)) == '1' for t in os.listdir('/proc/%d/task' % pid))
fails(8, dom.pinVcpu, 7, (True,))
fails(55, dom.setNumaParameters, {'numa_mode': 1}, LIVE)
dom.destroy()
left = [path for path, folders, _ in os.walk('/sys/fs/cgroup') if 'bulkhead-' + dom.UUIDString() in path]
end = time.time() + 10
while left and time.time() < end:
    left = [path for path in left if os.path.isdir(path)]
assert not left, left
"#,
    )
    .await;
}

#[tokio::test]
async fn a_machine_changes_while_it_runs_and_in_its_definition() {
    script(r#"
dom = define('web', '<iothreads>1</iothreads>', vcpu="<vcpu current='1'>4</vcpu>",
             devices="<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"
                     "<interface type='ethernet'><mac address='52:54:00:00:00:02'/></interface>")
# CPUs, one by one.
fails(8, dom.setVcpu, '0', 0, CONFIG)
fails(8, dom.setVcpu, '9', 1, CONFIG)
fails(8, dom.setVcpu, 'x', 1, CONFIG)
fails(8, dom.setVcpu, '1', 9, CONFIG)
dom.setVcpu('1-2', 1, CONFIG)
assert dom.vcpusFlags(CONFIG) == 3
assert "<vcpu id='3' enabled='no' hotpluggable='yes'/>" in lines(dom.XMLDesc(2), '<vcpu ')
dom.setVcpusFlags(2, CONFIG)
assert dom.vcpusFlags(CONFIG) == 2
# Interfaces.
mac = '52:54:00:00:00:02'
assert dom.interfaceParameters(mac, CONFIG)['inbound.average'] == 0
dom.setInterfaceParameters(mac, {'inbound.average': 1000, 'inbound.peak': 2000}, CONFIG)
assert dom.interfaceParameters(mac, CONFIG)['inbound.peak'] == 2000
fails(67, dom.setInterfaceParameters, '52:54:00:00:00:01', {'inbound.average': 1000}, CONFIG)
fails(8, dom.interfaceParameters, 'nope', 0)
dom.setInterfaceParameters(mac, {'inbound.average': 0}, CONFIG)
assert not lines(dom.XMLDesc(2), 'bandwidth')
# Counters, and what follows the end.
dom.setPerfEvents({'cpu_cycles': True}, CONFIG)
assert dom.perfEvents(CONFIG)['cpu_cycles']
dom.setPerfEvents({'cpu_cycles': False}, CONFIG)
dom.setLifecycleAction(2, 4, CONFIG)
assert '<on_crash>coredump-destroy</on_crash>' in lines(dom.XMLDesc(2), 'on_crash')
fails(67, dom.setLifecycleAction, 1, 4, CONFIG)
fails(8, dom.setLifecycleAction, 5, 0, CONFIG)
fails(8, dom.setLifecycleAction, 0, 9, CONFIG)
dom.setIOThreadParams(1, {'poll_max_ns': 1}, CONFIG)
assert lines(dom.XMLDesc(2), "poll max='1'")
# Disks.
assert dom.blockPeek('vda', 510, 2, 0) == b'\x55\xaa'
fails(8, dom.blockPeek, 'vda', 1 << 20, 16, 0)
fails(8, dom.blockPeek, 'nope', 0, 16, 0)
fails(55, dom.setBlockThreshold, 'vda', 1 << 10, 0)
fails(55, dom.startDirtyRateCalc, 1, 0)
dom.undefine()

dom = define('run', '<iothreads>1</iothreads>', vcpu="<vcpu current='1'>4</vcpu>")
dom.create()
dom.setVcpu('2', 1, LIVE)
assert dom.vcpusFlags(LIVE) == 2
fails(8, dom.setVcpu, '0', 0, LIVE)
dom.setBlockThreshold('vda', 1 << 10, 0)
assert conn.domainListGetStats([dom], libvirt.VIR_DOMAIN_STATS_BLOCK)[0][1]['block.0.threshold'] == 1 << 10
fails(8, dom.setBlockThreshold, 'nope', 1 << 10, 0)
dom.addIOThread(7, LIVE)
dom.setIOThreadParams(7, {'poll_max_ns': 32768}, LIVE)
fails(8, dom.setIOThreadParams, 9, {'poll_max_ns': 1}, LIVE)
dom.setLifecycleAction(1, 0, LIVE)
assert '<on_reboot>destroy</on_reboot>' in lines(dom.XMLDesc(0), 'on_reboot')
# Nobody is there to be asked inside.
for call, arguments in ((dom.setGuestVcpus, ('0', 1, 0)), (dom.authorizedSSHKeysGet, ('root', 0)),
                        (dom.authorizedSSHKeysSet, ('root', ['key'], 0)), (dom.pMSuspendForDuration, (0, 0, 0))):
    fails(74, call, *arguments)
assert dom.agentSetResponseTimeout(5, 0) == 0
fails(8, dom.agentSetResponseTimeout, -3, 0)
fails(8, dom.pMSuspendForDuration, 9, 0, 0)
fails(74, dom.pMSuspendForDuration, 0, 5, 0)
fails(1, dom.pMWakeup, 0)
fails(84, dom.setLaunchSecurityState, {'sev-secret': 'x', 'sev-secret-header': 'y'}, 0)
fails(55, dom.abortJobFlags, 0)
dom.destroy()
"#)
    .await;
}
