#!/bin/sh
# Starts the node of `make run` in the foreground. The shell is replaced by the
# node, so that signals reach it and its process id is the one noted for
# `make stop`.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)

if pid=$(sh scripts/running.sh); then
	echo "make run: already running as process $pid; 'make stop' ends it" >&2
	exit 1
fi

set -- --load "$DEMO"
fetched=models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf
if [ -f "$fetched" ]; then
	set -- --models-dir "$root/models/fetched" --load SmolLM2-135M-Instruct.Q4_1
fi
if [ -n "${PORT:-}" ]; then
	set -- "$@" --api-port "$PORT"
fi
mkdir -p .run
echo $$ >.run/pid
exec "$root/bin/skein" serve "$@"
