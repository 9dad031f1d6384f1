#!/bin/sh
# Three nodes of this machine against schemathesis (PyPI), which makes requests
# out of the API's own document, right and wrong ones, and compares the answers
# with it. TIME: seconds (600). Any failure ends it with the request to repeat.
set -eu
cd "$(dirname "$0")/.."
[ -x bin/skein ] || make build
sh test/clients/setup.sh
echo "load before: $(uptime)"
SKEIN_CLIENTS=1 "${GO:-go}" test ./test/clients -run '^TestSchemathesis$' -count=1 -v -timeout "$((${TIME:-600} + 900))s" -args -openapi-time "${TIME:-600}s"
echo "load after:  $(uptime)"
