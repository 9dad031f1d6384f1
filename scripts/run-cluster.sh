#!/bin/sh
# `make run NODES=N`: N nodes on this machine as one cluster, each with a home of
# its own in .run/nodes and free ports, and a model that is split over all of
# them. The first has the usual API port. Ends with the last of them: Ctrl-C here
# or `make stop` elsewhere ends all.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
nodes=$1
case $nodes in '' | *[!0-9]* | 0) echo "make run: NODES=$nodes is not a number of nodes" >&2; exit 2 ;; esac

if pid=$(sh scripts/running.sh); then
	echo "make run: already running as process $(echo "$pid" | head -n 1); 'make stop' ends it" >&2
	exit 1
fi
model=$DEMO
homes=$root/.run/nodes
mkdir -p "$homes"
: >.run/pid
if [ -f "$FETCHED" ]; then
	# On the first node alone: the others fetch their parts from it.
	SKEIN_HOME=$homes/1 "$root/bin/skein" models add --quiet "$FETCHED" >/dev/null
	model=$(basename "$FETCHED" .gguf)
fi
pids=
# An interrupt reaches the nodes too; this waits until they are gone.
trap 'kill $pids 2>/dev/null || :' INT TERM
gossip=${GOSSIP_PORT:-52413}
i=1
while [ "$i" -le "$nodes" ]; do
	if [ "$i" -eq 1 ]; then
		set -- --gossip-port "$gossip" --peer-port 0 ${PORT:+--api-port "$PORT"}
	else
		set -- --join "127.0.0.1:$gossip" --gossip-port 0 --peer-port 0 --api-port 0 --quiet
	fi
	SKEIN_HOME=$homes/$i "$root/bin/skein" serve --peer-host 127.0.0.1 --no-discovery "$@" &
	pids="$pids $!"
	echo "$!" >>.run/pid
	i=$((i + 1))
done
# Other nodes may come a moment later, and a model that was loaded when they
# stopped comes back by itself.
tries=0
until SKEIN_HOME=$homes/1 "$root/bin/skein" models load "$model" --min-nodes "$nodes" >/dev/null 2>.run/load; do
	grep -q 'already' .run/load && break
	tries=$((tries + 1))
	if [ "$tries" -ge 50 ] || ! sh scripts/running.sh >/dev/null; then
		cat .run/load >&2
		break
	fi
	sleep 0.2
done
SKEIN_HOME=$homes/1 "$root/bin/skein" status || :
echo "SKEIN_HOME=$homes/1 bin/skein run $model   chats with it; 'make stop' ends all"
for pid in $pids; do
	# A trap interrupts wait.
	while kill -0 "$pid" 2>/dev/null; do wait "$pid" || :; done
done
