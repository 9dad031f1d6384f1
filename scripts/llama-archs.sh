#!/bin/sh
# Makes llama.cpp's own set of tiny models, one for nearly every architecture it
# knows, in build/archs, and prints that path. The program that makes them is
# its test test-llama-archs, built here from the same source as our libraries
# (about 8 minutes on two cores, once), with its CPU backend linked in: a test
# program loads no backends from beside it.
set -eu
cd "$(dirname "$0")/.."
peers=$(pwd)/build/peers
archs=$(pwd)/build/archs
mkdir -p "$peers"

if [ ! -d "$archs" ]; then
	if [ ! -f "$peers/archs-done" ]; then
		PATH=$PATH:$(sh scripts/llama-tools.sh)
		source=$(sh scripts/llama-source.sh)
		echo "building test-llama-archs (about 8 minutes on two cores)" >&2
		cmake -S "$source" -B "$peers/archs" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
			-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=OFF \
			-DLLAMA_BUILD_TESTS=ON -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
			-DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF >"$peers/configure-archs.log" 2>&1 || { tail -20 "$peers/configure-archs.log" >&2; exit 1; }
		ninja -C "$peers/archs" test-llama-archs >"$peers/build-archs.log" 2>&1 || { tail -20 "$peers/build-archs.log" >&2; exit 1; }
		touch "$peers/archs-done"
	fi
	echo "making the models" >&2
	rm -rf "$archs.new" && mkdir -p "$archs.new"
	"$peers/archs/bin/test-llama-archs" -o "$archs.new" -d 0.05 >"$peers/archs.log" 2>&1 || { tail -20 "$peers/archs.log" >&2; exit 1; }
	mv "$archs.new" "$archs"
fi
echo "$archs"
