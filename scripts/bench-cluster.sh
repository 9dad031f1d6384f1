#!/bin/sh
# The figures of a cluster as a table (docs/benchmarks.md): masters, workers and
# API nodes killed, cables cut, networks split, N times each; and what needs no
# faults. They are tests with more rounds. The exit code is 1 when a bar is
# missed or anything is lost or doubled.
# N: faults of each kind. ONLY: some of the parts below. SEED: of the victims.
# Cables and splits need root and ip(8); without, their rows are missing, and it
# is said.
set -u
cd "$(dirname "$0")/.."
all=master,worker,client,cut,partition,answer,messages,idle,placement,fifty,seeds
parts=${ONLY:-$all}
figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
go=${GO:-go}
status=0
[ -x bin/skein ] || make build || exit 1

# run PACKAGE TEST FLAGS...: the lines that say what was measured, or what failed.
run() {
	package=$1 name=$2
	shift 2
	echo "== $name"
	log=$(mktemp)
	if "$go" test "$package" -run "^$name\$" -count=1 -v -timeout 12h -args -figures "$figures" "$@" >"$log" 2>&1; then
		grep -E 'SKIP|values, p50' "$log"
	else
		cat "$log"
		status=1
	fi
	rm -f "$log"
}
faults() { run ./test/e2e "$1" -cluster-faults "${N:-20}" -cluster-faults-seed "${SEED:-1}"; }

before=$(uptime)
for part in $(echo "$parts" | tr , ' '); do
	case $part in
	master) faults TestMastersKilled ;;
	worker) faults TestWorkersKilled ;;
	client) faults TestClientsNodesKilled ;;
	cut) faults TestCablesCut ;;
	partition) faults TestPartitions ;;
	answer) faults TestCableCutAndTheAnswerGoesOn ;;
	messages) run ./test/e2e TestTokensNeedNoControlMessages ;;
	idle) run ./test/e2e TestIdleNodes ;;
	placement) run ./internal/cluster/placement TestPlaceTimes ;;
	fifty)
		run ./internal/sim TestFifty
		run ./internal/node/control TestManyNodes -nodes 50
		;;
	seeds) run ./internal/sim TestRandom ;;
	*)
		echo "bench-cluster.sh: there is no part $part; there are $all" >&2
		exit 2
		;;
	esac
done
echo
"$go" run ./scripts/figures "$figures" || status=1
echo
echo "load before: $before"
echo "load after:  $(uptime)"
exit $status
