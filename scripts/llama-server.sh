#!/bin/sh
# Builds llama-server v0.5.0, for comparisons only, into build/peers, and prints
# the path of the program. Both sides of a comparison must run the same kernels:
# so the CPU libraries of our engine take the place of the freshly built ones
# (GGML_NATIVE with GCC 12 also crashes on processors with AMX).
set -eu
cd "$(dirname "$0")/.."
peers=$(pwd)/build/peers
program=$peers/build/bin/llama-server
mkdir -p "$peers"

if [ ! -f "$peers/done" ]; then
	PATH=$PATH:$(sh scripts/llama-tools.sh)
	source=$(sh scripts/llama-source.sh)
	echo "building llama-server (about 6 minutes on two cores)" >&2
	cmake -S "$source" -B "$peers/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
		-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
		-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
		-DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF >"$peers/configure.log" 2>&1 || { tail -20 "$peers/configure.log" >&2; exit 1; }
	ninja -C "$peers/build" llama-server >"$peers/build.log" 2>&1 || { tail -20 "$peers/build.log" >&2; exit 1; }
	touch "$peers/done"
fi
# Ours may have been installed anew since.
rm -f "$peers"/build/bin/libggml-cpu*
cp bin/lib/libggml-cpu* "$peers/build/bin/"
echo "$program"
