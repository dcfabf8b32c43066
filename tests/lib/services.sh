# The real services that tests need, each private to one run: Docker Engine, PostgreSQL, Redis.
#
# Sourced by tests/run after deploy/lib/common.sh. Everything lives in the folder WORK and is
# stopped by services_stop through pid files; a Docker Engine that runs already is used as it is
# and left alone. Exports what tests read:
#
#     DOCKER_HOST            the engine
#     SBX_TEST_DATABASE_URL  a superuser on a private cluster; tests make databases of their own
#     SBX_TEST_REDIS_URL     a private Redis
# shellcheck shell=bash

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# ---- Docker Engine ----------------------------------------------------------------------------

engine_start_private() { # WORK
    local dir=$1/engine
    mkdir -p "$dir"
    export DOCKER_HOST=unix://$dir/docker.sock
    (
        pidfile_write "$1/dockerd.pid" "$BASHPID"
        exec setsid dockerd --host "$DOCKER_HOST" --data-root "$dir/data" \
            --exec-root "$dir/exec" --pidfile "$dir/dockerd.own.pid"
    ) >"$1/dockerd.log" 2>&1 </dev/null &
    wait_until 5 test -s "$1/dockerd.pid" && wait_until 60 engine_answers
}

engine_provide() { # WORK
    step engine
    if [ -z "${DOCKER_HOST:-}" ]; then
        export DOCKER_HOST=unix:///var/run/docker.sock
        if ! engine_answers; then
            note "none is running: starting a private one"
            engine_start_private "$1" || die "Docker Engine did not start" \
                "start one, or give DOCKER_HOST" "$1/dockerd.log"
        fi
    fi
    engine_answers || die "no Docker Engine at $DOCKER_HOST" "start it, or unset DOCKER_HOST"
    done_step "$(python3 "$SBX_REPO/deploy/lib/engine.py" version) at $DOCKER_HOST"
}

# ---- PostgreSQL -------------------------------------------------------------------------------

# PostgreSQL refuses to run as root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid postgres --regid postgres --clear-groups "$@"
    else
        "$@"
    fi
}

postgres_start() { # WORK
    local dir=$1/postgres bin owner
    bin=$(pg_bindir) || return 1
    owner=$(if [ "$(id -u)" = 0 ]; then printf postgres; else id -un; fi)
    install -d -o "$owner" -m 711 "$dir" || return 1
    as_postgres "$bin/initdb" -D "$dir/data" -U postgres -E UTF8 --locale=C.UTF-8 --auth=trust \
        --no-sync --no-instructions >"$1/postgres.log" 2>&1 || return 1
    # No durability for data that is thrown away; only root and the owner reach the socket.
    as_postgres tee -a "$dir/data/postgresql.conf" >/dev/null <<EOF
listen_addresses = ''
unix_socket_directories = '$dir'
unix_socket_permissions = 0700
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 300
EOF
    (
        pidfile_write "$1/postgres.pid" "$BASHPID"
        if [ "$(id -u)" = 0 ]; then
            exec setsid setpriv --reuid postgres --regid postgres --clear-groups \
                "$bin/postgres" -D "$dir/data"
        fi
        exec setsid "$bin/postgres" -D "$dir/data"
    ) >>"$1/postgres.log" 2>&1 </dev/null &
    export SBX_TEST_DATABASE_URL="postgresql://postgres@/postgres?host=${dir//\//%2F}"
    wait_until 30 "$bin/pg_isready" -q -h "$dir"
}

# ---- Redis ------------------------------------------------------------------------------------

redis_start() { # WORK
    local port
    port=$(free_port) || return 1
    mkdir -p "$1/redis"
    (
        pidfile_write "$1/redis.pid" "$BASHPID"
        exec setsid redis-server --bind 127.0.0.1 --port "$port" --dir "$1/redis" \
            --save '' --appendonly no --daemonize no
    ) >"$1/redis.log" 2>&1 </dev/null &
    export SBX_TEST_REDIS_URL=redis://127.0.0.1:$port
    wait_until 15 redis_answers "$port"
}

redis_answers() { # PORT
    (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'PING\r\n' >&3 && read -r -t 2 line <&3 &&
        [ "$line" = $'+PONG\r' ]) 2>/dev/null
}

# ---- all --------------------------------------------------------------------------------------

services_start() { # WORK
    step services
    postgres_start "$1" || die "PostgreSQL did not start" "see the log" "$1/postgres.log"
    redis_start "$1" || die "Redis did not start" "see the log" "$1/redis.log"
    done_step "PostgreSQL $(basename "$(dirname "$(pg_bindir)")"), Redis"
}

# An engine leaves mounts behind: the namespace of its host network always, its containers' and its
# own folder when it is killed. A folder that holds one cannot be removed.
unmount_below() { # DIR
    local point
    awk -v dir="$1/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r |
        while read -r point; do
            umount --lazy "$point" || true
        done
}

services_stop() { # WORK
    pidfile_stop "$1/redis.pid" 10
    pidfile_stop "$1/postgres.pid" 20 INT
    pidfile_stop "$1/dockerd.pid" 60
    unmount_below "$1"
}
