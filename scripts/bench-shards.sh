#!/bin/sh
# The figures of shards beside the whole model (docs/sharding.md): every line is
# the ratio of medians of one interleaved run, on a random-weight Q4_0 model of
# 2.4 B parameters, which is made here once (1.4 GB in build/), and on SmolLM2.
# On a machine that does anything else meanwhile they mean little.
# ROUNDS: how often each is measured. MODELS: other models instead. LINK=1: the
# same over a link of 1 Gbit/s and 0.3 ms between network namespaces, with the
# planner's predictions beside it, and nothing else; needs root on Linux.
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
if [ -n "${LINK:-}" ]; then
	if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ]; then
		echo "bench-shards.sh: NOT RUN: a link of its own needs root on Linux; run 'sudo make bench-shards LINK=1'" >&2
		exit 1
	fi
	for model in $MODELS; do
		echo
		echo "== $model, over a link of 1 Gbit/s and 0.3 ms"
		model=$(cd "$(dirname "$model")" && pwd)/$(basename "$model")
		"${GO:-go}" test ./test/e2e -run '^TestShardLink$' -count=1 -v -timeout 2h \
			-args -shard-link "$model" -shard-link-rounds "$rounds"
	done
	echo "load after:  $(uptime)"
	exit 0
fi
for model in $MODELS; do
	echo
	echo "== $model"
	figures "2 ranks of 1 thread, one stream, prompt of 512" "$model" --ranks 2 --prompt-tokens 512
	figures "the same with TLS" "$model" --ranks 2 --prompt-tokens 512 --tls
	figures "2 stages of 1 thread, 4 streams" "$model" --stages 2 --streams 4 --prompt-tokens 128
	figures "2 stages of 1 thread, one stream, prompt of 2,048" "$model" --stages 2 --balance even --prompt-tokens 2048
	figures "the same with TLS" "$model" --stages 2 --balance even --prompt-tokens 2048 --tls
done
echo "load after:  $(uptime)"
