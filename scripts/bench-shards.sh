#!/bin/sh
# The figures of shards beside the whole model (docs/sharding.md): every line is
# the ratio of medians of one interleaved run, on a random-weight Q4_0 model of
# 2.4 B parameters, which is made here once (1.4 GB in build/), and on SmolLM2.
# On a machine that does anything else meanwhile they mean little.
# ROUNDS: how often each is measured. MODELS: other models instead.
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-5}
random=build/random-2b-q4_0.gguf
small=${FETCHED:-models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf}
[ -x bin/skein ] || make build
if [ -z "${MODELS:-}" ]; then
	mkdir -p build
	[ -f "$random" ] || ${GO:-go} run ./scripts/randmodel -out "$random"
	MODELS=$random
	if [ -f "$small" ]; then MODELS="$MODELS $small"; else echo "bench-shards.sh: $small is not there ('make model' fetches it): without it" >&2; fi
fi
figures() {
	echo
	echo "$1"
	shift
	bin/skein shard bench "$@" --rounds "$rounds"
}
echo "load before: $(uptime)"
for model in $MODELS; do
	echo
	echo "== $model"
	figures "2 ranks of 1 thread, one stream, prompt of 512" "$model" --ranks 2 --prompt-tokens 512
	figures "the same with TLS" "$model" --ranks 2 --prompt-tokens 512 --tls
	figures "2 stages of 1 thread, 4 streams" "$model" --stages 2 --streams 4 --prompt-tokens 128
	figures "2 stages of 1 thread, one stream, prompt of 2,048" "$model" --stages 2 --prompt-tokens 2048
	figures "the same with TLS" "$model" --stages 2 --prompt-tokens 2048 --tls
done
echo "load after:  $(uptime)"
