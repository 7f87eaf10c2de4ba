#!/bin/sh
# Make .env with fresh secrets for docker compose, once; an .env that exists is left alone.
set -eu
umask 077
cd "$(dirname "$0")/.."
if [ -e .env ]; then
    echo ".env exists; left as it is"
    exit 0
fi
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
printf 'INFLUX_TOKEN=%s\nINFLUX_PASSWORD=%s\n' "$(random)" "$(random)" > .env
echo "made .env"
