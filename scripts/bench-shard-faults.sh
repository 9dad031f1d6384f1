#!/bin/sh
# Shards killed and stopped at random moments, N times in each shape of a group
# (docs/benchmarks.md). It is the test TestShardFaults of test/e2e with more
# rounds; some 2 s a round, so 100 in each of three shapes take ten minutes. It
# fails at the first error that is missing or late, wrong token, or leftover.
# N: rounds. SEED: of moments and victims. MODEL: a file, to do the same with it
# after the demo model.
set -eu
cd "$(dirname "$0")/.."
[ -x bin/skein ] || make build
model=${MODEL:-}
if [ -n "$model" ]; then
	[ -f "$model" ] || { echo "bench-shard-faults.sh: $model is not there" >&2; exit 1; }
	model=$(cd "$(dirname "$model")" && pwd)/$(basename "$model")
fi
echo "load before: $(uptime)"
"${GO:-go}" test ./test/e2e -run '^TestShardFaults$' -count=1 -v -timeout 12h \
	-args -shard-faults-slack 0s -shard-faults "${N:-100}" -shard-faults-seed "${SEED:-1}" -shard-faults-model "$model"
echo "load after:  $(uptime)"
