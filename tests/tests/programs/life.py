"""What a desktop's program does through libvirt-glib; it fails on the first thing that is not as libvirt has it."""
import os
import sys

import gi

for name in ("LibvirtGLib", "LibvirtGConfig", "LibvirtGObject"):
    gi.require_version(name, "1.0")
from gi.repository import GLib, LibvirtGConfig, LibvirtGLib, LibvirtGObject

LibvirtGLib.init(None)
LibvirtGLib.event_register()
connection = LibvirtGObject.Connection.new(os.environ["LIBVIRT_DEFAULT_URI"])
connection.open(None)
assert connection.get_hypervisor_name() == "QEMU"
assert connection.get_capabilities().get_host().get_cpu().get_arch() == os.uname().machine
connection.fetch_domains(None)
assert connection.get_domains() == []

seen, wanted = [], []


def until(*more):
    """Runs the loop until these signals have come after those before."""
    wanted.extend(more)
    late = []
    deadline = GLib.timeout_add_seconds(30, lambda: late.append(True))
    while seen != wanted and not late:
        GLib.MainContext.default().iteration(True)
    assert seen == wanted, (seen, wanted)
    GLib.source_remove(deadline)


connection.connect("domain-added", lambda _, domain: seen.append("added " + domain.get_name()))
connection.connect("domain-removed", lambda _, domain: seen.append("removed " + domain.get_name()))
config = LibvirtGConfig.Domain.new_from_xml(open(sys.argv[1]).read())
config.set_name("glib")
config.set_vcpus(2)
domain = connection.create_domain(config)
until("added glib")
for signal in ("started", "suspended", "resumed", "stopped"):
    domain.connect(signal, lambda *_, signal=signal: seen.append(signal))
assert domain.get_config(0).get_vcpus() == 2 and domain.get_persistent()
assert domain.get_info().state == LibvirtGObject.DomainState.SHUTOFF

domain.start(0)
# The CPUs run before the start is told of, as with libvirt.
until("resumed", "started")
assert domain.get_info().state == LibvirtGObject.DomainState.RUNNING
assert domain.get_info().memory == 16384 and domain.get_info().nrVirtCpu == 2
disk = next(device for device in domain.get_devices() if isinstance(device, LibvirtGObject.DomainDisk))
assert disk.get_stats().wr_bytes == 0
domain.suspend()
until("suspended")
domain.resume()
until("resumed")
picture = connection.get_stream(0)
assert domain.screenshot(picture, 0, 0) == "image/png"
picture.close(None)
domain.stop(0)
until("stopped")
domain.delete(0)
until("removed glib")
print("content")
