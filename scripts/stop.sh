#!/bin/sh
# Ends what `make run` started in this folder, and nothing else. The node lets
# running requests finish for up to 10 seconds.
set -eu
cd "$(dirname "$0")/.."
if ! pid=$(sh scripts/running.sh); then
	echo "make stop: nothing of this folder is running"
	rm -f .run/pid
	exit 0
fi
kill -TERM "$pid"
# A shell can wait for its own children only, so ask until it is gone.
waited=0
while sh scripts/running.sh >/dev/null; do
	if [ "$waited" -ge 150 ]; then
		echo "make stop: process $pid is still there after 15 s; 'kill -9 $pid' ends it at once" >&2
		exit 1
	fi
	sleep 0.1
	waited=$((waited + 1))
done
rm -f .run/pid
echo "stopped"
