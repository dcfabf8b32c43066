# The parts of one installation: its places, users, database cluster and server process.
#
# Sourced by deploy/up and deploy/down after common.sh. One installation is one state directory:
#
#     config              what the server reads (root:sandboxd 0640)
#     secret              master key of the server (sandboxd 0600)
#     key                 the first API key (root 0600)
#     bin/                the programs that run, copies of the build
#     postgres/data, run  the private cluster and its socket (sandboxd-pg)
#     log/  run/          logs; pid files and records of what deploy/up started
#     made                users and images that deploy/up made, for --purge
# shellcheck shell=bash

SBX_USER=sandboxd
PG_USER=sandboxd-pg
DEFAULT_STATE=/var/lib/sandboxd
UNIT_DIR=/etc/systemd/system

places() { # STATE-DIR
    STATE=$(realpath -m -- "$1")
    CONFIG=$STATE/config
    SECRET=$STATE/secret
    KEY_FILE=$STATE/key
    MADE=$STATE/made
    LOG=$STATE/log
    RUN=$STATE/run
    PG_DATA=$STATE/postgres/data
    PG_RUN=$STATE/postgres/run
    SERVER_PID=$RUN/sandboxd.pid
    SERVER_STAMP=$RUN/sandboxd.stamp
    ENGINE_PID=$RUN/dockerd.pid
    ENGINE_UNIT=$RUN/dockerd.systemd
    UNIT=sandboxd
    [ "$STATE" = "$DEFAULT_STATE" ] ||
        UNIT=sandboxd-$(printf '%s' "$STATE" | sha256sum | cut -c1-8)
    PG_UNIT=$UNIT-postgres
}

# One up or down at a time for each installation. The lock outlives neither of them: daemons are
# started without its descriptor (9).
take_lock() {
    mkdir -p "$RUN"
    exec 9>"$RUN/lock"
    flock -n 9 || die "another deploy/up or deploy/down works on $STATE" \
        "wait until it has ended, then try again"
}

as_user() { # USER COMMAND...
    local user=$1
    shift
    # From /, since the user may not be allowed to enter the current folder.
    setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs \
        env -C / -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@" 9>&-
}

config_get() { # KEY
    [ -r "$CONFIG" ] && sed -n "s/^$1=//p" "$CONFIG" | tail -n 1
}

# ---- users ------------------------------------------------------------------------------------

user_ensure() { # NAME
    if ! getent passwd "$1" >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir /nonexistent \
            --shell /usr/sbin/nologin "$1" || return 1
        printf 'user %s\n' "$1" >>"$MADE"
    fi
}

# ---- the private PostgreSQL cluster -----------------------------------------------------------

pg_bin() {
    if [ -s "$PG_DATA/PG_VERSION" ]; then
        pg_bindir "$(cat "$PG_DATA/PG_VERSION")"
    else
        pg_bindir
    fi
}

pg_url() {
    printf 'postgresql://sandboxd@/sandboxd?host=%s' "${PG_RUN//\//%2F}"
}

pg_answers() {
    "$(pg_bin)/pg_isready" -q -h "$PG_RUN"
}

# Made beside its place and moved there when complete, so that a killed run leaves nothing half.
pg_init() { # LOG
    local new=$PG_DATA.new
    rm -rf "$new"
    install -d -o "$PG_USER" -g "$PG_USER" -m 700 "$new" || return 1
    as_user "$PG_USER" "$(pg_bin)/initdb" -D "$new" -U postgres -E UTF8 --locale=C.UTF-8 \
        --auth=peer --data-checksums --no-instructions >"$1" 2>&1 || return 1
    printf "include 'sandboxd.conf'\n" >>"$new/postgresql.conf"
    mv "$new" "$PG_DATA"
}

# No network, and who may come in is decided by the kernel's word on the user of the socket: the
# server (and root, for backups) as role sandboxd, the cluster's own user and root as postgres.
pg_configure() {
    cat >"$PG_DATA/sandboxd.conf" <<EOF
listen_addresses = ''
unix_socket_directories = '$PG_RUN'
max_connections = 200
password_encryption = 'scram-sha-256'
logging_collector = off
log_destination = 'stderr'
log_line_prefix = '%m [%p] '
EOF
    cat >"$PG_DATA/pg_hba.conf" <<EOF
local all      postgres peer map=admin
local sandboxd sandboxd peer map=server
EOF
    cat >"$PG_DATA/pg_ident.conf" <<EOF
admin  $PG_USER postgres
admin  root postgres
server $SBX_USER sandboxd
server root sandboxd
EOF
    chown "$PG_USER:$PG_USER" "$PG_DATA"/{sandboxd,pg_hba,pg_ident}.conf
    chmod 600 "$PG_DATA"/{sandboxd,pg_hba,pg_ident}.conf
}

pg_settings_sum() {
    cat "$PG_DATA"/{sandboxd,pg_hba,pg_ident}.conf 2>/dev/null | sha256sum || true
}

pg_start() {
    touch "$LOG/postgres.log" && chown "$PG_USER:$PG_USER" "$LOG/postgres.log" &&
        chmod 640 "$LOG/postgres.log" || return 1
    if have_systemd; then
        unit_install postgres.service "$PG_UNIT" && systemctl enable --quiet "$PG_UNIT" &&
            systemctl restart "$PG_UNIT"
    else
        as_user "$PG_USER" setsid "$(pg_bin)/pg_ctl" -D "$PG_DATA" -w -t 60 \
            -l "$LOG/postgres.log" start >/dev/null </dev/null
    fi && wait_until 60 pg_answers
}

pg_create_database() {
    # shellcheck disable=SC2016
    as_user "$PG_USER" "$(pg_bin)/psql" -qAtX -v ON_ERROR_STOP=1 -h "$PG_RUN" -U postgres postgres <<'EOF'
SELECT 'CREATE ROLE sandboxd LOGIN' WHERE NOT EXISTS
    (SELECT 1 FROM pg_roles WHERE rolname = 'sandboxd') \gexec
SELECT 'CREATE DATABASE sandboxd OWNER sandboxd' WHERE NOT EXISTS
    (SELECT 1 FROM pg_database WHERE datname = 'sandboxd') \gexec
EOF
}

pg_stop() {
    local bin
    if have_systemd && [ -e "$UNIT_DIR/$PG_UNIT.service" ]; then
        systemctl disable --quiet --now "$PG_UNIT"
        return
    fi
    [ -s "$PG_DATA/postmaster.pid" ] && bin=$(pg_bin) || return 0
    # pg_ctl signals as the cluster's own user, so that it can never reach a process of others.
    as_user "$PG_USER" "$bin/pg_ctl" -D "$PG_DATA" -m fast -w -t 60 stop >/dev/null 2>&1 ||
        ! pg_answers
}

# The id of this installation, which stands in the labels of its containers. Kept beside the
# database, so that a purge finds them when the database is down or gone.
cluster_record() {
    local psql id
    psql=$(pg_bin)/psql
    [ -x "$psql" ] || psql=$(command -v psql) || return 0
    id=$(as_user "$SBX_USER" "$psql" -qAtX "$(config_get DATABASE_URL)" \
        -c "SELECT value FROM meta WHERE key = 'cluster'") && [ -n "$id" ] &&
        printf '%s\n' "$id" >"$RUN/cluster"
}

# ---- the server -------------------------------------------------------------------------------

# The group that may use the engine's socket. Whoever may use it can become root on the engine's
# host: the server is trusted with that by its purpose, and nothing else runs as its user.
engine_group() {
    case $DOCKER_HOST in
    unix://*) stat -L -c %g "${DOCKER_HOST#unix://}" ;;
    *) id -g "$SBX_USER" ;;
    esac
}

# systemd takes only groups that have a name; the socket of an engine elsewhere may have none here.
engine_group_ensure() {
    local group
    group=$(engine_group) || return 1
    getent group "$group" >/dev/null || {
        groupadd --system --gid "$group" sandboxd-engine && printf 'group sandboxd-engine\n' >>"$MADE"
    }
}

unit_install() { # TEMPLATE NAME
    local target=$UNIT_DIR/$2.service group
    group=$(engine_group)
    sed -e "s|@STATE@|$STATE|g" -e "s|@PG_BIN@|$(pg_bin)|g" -e "s|@PG_UNIT@|$PG_UNIT|g" \
        -e "s|@USER@|$SBX_USER|g" -e "s|@PG_USER@|$PG_USER|g" -e "s|@ENGINE_GROUP@|$group|g" \
        "$SBX_REPO/deploy/systemd/$1" >"$target.new" || return 1
    if ! cmp -s "$target.new" "$target"; then
        mv "$target.new" "$target" && systemctl daemon-reload
    else
        rm -f "$target.new"
    fi
}

server_stamp() {
    sha256sum "$STATE/bin/sandboxd" "$STATE/bin/sbx-agent" "$STATE/bin/sbx-files" "$CONFIG" | sha256sum
}

server_pid() {
    local pid
    if have_systemd && [ -e "$UNIT_DIR/$UNIT.service" ]; then
        pid=$(systemctl show -p MainPID --value "$UNIT")
        [ "${pid:-0}" != 0 ] && printf '%s' "$pid"
    else
        pidfile_alive "$SERVER_PID"
    fi
}

server_start() {
    if have_systemd; then
        unit_install sandboxd@.service "$UNIT@" && unit_install sandboxd.service "$UNIT" &&
            systemctl enable --quiet "$UNIT" &&
            systemctl restart "$UNIT" || return 1
    else
        if [ "$(stat -c %s "$LOG/sandboxd.log" 2>/dev/null || printf 0)" -gt 20000000 ]; then
            mv "$LOG/sandboxd.log" "$LOG/sandboxd.log.1"
        fi
        rm -f "$SERVER_PID"
        touch "$LOG/sandboxd.log" && chmod 640 "$LOG/sandboxd.log"
        (
            # Before the program runs, so that no moment exists in which it runs unrecorded.
            pidfile_write "$SERVER_PID" "$BASHPID"
            ulimit -n "$(ulimit -H -n)"
            umask 077
            exec setsid setpriv --reuid "$SBX_USER" --regid "$SBX_USER" \
                --groups "$(engine_group)" --no-new-privs \
                env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
                "$STATE/bin/sandboxd" serve --config "$CONFIG"
        ) >>"$LOG/sandboxd.log" 2>&1 </dev/null 9>&- &
        wait_until 5 test -s "$SERVER_PID" || return 1
    fi
    server_stamp >"$SERVER_STAMP"
}

server_stop() {
    local drain wait
    rm -f "$SERVER_STAMP"
    if have_systemd && [ -e "$UNIT_DIR/$UNIT.service" ]; then
        systemctl disable --quiet --now "$UNIT"
        return
    fi
    drain=$(config_get SBX_DRAIN_SECONDS)
    wait=$(config_get SBX_DRAIN_WAIT)
    pidfile_stop "$SERVER_PID" $((${drain:-30} + ${wait:-0} + 15))
}

# Those that an operator has started beside the server, by ports.
workers_stop() {
    have_systemd && [ -e "$UNIT_DIR/$UNIT@.service" ] || return 0
    systemctl stop "$UNIT@*.service"
    systemctl disable --quiet "$UNIT@.service"
}

server_url() { # [LISTEN]
    local listen host
    listen=${1:-$(config_get SBX_LISTEN)}
    host=${listen%:*}
    case $host in
    0.0.0.0 | '' | '*') host=127.0.0.1 ;;
    '[::]') host='[::1]' ;;
    esac
    printf 'http://%s:%s' "$host" "${listen##*:}"
}

server_log_tail() { # FILE: what die() can show
    if have_systemd; then
        {
            journalctl -u "$UNIT" -n 40 --no-pager -o cat
            systemctl show -p Result -p ExecMainStatus "$UNIT"
        } >"$LOG/sandboxd.log" 2>&1 || true
    fi
}
