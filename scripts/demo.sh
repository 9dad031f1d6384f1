#!/bin/sh
# `make demo`: what a person would do first, played in one go. Three nodes on this
# machine become a cluster; a model is loaded, asked, swapped for another, and the
# node that holds it is killed. Nothing is left behind, and the exit code says
# whether all of it worked. It takes some ten seconds, and at most LIMIT (120).
set -eu
cd "$(dirname "$0")/.."
skein=$(pwd)/bin/skein
work=$(mktemp -d "${TMPDIR:-/tmp}/skein-demo.XXXXXX")
pids=
step=start
finish() {
	code=$?
	trap - EXIT
	[ -z "${watch:-}" ] || kill "$watch" 2>/dev/null || :
	[ -z "${watch:-}" ] || wait "$watch" 2>/dev/null || :
	# shellcheck disable=SC2086 # one id a word
	[ -z "$pids" ] || kill $pids 2>/dev/null || :
	for pid in $pids; do wait "$pid" 2>/dev/null || :; done
	if [ "$code" -ne 0 ]; then
		echo "make demo: failed at: $step" >&2
		tail -n 5 "$work"/log.* >&2 || :
	fi
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT
trap 'exit 1' TERM
trap 'exit 130' INT
# A watchdog: nothing here may hang for ever.
(
	trap - EXIT
	sleep "${LIMIT:-120}" &
	nap=$!
	trap 'kill $nap' TERM
	if wait "$nap"; then
		echo "make demo: not done after ${LIMIT:-120} s" >&2
		kill -TERM $$
	fi
) &
watch=$!

# show prints a command as it is typed, and runs it at a node.
show() {
	node=$1
	shift
	step="skein $*"
	echo "\$ skein $*"
	SKEIN_HOME=$work/$node "$skein" "$@"
	echo
}
serve() {
	node=$1
	shift
	SKEIN_HOME=$work/$node "$skein" serve --quiet --no-discovery --peer-host 127.0.0.1 --namespace "demo-$$" --models-dir "$work/models" \
		--api-port 0 --peer-port 0 "$@" >"$work/log.$node" 2>&1 &
	pids="$pids $!"
	last=$!
}
# until_says waits until a command at a node says something.
until_says() {
	node=$1 want=$2
	shift 2
	step="wait until 'skein $*' says '$want'"
	while ! SKEIN_HOME=$work/$node "$skein" "$@" 2>&1 | grep -q "$want"; do sleep 0.2; done
}

mkdir "$work/models"
# Two models of 4 million weights: one, and the same under another name.
cp "models/demo/$DEMO.gguf" "$work/models/first.gguf"
cp "models/demo/$DEMO.gguf" "$work/models/second.gguf"

SKEIN_SECRET=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export SKEIN_SECRET
gossip=$((20000 + $(od -An -N2 -tu2 /dev/urandom | tr -d ' ') % 10000))
echo "# Three nodes on this machine, each with a home and ports of its own."
serve one --gossip-port "$gossip"
one=$last
serve two --gossip-port 0 --join "127.0.0.1:$gossip"
two=$last
serve three --gossip-port 0 --join "127.0.0.1:$gossip"
three=$last
until_says one '^3 nodes, master' status
until_says one 'second' models status second
until_says one 'load it with' models status second
# A node that has just come is listed by its id until its name has arrived.
step="wait until all names are known"
while SKEIN_HOME=$work/one "$skein" status | grep -Eq '^[A-Z2-7]{26} '; do sleep 0.2; done
show one status

echo "# A model is loaded on one of them, and answers at any."
show one models load first --wait
show two run first "What is Skein?"

echo "# Another takes its place: one decision, or none."
show two models swap first second --wait
show three run second "What is Skein?"

echo "# The node that holds it is killed: it is placed again without anyone asking."
holder=
for node in one two three; do
	id=$(cat "$work/$node/node_id")
	if SKEIN_HOME=$work/one "$skein" models --json | grep -q "\"$id\""; then holder=$node; fi
done
[ -n "$holder" ] || { step="find the node that holds the model"; exit 1; }
case $holder in one) victim=$one other=two ;; two) victim=$two other=one ;; three) victim=$three other=one ;; esac
echo "\$ kill -9 $victim    # node $holder"
kill -9 "$victim"
until_says "$other" '^2 nodes, master' status
until_says "$other" '^second: ready' models status second
show "$other" status
show "$other" run second "What is Skein?"
step="clean up"
echo "# All of it worked."
