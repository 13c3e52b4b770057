#!/bin/bash
# As much of what the official image does as the compose file makes use of.
set -euo pipefail

if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    export POSTGRES_PASSWORD POSTGRES_USER="${POSTGRES_USER:-postgres}"
    POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    chown postgres:postgres "$PGDATA" /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        --auth-local=trust --auth-host=scram-sha-256
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql --username="$POSTGRES_USER" --set=ON_ERROR_STOP=1 --no-psqlrc --file="$file"
    done
    pg_ctl --wait --mode=fast stop
fi

exec "$@"
