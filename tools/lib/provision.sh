# shellcheck shell=bash
# Functions that put onto a Debian machine what is missing from it. Sourced, never run.
#
# Environment:
#   BULKHEAD_CACHE    where downloads and built guests are kept (default: .cache in the repository)
#   BULKHEAD_DRY_RUN  when set to 1, packages are named but not installed

repository="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
cache="${BULKHEAD_CACHE:-$repository/.cache}"
library="$repository/tools/lib"

# The oldest cargo that builds the workspace, and the oldest QEMU that the driver speaks to.
readonly CARGO_MINIMUM=1.95
readonly QEMU_MINIMUM=8.0

say() { printf '== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Succeeds when version $1 is at least version $2.
version_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Hosts of mirrors are the machine's own business: they do not get into our output.
mask_hosts() { sed -u -E 's#(https?|ftp)://[^ /]+#<mirror>#g; s#(Get|Hit|Ign|Err):([0-9]+) [^ ]+#\1:\2 <mirror>#'; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "'$1' has to run as root; run this script as root or install sudo"
    fi
}

os_release() {
    local file="${OS_RELEASE_FILE:-/etc/os-release}"
    # A subshell keeps the file's variables out of ours.
    (
        # shellcheck disable=SC1090
        [ -r "$file" ] && . "$file"
        printf '%s' "${!1:-}"
    )
}

package_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints those of the packages that are not installed, one a line.
missing_packages() {
    local package
    for package in "$@"; do
        package_installed "$package" || printf '%s\n' "$package"
    done
}

# The version that apt would install of package $1, from suite $2 where given; empty when there is none.
candidate_version() {
    apt-cache ${2:+-t "$2"} policy "$1" 2>/dev/null |
        sed -n 's/^  Candidate: //p' | grep -vxF '(none)' || true
}

# True when apt has no lists at all, as in a freshly made image.
package_lists_absent() { [ -z "$(apt-cache dumpavail 2>/dev/null | head -n 1)" ]; }

refresh_lists() {
    say "refreshing apt's lists"
    [ "${BULKHEAD_DRY_RUN:-}" = 1 ] || as_root bash "$library/install.sh" --update
}

# need_packages [-t SUITE] PACKAGE...: installs the missing ones, without starting their services.
need_packages() {
    local suite="" missing
    if [ "$1" = -t ]; then
        suite="$2"
        shift 2
    fi
    command -v dpkg-query >/dev/null || die "packages can be installed on Debian only; install by hand what stands for: $*"
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    install_packages "$suite" "${missing[@]}"
}

# install_packages SUITE PACKAGE...: installs or upgrades; SUITE may be empty.
install_packages() {
    local suite="$1"
    shift
    say "installing ${*}${suite:+ from $suite}"
    [ "${BULKHEAD_DRY_RUN:-}" = 1 ] || as_root bash "$library/install.sh" ${suite:+-t "$suite"} "$@" ||
        die "apt could not install: $*; see the lines above, repair the machine's package sources and run again"
}

# Prints "URI|keyring or nothing" of the mirror from which the machine gets its own suite. apt itself
# reads the sources, so both their forms, disabled entries and unusual mirrors are understood.
main_mirror() {
    local codename="$1"
    apt-get indextargets --no-release-info \
        --format '$(CREATED_BY)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)' 2>/dev/null |
        awk -F'|' -v codename="$codename" '
            $1 == "Packages" && $3 == "main" && ($2 == codename || $2 == "stable" || $2 == "oldstable") {
                # apt leaves the placeholder in place where the source names no key.
                print $4 "|" ($5 ~ /^\// ? $5 : ""); exit
            }'
}

backports_configured() {
    apt-get indextargets --no-release-info --format '$(RELEASE)' 2>/dev/null | grep -qx "$1-backports"
}

# The text of a source entry for backports, from the mirror that the machine uses already.
backports_source() {
    local codename="$1" mirror uri key
    mirror="$(main_mirror "$codename")"
    [ -n "$mirror" ] || die "no mirror for Debian $codename is configured in /etc/apt, so none for its backports can be derived; configure one"
    uri="${mirror%%|*}"
    key="${mirror#*|}"
    if [ -z "$key" ] && [ -r /usr/share/keyrings/debian-archive-keyring.gpg ]; then
        key=/usr/share/keyrings/debian-archive-keyring.gpg
    fi
    printf '# Written by Bulkhead to get a QEMU that is new enough; removable.\n'
    printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n' "$uri" "$codename"
    [ -z "$key" ] || printf 'Signed-By: %s\n' "$key"
}

ensure_backports() {
    local codename="$1" text
    backports_configured "$codename" && return 0
    text="$(backports_source "$codename")"
    say "adding the backports of Debian $codename to apt's sources, from the mirror configured already"
    if [ "${BULKHEAD_DRY_RUN:-}" = 1 ]; then
        return 0
    fi
    as_root tee /etc/apt/sources.list.d/bulkhead-backports.sources >/dev/null <<<"$text"
    refresh_lists
}

qemu_version() {
    qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p'
}

# From where QEMU is to come: "present", "suite" or "backports".
qemu_plan() {
    local present candidate
    present="$(qemu_version)"
    if [ -n "$present" ] && version_at_least "$present" "$QEMU_MINIMUM"; then
        echo present
        return
    fi
    # Debian's version without its epoch.
    candidate="$(candidate_version qemu-system-x86)"
    candidate="${candidate#*:}"
    if [ -n "$candidate" ] && version_at_least "$candidate" "$QEMU_MINIMUM"; then
        echo suite
    else
        echo backports
    fi
}

ensure_qemu() {
    local codename suite=""
    # qemu-utils on the machine may be newer than the suite's qemu-system-x86; all of them are
    # named in one command and from one suite, so that apt settles on one set of versions.
    local packages=(qemu-system-x86 qemu-utils)
    if [ "$(qemu_plan)" != present ]; then
        package_lists_absent && refresh_lists
        if [ "$(qemu_plan)" = backports ]; then
            codename="$(os_release VERSION_CODENAME)"
            [ -n "$codename" ] || die "QEMU $QEMU_MINIMUM or newer is needed; install it (this system's release is unknown)"
            ensure_backports "$codename"
            suite="$codename-backports"
        fi
        install_packages "$suite" "${packages[@]}"
    elif ! command -v qemu-img >/dev/null; then
        codename="$(os_release VERSION_CODENAME)"
        # The tools come from where the installed emulator came from, if that is backports.
        case "$(dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null)" in
            *bpo*)
                ensure_backports "$codename"
                suite="$codename-backports"
                ;;
        esac
        install_packages "$suite" qemu-utils
    fi
    [ "${BULKHEAD_DRY_RUN:-}" = 1 ] && return 0
    version_at_least "$(qemu_version)" "$QEMU_MINIMUM" ||
        die "QEMU $QEMU_MINIMUM or newer is needed, found '$(qemu_version)'; install a newer qemu-system-x86"
    say "QEMU $(qemu_version)"
}

# Prints the folder of the first cargo that is new enough and has its rustc beside it.
find_cargo() {
    local cargo version
    while read -r cargo; do
        [ -x "$cargo" ] && [ -x "$(dirname -- "$cargo")/rustc" ] || continue
        version="$("$cargo" --version 2>/dev/null | awk '{print $2}')"
        if [ -n "$version" ] && version_at_least "$version" "$CARGO_MINIMUM"; then
            dirname -- "$cargo"
            return 0
        fi
    done < <(
        type -ap cargo
        printf '%s\n' "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" /usr/local/bin/cargo /usr/bin/cargo
    )
    return 1
}

# Debian's newer toolchain replaces rustc and cargo; anything else is not ours to remove.
refuse_foreign_removals() {
    local removed foreign
    removed="$(apt-get -s install --no-install-recommends "$@" 2>/dev/null | awk '$1 == "Remv" {print $2}')"
    foreign="$(grep -vxE '(rustc|cargo|rustfmt|rust-.*|rust-clippy|libstd-rust-.*|rustup|rustdoc)(:.*)?' <<<"$removed" | grep . || true)"
    [ -z "$foreign" ] ||
        die "installing $* would remove: ${foreign//$'\n'/ }; provide cargo $CARGO_MINIMUM or newer by hand, for example under ~/.cargo"
    [ -z "$removed" ] || say "too old, and replaced by the newer toolchain: ${removed//$'\n'/ }"
}

ensure_toolchain() {
    local folder
    # The linker that rustc calls.
    command -v cc >/dev/null || need_packages gcc libc6-dev
    # By which cargo knows the registry; a bare system has none.
    [ -s "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || need_packages ca-certificates
    if ! folder="$(find_cargo)"; then
        package_lists_absent && refresh_lists
        local version packages=(rustc-web cargo-web rustfmt-web)
        version="$(candidate_version cargo-web)"
        if ! version_at_least "${version:-0}" "$CARGO_MINIMUM"; then
            # The lists may be older than the package.
            refresh_lists
            version="$(candidate_version cargo-web)"
        fi
        version_at_least "${version:-0}" "$CARGO_MINIMUM" ||
            die "cargo $CARGO_MINIMUM or newer is needed, apt offers '${version:-none}'; configure Debian's security suite or install a toolchain under ~/.cargo"
        refuse_foreign_removals "${packages[@]}"
        install_packages "" "${packages[@]}"
        if [ "${BULKHEAD_DRY_RUN:-}" = 1 ]; then
            return 0
        fi
        folder="$(find_cargo)" || die "cargo $CARGO_MINIMUM or newer is still missing after its installation"
    fi
    # Only where another cargo comes first, so that the rest of PATH keeps its order.
    if [ "$(command -v cargo || true)" != "$folder/cargo" ]; then
        PATH="$folder:$PATH"
        export PATH
    fi
    say "$(cargo --version)"
}

# build ARGUMENT...: cargo build, and what to do when its sources can't be had.
build() {
    cargo fetch --locked --target "$(rustc -vV | sed -n 's/^host: //p')" || die "cargo could not fetch the crates that Cargo.lock names; see the lines above. It needs the crates' registry: behind a proxy set https_proxy, behind an inspecting one add its certificate with update-ca-certificates, without a network copy a filled ~/.cargo/registry here"
    cargo build --locked "$@"
}

# fetch_package PACKAGE FILE: downloads a package to FILE, without installing it.
fetch_package() {
    local package="$1" file="$2" work
    mkdir -p "$(dirname -- "$file")"
    work="$(mktemp -d "$file.XXXXXX")"
    if ! (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") >"$work/log" 2>&1; then
        # Old lists name versions that the mirror has dropped.
        refresh_lists
        if ! (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") >"$work/log" 2>&1; then
            mask_hosts <"$work/log" >&2
            rm -r -- "$work"
            die "apt could not download $package; see the lines above"
        fi
    fi
    mv -- "$work"/*.deb "$file"
    rm -r -- "$work"
}

# unpack_clients: libvirt's command line clients in each release that apt has and that is not the installed one, each with its
# library, below the cache. Nothing is installed, and what can't be had is left out: its tests are skipped.
unpack_clients() {
    local installed version folder work package
    installed="$(dpkg-query -W -f '${Version}' libvirt-clients 2>/dev/null || true)"
    while read -r version; do
        folder="$cache/clients/${version%%-*}"
        if [ "${version%%-*}" = "${installed%%-*}" ] || [ -e "$folder/complete" ]; then
            continue
        fi
        say "fetching libvirt's clients $version into the cache"
        mkdir -p "$cache/clients"
        work="$(mktemp -d "$cache/clients/.work.XXXXXX")"
        for package in libvirt-clients libvirt0; do
            # In a process of its own: without this release the tests are poorer, not impossible.
            (fetch_package "$package=$version" "$work/$package.deb") && dpkg-deb -x "$work/$package.deb" "$work/tree" || break
        done
        if [ -x "$work/tree/usr/bin/virsh" ] && compgen -G "$work/tree/usr/lib/*/libvirt.so.0" >/dev/null; then
            touch "$work/tree/complete"
            rm -rf -- "$folder"
            mv -- "$work/tree" "$folder"
        else
            warn "libvirt's clients $version can't be had"
        fi
        rm -rf -- "$work"
    done < <(apt-cache madison libvirt-clients 2>/dev/null | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | sort -uV)
}
