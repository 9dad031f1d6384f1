#!/bin/sh
# The figures of the management API (docs/manage.md): the handler's own time for
# the overview of 3 and of 1,000 nodes, and with three nodes of this machine how
# soon a load is seen everywhere and how long a swap serves nobody. N: rounds.
set -eu
cd "$(dirname "$0")/.."
[ -x bin/skein ] || make build
echo "load before: $(uptime)"
"${GO:-go}" test ./internal/httpapi/manage -run '^$' -bench '^BenchmarkOverview$' -benchtime "${BENCHTIME:-2s}" | grep -E 'nodes=|FAIL'
echo "bar: 50 ms at the 99th percentile with 1,000 nodes"
"${GO:-go}" test ./test/e2e -run '^TestManageFigures$' -count=1 -v -timeout 30m -args -manage-figures "${N:-30}" | grep -E 'p50|FAIL|^ok|managefigures'
echo "load after:  $(uptime)"
