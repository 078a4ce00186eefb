#!/bin/bash
# Runs a systemd as the first process of namespaces of its own, below a root of its own, with the units that are installed and few
# others; it runs a script and ends. It reaches nothing of the machine's: neither its units, nor its devices, settings, processes
# or temporary files.
#
#   unit-rig.sh WORK INSTALLED SCRIPT
#
# WORK is seen as /rig by the script, which lies in it; what it says is found in WORK/output afterwards, and what systemd says in
# WORK/console. INSTALLED is the folder in front of all installed paths.
set -euo pipefail

if [ "${1:-}" != --inside ]; then
    # A control group of its own, so that it sees and makes none beside its own.
    group="$(awk '$3 == "cgroup2" {print $2; exit}' /proc/self/mounts)/bulkhead-rig-$$"
    mkdir "$group"
    trap 'find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true' EXIT
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec timeout -k 1 100 unshare --pid --mount --net --uts --ipc --cgroup --fork --kill-child bash "$0" --inside "$@"
    )
    exit
fi

work=$2 installed=$3 script=$4
root=$work/root
mount --make-rprivate /
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc var/lib var/log var/cache tmp run root home dev proc sys rig .old .proc .upper/etc .work/etc
chmod 1777 tmp
ln -s ../run var/run
for name in bin sbin lib lib64; do
    [ ! -e "/$name" ] || cp -P "/$name" "$name"
done
mount -t overlay -o "ro,lowerdir=$installed/usr:/usr" overlay usr
mount -t overlay -o "lowerdir=/etc,upperdir=$root/.upper/etc,workdir=$root/.work/etc" overlay etc
mount -t tmpfs -o mode=755 tmpfs run
mount --bind "$work" rig
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
touch dev/console "$work/console"
mount --bind "$work/console" dev/console
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" "net/tun 10 200"; do
    read -r name major minor <<<"$device"
    mknod -m 666 "dev/$name" c "$major" "$minor"
done
mount -t proc proc proc
mount -t proc proc .proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
# Of these the namespace has its own.
mount --bind .proc/sys/net proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . .old
cd /
umount -l .old
rmdir .old

printf '0123456789abcdef0123456789abcdef\n' >etc/machine-id
mkdir -p run/units run/no-generators
cp -r usr/lib/systemd/system/bulkheadd* run/units/
# What the units stand on of a host's, with nothing in it.
for name in sysinit basic sockets shutdown network remote-fs time-sync; do
    printf '[Unit]\nDefaultDependencies=no\n' >"run/units/$name.target"
done
printf '[Unit]\nDefaultDependencies=no\nRequires=rig.service\n' >run/units/rig.target
cat >run/units/rig.service <<EOF
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/bash /rig/$script
StandardOutput=append:/rig/output
StandardError=append:/rig/output
EOF
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=other SYSTEMD_UNIT_PATH=/run/units \
    SYSTEMD_GENERATOR_PATH=/run/no-generators SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/no-generators \
    setpriv --bounding-set -sys_time,-sys_module,-sys_rawio,-mac_admin \
    /lib/systemd/systemd --system --unit=rig.target --log-level=info --log-target=console --show-status=0
