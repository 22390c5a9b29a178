#!/usr/bin/env bash
# Run a command beside a PostgreSQL of its own: tests/postgres_server.sh COMMAND...
# The server (Debian's, installed when missing) lives in a temporary folder and listens on a free port of loopback; the
# command finds it by TEST_POSTGRES_URL. It is stopped and deleted afterwards; the command's status is ours.
set -euo pipefail
cd "$(dirname "$0")/.."

newest() { find /usr/lib/postgresql -maxdepth 3 -name "$1" -path '*/bin/*' 2>/dev/null | sort -V | tail -n 1; }

if [ -z "$(newest initdb)" ]; then
    .ci/install-packages postgresql
fi
bin="$(dirname "$(newest initdb)")"

as_owner=()  # PostgreSQL refuses to run as root
if [ "$(id -u)" -eq 0 ]; then
    as_owner=(setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/tmp)
fi
folder="$(mktemp -d "${TMPDIR:-/tmp}/vitalgrid-postgres.XXXXXX")"
chmod 755 "$folder"
if [ "$(id -u)" -eq 0 ]; then chown postgres "$folder"; fi

command=""
finish() {
    if [ -n "$command" ]; then kill "$command" 2>/dev/null || true; fi
    "${as_owner[@]}" "$bin/pg_ctl" stop -D "$folder/data" -m immediate -s >/dev/null 2>&1 || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

(cd "$folder" && "${as_owner[@]}" "$bin/initdb" -D data --username=vitalgrid --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
    --no-sync >/dev/null)

# durability is not what these tests are about, so the throw-away server may lose everything
options="-c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder -c fsync=off -c synchronous_commit=off
    -c full_page_writes=off -c autovacuum=off -c shared_buffers=64MB -c max_connections=50"
started=""
for _ in 1 2 3 4 5; do  # another program may take the free port first
    port="$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    if (cd "$folder" && "${as_owner[@]}" "$bin/pg_ctl" start -D "$folder/data" -l "$folder/log" -w -t 60 -s \
        -o "-p $port $(echo $options)" >/dev/null); then
        started=yes
        break
    fi
done
if [ -z "$started" ]; then
    echo "PostgreSQL did not start; its log:" >&2
    cat "$folder/log" >&2
    exit 1
fi

export TEST_POSTGRES_URL="postgresql+psycopg://vitalgrid@127.0.0.1:$port/postgres"
"$@" <&0 &  # in the background, because bash does not hear a signal while it waits for what is in front
command=$!
status=0
wait "$command" || status=$?
command=""
exit "$status"
