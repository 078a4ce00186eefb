# shellcheck shell=bash
# Whether KVM really runs guests here. Sourced after provision.sh and tools/guest/build.

# kvm_answers: boots the Linux guest under KVM and waits ten seconds for its greeting. That the device opens is
# not enough, and neither is a guest that only prints: on some machines a kernel gets nowhere.
kvm_answers() {
    [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
    local output
    output="$(timeout -k 1 10 qemu-system-x86_64 -accel kvm -M q35 -nodefaults -display none -m 256 \
        -kernel "$cache/guest/vmlinuz" -initrd "$cache/guest/initramfs-tiny.cpio.gz" \
        -append 'console=ttyS0 quiet panic=-1 bulkhead.mode=greet' \
        -serial stdio </dev/null 2>/dev/null | grep -am 1 '^Bulkhead guest is up')" || true
    [ -n "$output" ]
}
