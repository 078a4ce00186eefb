#!/bin/bash
# Installs packages without letting them start services. Runs as root; called by provision.sh.
#
#   install.sh --update
#   install.sh [-t SUITE] PACKAGE...
set -euo pipefail

. "$(dirname -- "${BASH_SOURCE[0]}")/provision.sh"

policy="${POLICY_FILE:-/usr/sbin/policy-rc.d}"
readonly MARK='# Written by Bulkhead for the time of one installation.'

# Two installations at once would mistake each other's policy for the machine's own.
exec 9>"${INSTALL_LOCK:-/run/lock/bulkhead-install.lock}"
flock 9

restore_policy() {
    if [ -f "$policy" ] && grep -qxF "$MARK" "$policy"; then
        rm -f -- "$policy"
    fi
    if [ -e "$policy.bulkhead-saved" ]; then
        mv -f -- "$policy.bulkhead-saved" "$policy"
    fi
}

forbid_services() {
    # Also sets right what an installation left that was killed.
    restore_policy
    trap restore_policy EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if [ -e "$policy" ]; then
        mv -- "$policy" "$policy.bulkhead-saved"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$MARK" >"$policy"
    chmod 755 "$policy"
}

# Quiet unless it fails; and then without the names of mirrors.
quietly() {
    local log status=0
    log="$(mktemp)"
    "$@" </dev/null >"$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 30 "$log" | mask_hosts >&2
    fi
    rm -f -- "$log"
    return "$status"
}

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Acquire::Retries=3
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold)

if [ "$1" = --update ]; then
    quietly "${apt[@]}" update
    exit
fi

suite=()
if [ "$1" = -t ]; then
    suite=(-t "$2")
    shift 2
fi
if package_lists_absent; then
    quietly "${apt[@]}" update
fi
forbid_services
install=("${apt[@]}" "${suite[@]}" install --no-install-recommends "$@")
# A first failure is most often a list older than the mirror; a simulation tells without noise.
if ! "${apt[@]}" "${suite[@]}" -s install --no-install-recommends "$@" >/dev/null 2>&1; then
    quietly "${apt[@]}" update
elif ! "${apt[@]}" "${suite[@]}" install --download-only --no-install-recommends "$@" </dev/null >/dev/null 2>&1; then
    quietly "${apt[@]}" update
fi
quietly "${install[@]}"
