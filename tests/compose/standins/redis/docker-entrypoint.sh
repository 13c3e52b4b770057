#!/bin/sh
# As much of what the official image does as the compose file makes use of.
set -e
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    chown redis:redis .
    exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
fi
exec "$@"
