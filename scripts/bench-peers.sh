#!/bin/sh
# A node beside llama-server v0.5.0, which is built first (about 6 minutes,
# once), with the machine's load before and after.
set -eu
cd "$(dirname "$0")/.."
model=${FETCHED:-models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf}
[ -x bin/skein ] || make build
[ -f "$model" ] || sh scripts/model.sh "$model"
server=$(sh scripts/llama-server.sh)
echo "load before: $(uptime)"
bin/skein bench peers --llama-server "$server" --model "$model" --text "$@"
echo "load after:  $(uptime)"
