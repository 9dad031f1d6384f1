#!/bin/sh
# The figures of a node by itself (docs/benchmarks.md), with the machine's load
# before and after: on a busy machine they mean little.
# FETCHED is the small real model of `make model`; without it the demo serves.
set -eu
cd "$(dirname "$0")/.."
demo=${DEMO:-skein-demo-4m-q8_0}
model=${FETCHED:-models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf}
if [ ! -f "$model" ]; then
	echo "bench.sh: $model is not there ('make model' fetches it); measuring the demo model, whose figures have no bars" >&2
	model=$demo
fi
[ -x bin/skein ] || make build
echo "load before: $(uptime)"
bin/skein bench node "$model" --small "$demo" "$@"
echo "load after:  $(uptime)"
