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
. scripts/measure.sh

faults() { run ./test/e2e "$1" -cluster-faults "${N:-20}" -cluster-faults-seed "${SEED:-1}"; }

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
report
