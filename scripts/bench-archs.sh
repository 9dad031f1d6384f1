#!/bin/sh
# Which of llama.cpp's own tiny models, one for nearly every architecture it
# knows, are right in shards (docs/benchmarks.md). The models are made first.
# Fails when any is wrong. LAYOUTS: ways to cut; TOKENS: positions compared.
set -eu
cd "$(dirname "$0")/.."
[ -x bin/skein ] || make build
models=$(sh scripts/llama-archs.sh)
# Names on the command line must be paths; no node and no settings play a part.
SKEIN_HOME=$(mktemp -d)
export SKEIN_HOME
trap 'rm -rf "$SKEIN_HOME"' EXIT
"${GO:-go}" run ./scripts/archs -layouts "${LAYOUTS:-2x1,1x2,2x2}" -tokens "${TOKENS:-40}" "$models"
