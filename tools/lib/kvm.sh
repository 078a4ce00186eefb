# shellcheck shell=bash
# Whether KVM really runs guests here. Sourced after provision.sh and tools/guest/build.

# kvm_answers: boots the ticker under KVM and waits five seconds for its first line. That the device
# opens is not enough: on some machines virtual machines are made but never run.
kvm_answers() {
    [ -r /dev/kvm ] && [ -w /dev/kvm ] || return 1
    local output
    output="$(timeout -k 1 5 qemu-system-x86_64 -accel kvm -nodefaults -display none -m 16 \
        -snapshot -drive "file=$cache/guest/ticker.img,format=raw,if=ide" \
        -serial stdio </dev/null 2>/dev/null | grep -am 1 '^[0-9]')" || true
    [ -n "$output" ]
}
