#!/bin/sh
# Ends what `make run` started in this folder, and nothing else. A node lets
# running requests finish for up to 10 seconds.
set -eu
cd "$(dirname "$0")/.."
if ! pids=$(sh scripts/running.sh); then
	echo "make stop: nothing of this folder is running"
	rm -f .run/pid
	exit 0
fi
# shellcheck disable=SC2086 # one id a word
kill -TERM $pids
# A shell can wait for its own children only, so ask until it is gone.
waited=0
while sh scripts/running.sh >/dev/null; do
	if [ "$waited" -ge 150 ]; then
		left=$(sh scripts/running.sh | tr '\n' ' ')
		echo "make stop: still there after 15 s: ${left}('kill -9 ${left% }' ends at once)" >&2
		exit 1
	fi
	sleep 0.1
	waited=$((waited + 1))
done
rm -f .run/pid
echo "stopped"
