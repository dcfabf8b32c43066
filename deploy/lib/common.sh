# Helpers that deploy/up, deploy/down and tests/run share: progress, packages, processes, engine.
#
# Sourced by bash, never run. Every function that can fail returns non-zero and leaves the words
# to its caller, except die() and those whose comment says that they die.
# shellcheck shell=bash

SBX_REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# ---- progress ---------------------------------------------------------------------------------
# A quick step is one line, "name ... text (0.3 s)"; a long one gets lines of its own in between.

STEP_OPEN=0
STEP_NAME=

now_ms() {
    local t=${EPOCHREALTIME/[.,]/}
    printf '%s' "$((t / 1000))"
}

seconds_since() { # MS
    local d=$(($(now_ms) - $1))
    printf '%d.%d' "$((d / 1000))" "$((d % 1000 / 100))"
}

step() { # NAME
    STEP_NAME=$1
    STEP_T0=$(now_ms)
    STEP_OPEN=1
    printf '%-18s' "$1 ..."
}

note() { # TEXT: a line inside the current step
    if [ "$STEP_OPEN" = 1 ]; then
        printf '\n'
        STEP_OPEN=2
    fi
    printf '    %s\n' "$*"
}

done_step() { # TEXT
    if [ "$STEP_OPEN" = 2 ]; then
        printf '%-18s' "... $STEP_NAME"
    fi
    printf ' %s (%s s)\n' "$1" "$(seconds_since "$STEP_T0")"
    STEP_OPEN=0
}

# die WHAT WHAT-TO-DO [LOGFILE]: ends the program with status 1, one message and the end of the log.
die() {
    case $STEP_OPEN in 1) printf ' failed\n' ;; 2) printf '... %s failed\n' "$STEP_NAME" ;; esac
    {
        printf '\nerror: %s\n' "$1"
        if [ -n "${3:-}" ] && [ -s "$3" ]; then
            printf '  the end of %s:\n' "$3"
            tail -n 20 "$3" | cut -c1-300 | sed 's/^/    | /'
        fi
        [ -z "${2:-}" ] || printf '  what to do: %s\n' "$2"
    } >&2
    exit 1
}

# For trap ... ERR: what no step has foreseen. In a subshell only its parent has the say.
unexpected() { # PROGRAM LINE
    [ "$BASH_SUBSHELL" = 0 ] || exit 1
    die "$1 stopped at line $2" "this should not happen; please report it"
}

# Copies stdin to the file LOG and shows the newest line about every two seconds.
show_progress() { # LOG
    local line='' last=$SECONDS
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line" >>"$1"
        if [ $((SECONDS - last)) -ge 2 ]; then
            note "${line:0:110}"
            last=$SECONDS
        fi
    done
}

# run_logged LOG COMMAND...: output goes to LOG, with progress; the command's status comes back. The
# command runs in a subshell. What ends up in files is what comes out of the two subshells.
run_logged() {
    local log=$1 rc
    shift
    : >"$log"
    {
        rc=0
        "$@" || rc=$?
        printf '%s' "$rc" >"$log.rc"
    } 2>&1 </dev/null | {
        show_progress "$log"
        printf '%s' "$STEP_OPEN" >"$log.step"
    } || true
    STEP_OPEN=$(cat "$log.step" 2>/dev/null || printf 2)
    rc=$(cat "$log.rc" 2>/dev/null || printf 1)
    rm -f "$log.step" "$log.rc"
    return "$rc"
}

# ---- packages ---------------------------------------------------------------------------------

package_installed() { # NAME
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints the packages of the groups that are not installed, one per line (a|b stays as it is).
packages_missing() { # GROUP...
    local group spec alt have want=" $* "
    while read -r group spec _; do
        case $group in '' | \#*) continue ;; esac
        case $want in *" $group "*) ;; *) continue ;; esac
        have=0
        for alt in ${spec//|/ }; do
            if package_installed "$alt"; then
                have=1
                break
            fi
        done
        [ "$have" = 1 ] || printf '%s\n' "$spec"
    done <"$SBX_REPO/deploy/packages"
}

apt_run() { # apt-get arguments
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o APT::Color=0 \
        -o Dpkg::Use-Pty=0 "$@"
}

apt_choose() { # a|b: the first that can be installed
    local alt
    for alt in ${1//|/ }; do
        if apt-cache show --no-all-versions "$alt" >/dev/null 2>&1; then
            printf '%s' "$alt"
            return 0
        fi
    done
    printf '%s' "${1%%|*}"
}

# Installs what is missing of the groups. Packages must not start services of their own: servers
# are started by whoever needs them, in a place of their own, so a policy for the time of the
# installation says no, and PostgreSQL is told not to make a cluster.
packages_install() { # LOG GROUP...; sets PACKAGES_INSTALLED to the number of new packages
    local log=$1 spec rc=0
    local -a missing=() names=()
    shift
    PACKAGES_INSTALLED=0
    mapfile -t missing < <(packages_missing "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "packages are missing: ${missing[*]}" \
        "run as root, or: apt-get install --no-install-recommends ${missing[*]}"

    note "to install: ${missing[*]}"
    run_logged "$log" apt_run update || note "apt-get update failed; trying with the lists there are"
    for spec in "${missing[@]}"; do
        names+=("$(apt_choose "$spec")")
    done
    packages_guard_on
    case " ${names[*]} " in *" postgresql "*)
        run_logged "$log" apt_run install -y --no-install-recommends postgresql-common &&
            packages_guard_postgres || rc=1
        ;;
    esac
    [ "$rc" != 0 ] ||
        run_logged "$log" apt_run install -y --no-install-recommends "${names[@]}" || rc=1
    packages_guard_off
    [ "$rc" = 0 ] || return 1
    PACKAGES_INSTALLED=${#names[@]}
}

GUARD_POLICY=/usr/sbin/policy-rc.d
GUARD_POSTGRES=/etc/postgresql-common/createcluster.d/sandboxd.conf
GUARD_MARK='made by sandboxd for the time of an installation'

packages_guard_on() {
    if [ ! -e "$GUARD_POLICY" ]; then
        printf '#!/bin/sh\n# %s\nexit 101\n' "$GUARD_MARK" >"$GUARD_POLICY"
        chmod 755 "$GUARD_POLICY"
    fi
}

packages_guard_postgres() {
    mkdir -p "$(dirname "$GUARD_POSTGRES")" &&
        printf '# %s\ncreate_main_cluster = false\n' "$GUARD_MARK" >"$GUARD_POSTGRES"
}

# Removes what the two above made, also what a killed run left behind, and nothing else.
packages_guard_off() {
    if grep -qs "$GUARD_MARK" "$GUARD_POLICY"; then
        rm -f "$GUARD_POLICY"
    fi
    rm -f "$GUARD_POSTGRES"
    rmdir --ignore-fail-on-non-empty "$(dirname "$GUARD_POSTGRES")" 2>/dev/null || true
}

# ---- processes --------------------------------------------------------------------------------
# A pid file holds "PID STARTTIME": the second, from /proc, tells a process from a later one that
# got the same number.

proc_start_time() { # PID; fails for one that is dead, also when nobody has reaped it yet
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    case $1 in Z | X) return 1 ;; esac
    printf '%s' "${20}"
}

pidfile_write() { # FILE PID
    printf '%s %s\n' "$2" "$(proc_start_time "$2")" >"$1.new" && mv "$1.new" "$1"
}

# Prints the pid if the process that the file names still runs.
pidfile_alive() { # FILE
    local pid start
    [ -s "$1" ] || return 1
    read -r pid start <"$1" || return 1
    [ -n "$start" ] && [ "$(proc_start_time "$pid")" = "$start" ] || return 1
    printf '%s' "$pid"
}

# TERM, then KILL after SECONDS. Returns 0 when the process is gone, also when it never was there.
pidfile_stop() { # FILE SECONDS [FIRST-SIGNAL]
    local pid deadline
    if pid=$(pidfile_alive "$1"); then
        kill -s "${3:-TERM}" "$pid" 2>/dev/null || true
        deadline=$((SECONDS + $2))
        while pidfile_alive "$1" >/dev/null; do
            if [ "$SECONDS" -ge "$deadline" ]; then
                kill -s KILL "$pid" 2>/dev/null || true
                deadline=$((SECONDS + 10))
            fi
            sleep 0.05
        done
    fi
    rm -f "$1"
}

# wait_until SECONDS COMMAND...: tries until it succeeds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

have_systemd() {
    [ -d /run/systemd/system ]
}

# ---- engine -----------------------------------------------------------------------------------

# Does a Docker Engine answer at DOCKER_HOST (or $1)? Needs curl.
engine_answers() { # [HOST]
    local host=${1:-${DOCKER_HOST:-unix:///var/run/docker.sock}} certs=${DOCKER_CERT_PATH:-}
    local -a args=(-fsS -o /dev/null --max-time 5)
    case $host in
    unix://*) args+=(--unix-socket "${host#unix://}" http://engine/_ping) ;;
    tcp://*)
        if [ -n "${DOCKER_TLS_VERIFY:-}" ] || [ -n "$certs" ]; then
            certs=${certs:-${HOME:-/root}/.docker}
            args+=(--cacert "$certs/ca.pem" --cert "$certs/cert.pem" --key "$certs/key.pem")
            args+=("https://${host#tcp://}/_ping")
        else
            args+=("http://${host#tcp://}/_ping")
        fi
        ;;
    *) return 2 ;;
    esac
    curl "${args[@]}" 2>/dev/null
}

# ---- PostgreSQL -------------------------------------------------------------------------------

# Prints the folder of the server programs: of version $1, or the newest.
pg_bindir() { # [VERSION]
    local dir
    # shellcheck disable=SC2086
    dir=$(printf '%s\n' /usr/lib/postgresql/${1:-*}/bin | sort -V | tail -n 1)
    [ -x "$dir/initdb" ] && printf '%s' "$dir"
}
