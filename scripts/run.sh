#!/bin/sh
# Starts the node of `make run` in the foreground. The shell is replaced by the
# node, so that signals reach it and its process id is the one noted for
# `make stop`.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)

if pid=$(sh scripts/running.sh); then
	echo "make run: already running as process $(echo "$pid" | head -n 1); 'make stop' ends it" >&2
	exit 1
fi

set -- --load "$DEMO"
if [ -f "$FETCHED" ]; then
	# Registered again, because SKEIN_HOME may be another than when it was fetched.
	"$root/bin/skein" models add --quiet "$FETCHED" >/dev/null
	set -- --load "$(basename "$FETCHED" .gguf)"
fi
if [ -n "${PORT:-}" ]; then
	set -- "$@" --api-port "$PORT"
fi
mkdir -p .run
echo $$ >.run/pid
exec "$root/bin/skein" serve "$@"
