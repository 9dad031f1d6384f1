#!/bin/sh
# The figures of the management API as a table (docs/benchmarks.md): the handler's
# own time for GET /v1/cluster with 3 and 1,000 nodes beside four running answers,
# how soon a load is seen everywhere, and how long a swap serves nobody. The exit
# code is 1 when a bar is missed.
# N: swaps of each kind (30). LOADS: loads (100). ONLY: some of overview, loads,
# swaps. The swap without room for both needs root and control groups; without,
# its rows are missing, and it is said.
set -u
cd "$(dirname "$0")/.."
parts=${ONLY:-overview,loads,swaps}
work=$(mktemp -d)
node=
. scripts/measure.sh
trap 'clean; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# overview starts a node whose answers run beside what is timed.
overview() {
	model=$DEMO
	if [ -f "$FETCHED" ]; then
		SKEIN_HOME=$work bin/skein models add --quiet "$FETCHED" && model=$(basename "$FETCHED" .gguf)
	fi
	SKEIN_HOME=$work bin/skein serve --quiet --api-port 0 --peer-host 127.0.0.1 --peer-port 0 --gossip-port 0 --no-discovery --load "$model" &
	node=$!
	tries=0
	until url=$(sed -n 's/.*"api": *"\([^"]*\)".*/\1/p' "$work/node.json" 2>/dev/null) && [ -n "$url" ] && SKEIN_HOME=$work bin/skein models status "$model" 2>/dev/null | grep -q ': ready'; do
		tries=$((tries + 1))
		if [ "$tries" -ge 300 ] || ! kill -0 "$node" 2>/dev/null; then
			echo "bench-manage.sh: the node for the running answers did not start" >&2
			status=1
			break
		fi
		sleep 0.1
	done
	[ -z "$url" ] || run ./internal/httpapi/manage TestOverviewFigures -overview-calls "${CALLS:-500}" -beside "$url" -beside-model "$model"
	kill "$node" 2>/dev/null
	wait "$node"
}

for part in $(echo "$parts" | tr , ' '); do
	case $part in
	overview) overview ;;
	loads) run ./test/e2e TestLoadsAreSeen -manage-swaps 1 -manage-loads "${LOADS:-100}" ;;
	swaps) run ./test/e2e TestSwapFigures -manage-swaps "${N:-30}" ;;
	*)
		echo "bench-manage.sh: there is no part $part; there are overview, loads, swaps" >&2
		exit 2
		;;
	esac
done
report
