# Stock clients, told nothing, find the stack at libvirt's own sockets.
set -uo pipefail
export LC_ALL=C.UTF-8
fact() { printf '%s: %s\n' "$1" "$(timeout 30 "${@:2}" 2>&1 | tr -s '\n ' '  ' | sed 's/ *$//')"; }

systemd-sysusers /usr/lib/sysusers.d/bulkhead.conf /usr/lib/sysusers.d/bulkhead-libvirt.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/bulkhead.conf
fact sockets systemctl start bulkheadd.socket bulkheadd-ro.socket bulkheadd-admin.socket
fact rights stat -c '%n %a %U:%G' /run/libvirt/libvirt-sock /run/libvirt/libvirt-sock-ro
fact links readlink /run/libvirt/virtqemud-sock /run/libvirt/virtnetworkd-sock-ro
fact define virsh -q -c qemu:///system define /rig/guest.xml
fact list virsh -q -c qemu:///system list --all --name
fact reads virsh -q -r -c qemu:///system domstate web
fact pools virsh -q -c qemu:///system pool-list --all --name
fact served systemctl is-active bulkheadd.service
fact own ls -A /run/bulkhead-clients
