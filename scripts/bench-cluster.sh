#!/bin/sh
# Masters and workers killed, N of each, in a cluster of four processes
# (docs/benchmarks.md). It is the test TestClusterFaults of test/e2e with more
# rounds, some 10 s each. It fails at the first command or token that is lost or
# doubled.
# N: rounds. SEED: of the victims.
set -eu
cd "$(dirname "$0")/.."
[ -x bin/skein ] || make build
echo "load before: $(uptime)"
"${GO:-go}" test ./test/e2e -run '^TestClusterFaults$' -count=1 -v -timeout 12h \
	-args -cluster-faults "${N:-20}" -cluster-faults-seed "${SEED:-1}"
echo "load after:  $(uptime)"
