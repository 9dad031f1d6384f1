#!/bin/sh
# Shards killed and stopped at random moments, N times in each shape of a group
# (docs/benchmarks.md). It is the test TestShardFaults of test/e2e with more
# rounds and another model; some 5 s a round. It fails at the first error that is
# missing or late, wrong token, or leftover.
# N: rounds. SEED: of moments and victims. MODEL: besides the demo model.
set -eu
cd "$(dirname "$0")/.."
[ -x bin/skein ] || make build
model=${MODEL:-${FETCHED:-models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf}}
if [ -f "$model" ]; then
	model=$(cd "$(dirname "$model")" && pwd)/$(basename "$model")
else
	echo "bench-shard-faults.sh: $model is not there ('make model' fetches it): the demo model only" >&2
	model=
fi
echo "load before: $(uptime)"
"${GO:-go}" test ./test/e2e -run '^TestShardFaults$' -count=1 -v -timeout 12h \
	-args -shard-faults-slack 0s -shard-faults "${N:-100}" -shard-faults-seed "${SEED:-1}" -shard-faults-model "$model"
echo "load after:  $(uptime)"
