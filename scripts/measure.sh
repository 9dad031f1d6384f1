# Sourced by the campaigns (bench-cluster.sh, bench-manage.sh) in the folder above:
# tests that measure, their figures, and the table in the end. It sets status, which
# is 1 once something failed.
figures=$(mktemp)
measured=$(mktemp)
go=${GO:-go}
status=0
before=$(uptime)
[ -x bin/skein ] || make build || exit 1

# clean removes what is here; scripts with more to remove have a trap of their own.
clean() { rm -f "$figures" "$measured"; }
trap clean EXIT

# run PACKAGE TEST FLAGS...: the lines that say what was measured, or what failed.
run() {
	package=$1 name=$2
	shift 2
	echo "== $name"
	if "$go" test "$package" -run "^$name\$" -count=1 -v -timeout 12h -args -figures "$figures" "$@" >"$measured" 2>&1; then
		grep -E 'SKIP|NOT RUN|values, p50' "$measured"
	else
		cat "$measured"
		status=1
	fi
}

# report prints the table, with the machine's load before and after, and ends.
report() {
	echo
	"$go" run ./scripts/figures "$figures" || status=1
	echo
	echo "load before: $before"
	echo "load after:  $(uptime)"
	exit $status
}
