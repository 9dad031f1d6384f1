#!/bin/sh
# The figures of shards beside the whole model (docs/sharding.md) as a table with
# bars: every line is the ratio of medians of one interleaved run, on a
# random-weight Q4_0 model of 2.4 B parameters, which is made here once (1.4 GB in
# build/), and on SmolLM2, where they are reported only. It takes some 12 minutes;
# on a machine that does anything else meanwhile the figures mean little. The exit
# code is 1 when a bar is missed.
# ROUNDS: how often each is measured (3; the longest prompt one time less, several
# streams three times as often).
# MODELS: other models instead. LINK=1: the same over a link of 1 Gbit/s and 0.3 ms
# between network namespaces, with the planner's predictions beside it, and nothing
# else; needs root on Linux.
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-3}
random=build/random-2b-q4_0.gguf
small=${FETCHED:-models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf}
[ -x bin/skein ] || make build
if [ -z "${MODELS:-}" ]; then
	mkdir -p build
	[ -f "$random" ] || ${GO:-go} run ./scripts/randmodel -out "$random"
	MODELS=$random
	if [ -f "$small" ]; then MODELS="$MODELS $small"; else echo "bench-shards.sh: $small is not there ('make model' fetches it): without it" >&2; fi
fi
before=$(uptime)
if [ -n "${LINK:-}" ]; then
	if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ]; then
		echo "bench-shards.sh: NOT RUN: a link of its own needs root on Linux; run 'sudo make bench-shards LINK=1'" >&2
		exit 1
	fi
	status=0
	for model in $MODELS; do
		echo "== $model, over a link of 1 Gbit/s and 0.3 ms"
		model=$(cd "$(dirname "$model")" && pwd)/$(basename "$model")
		"${GO:-go}" test ./test/e2e -run '^TestShardLink$' -count=1 -v -timeout 2h \
			-args -shard-link "$model" -shard-link-rounds "${ROUNDS:-2}" || status=1
	done
	echo "load before: $before"
	echo "load after:  $(uptime)"
	exit $status
fi

figures=$(mktemp)
table=$(mktemp)
trap 'rm -f "$figures" "$table"' EXIT
status=0

# measure FLAGS...: times $model, and keeps the figures for the rows that follow.
measure() {
	echo "== $model $*"
	bin/skein shard bench "$model" --json "$@" >"$figures"
}

value() { sed -n "/\"figure\":\"$2\".*\"baseline\":\"$3\"/s/.*\"$1\":\([0-9.e+-]*\).*/\1/p" "$figures"; }

# row NAME FIGURE BASELINE [BAR]: a line of the table. BAR is the least ratio.
row() {
	ratio=$(value ratio "$2" "$3")
	verdict=reported
	if [ -n "${4:-}" ]; then
		verdict=$(awk -v r="$ratio" -v b="$4" 'BEGIN { print (r != "" && r + 0 >= b) ? "met" : "**missed**" }')
		[ "$verdict" = met ] || status=1
	fi
	awk -v n="$1" -v s="$(value sharded "$2" "$3")" -v w="$(value whole "$2" "$3")" -v r="$ratio" -v b="${4:+>= $4}" -v v="$verdict" \
		'BEGIN { printf "| %-66s | %7.2f | %7.2f | %5.3f | %-7s | %s |\n", n, s, w, r, b, v }' >>"$table"
}

# ceiling: a line that says what two stages could reach of two threads: one that
# loses nothing is twice one thread with half of the streams.
ceiling() {
	awk -v s="$(value whole decode whole-1-thread)" -v w="$(value whole decode whole-2-threads)" \
		'BEGIN { printf "| %-66s | %7.2f | %7.2f | %5.3f | %-7s | %s |\n", "its ceiling: twice the whole with 1 thread, half of the streams", 2 * s, w, 2 * s / w, "", "reported" }' >>"$table"
}

for model in $MODELS; do
	# Bars are for models whose token takes longer than the way between two processes.
	bar() { if [ "$model" = "$small" ]; then echo; else echo "$1"; fi; }
	printf '\n%s\n| %-66s | sharded | beside  | ratio | bar     | |\n|---|---|---|---|---|---|\n' "$model" "figure (tok/s)" >>"$table"
	measure --ranks 2 --prompt-tokens 512 --decode-tokens 48 --rounds "$rounds"
	row "2 ranks, decode, one stream / whole with 2 threads" decode whole-2-threads "$(bar 0.92)"
	row "the same / whole with 1 thread" decode whole-1-thread
	row "2 ranks, prompt of 512 / whole with 2 threads" prefill whole-2-threads "$(bar 1.00)"
	row "the same / whole with 1 thread" prefill whole-1-thread
	# Two stages at once read their weights as fast as the memory can give, and that
	# varies from second to second where virtual machines share it: many short rounds.
	measure --stages 2 --streams 4 --prompt-tokens 8 --decode-tokens 32 --rounds "$((rounds * 3))" --twice
	row "2 stages, decode, 4 streams / whole with 1 thread, 2 streams" decode whole-1-thread "$(bar 1.80)"
	row "the same / two wholes at once with 1 thread, 2 streams each" decode two-wholes
	row "the same / whole with 2 threads, 4 streams" decode whole-2-threads
	ceiling
	measure --stages 2 --streams 8 --prompt-tokens 8 --decode-tokens 32 --rounds "$rounds"
	row "2 stages, decode, 8 streams / whole with 1 thread, 4 streams" decode whole-1-thread
	row "the same / whole with 2 threads, 8 streams" decode whole-2-threads
	ceiling
	measure --stages 2 --balance even --prompt-tokens 2048 --decode-tokens 8 --rounds "$((rounds > 1 ? rounds - 1 : 1))" --whole-threads 1
	row "2 stages, prompt of 2,048 / whole with 1 thread" prefill whole-1-thread "$(bar 1.80)"
	measure --stages 2 --balance even --prompt-tokens 8 --decode-tokens 64 --rounds "$((rounds + 2))" --whole-threads 1
	row "2 stages, decode, one stream / whole with 1 thread" decode whole-1-thread "$(bar 0.97)"
	measure --ranks 2 --prompt-tokens 384 --decode-tokens 48 --rounds "$rounds" --tls --whole-threads 0
	row "2 ranks with TLS, decode / the same without" decode plain "$(bar 0.97)"
	row "2 ranks with TLS, prompt of 384 / the same without" prefill plain "$(bar 0.95)"
done
cat "$table"
echo
echo "load before: $before"
echo "load after:  $(uptime)"
exit $status
