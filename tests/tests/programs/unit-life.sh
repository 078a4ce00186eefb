# What a host's owner and libvirt's clients do with the installed units. Each line of the output is one fact: its name and what was
# said, in one line.
set -uo pipefail
socket=/run/bulkhead-clients/libvirt-sock
export LIBVIRT_DEFAULT_URI="qemu+unix:///system?socket=$socket" LC_ALL=C.UTF-8
readers="qemu+unix:///system?socket=$socket-ro"

fact() { printf '%s: %s\n' "$1" "$("${@:2}" 2>&1 | tr -s '\n ' '  ' | sed 's/ *$//')"; }
virsh() { timeout 30 /usr/bin/virsh -q "$@"; }
daemon() { systemctl show -P MainPID bulkheadd.service; }
guest() { pgrep -x qemu-system-x86; }
ticks() { wc -l </home/ticks; }
counts() {
    local before
    before=$(ticks)
    for _ in $(seq 400); do
        [ "$(ticks)" -le "$((before + 2))" ] || { echo yes; return; }
        sleep 0.05
    done
    echo "no: $before lines, then $(ticks)"
}
ends() {
    for _ in $(seq 100); do
        guest >/dev/null || return
        sleep 0.05
    done
    echo "no: $(guest)"
}
# Opened by the broker, in terminals that are QEMU's own.
on_console() { timeout 20 bulkhead -c qemu:///system console web </dev/null 2>/dev/null | grep -m 1 -ao '[0-9][0-9]*' | sed 's/[0-9]*/ticks/'; }
same() { if [ "$1" = "$2" ]; then echo yes; else echo "no: '$1' and '$2'"; fi; }

systemd-sysusers /usr/lib/sysusers.d/bulkhead.conf
systemd-tmpfiles --create /usr/lib/tmpfiles.d/bulkhead.conf
cp /rig/ticker.img /home/disk
fact sockets systemctl start bulkheadd.socket bulkheadd-ro.socket bulkheadd-admin.socket
fact rights stat -c '%n %a %U:%G' "$socket" "$socket-ro" "${socket%-sock}-admin-sock"
fact before systemctl is-active bulkheadd.service
fact define virsh define /rig/guest.xml
fact after systemctl is-active bulkheadd.service
fact start virsh start web
fact counts counts
fact reader virsh -c "$readers" domstate web
fact reader-destroys virsh -c "$readers" destroy web
fact confined bulkhead -c qemu:///system status
fact console on_console
fact network-define virsh net-define /rig/network.xml
fact network virsh net-start lan
fact network-state virsh net-info lan
fact forwarding cat /proc/sys/net/ipv4/ip_forward
fact network-gone virsh net-destroy lan
mkdir /home/images
chown nobody /home/images
fact pool-define virsh pool-define-as images dir --target /home/images
fact pool virsh pool-start images
fact volume virsh vol-create-as images disk.qcow2 1M --format qcow2
fact volume-path virsh vol-path disk.qcow2 images
first="$(daemon)" process="$(guest)"
fact capabilities sed -n 's/^CapBnd:\t*//p' "/proc/$first/status"
fact guest-capabilities sed -n 's/^CapEff:\t*//p' "/proc/$process/status"

# The daemon dies; the next one has the guest.
[ "${first:-0}" -le 1 ] || kill -9 "$first"
fact killed virsh domstate web
fact same-guest same "$process" "$(guest)"
fact restarts systemctl show -P NRestarts bulkheadd.service

# It is stopped; the guest goes on, and whoever comes has it started again.
fact stop systemctl stop bulkheadd.service
fact stopped systemctl is-active bulkheadd.service
fact counts-alone counts
fact come-again virsh domstate web
fact same-guest-again same "$process" "$(guest)"
fact destroy virsh destroy web
fact gone ends
fact undefine virsh undefine web
fact stop-all systemctl stop bulkheadd.service bulkheadd.socket bulkheadd-ro.socket bulkheadd-admin.socket
fact left-over ls -A /run/bulkhead-clients
