#!/bin/sh
# Builds llama-server v0.5.0, for comparisons only, into build/peers, and prints
# the path of the program. The source is the git bundle inside the npm package
# node-llama-cpp. Both sides of a comparison must run the same kernels: so the
# CPU libraries of our engine take the place of the freshly built ones
# (GGML_NATIVE with GCC 12 also crashes on processors with AMX).
set -eu
cd "$(dirname "$0")/.."
package=node-llama-cpp@3.22.1
integrity=sha512-bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw==
peers=$(pwd)/build/peers
program=$peers/build/bin/llama-server
mkdir -p "$peers"

say() { echo "$*" >&2; }

if [ ! -f "$peers/done" ]; then
	for tool in git npm node c++; do
		command -v "$tool" >/dev/null || { say "llama-server.sh: $tool is needed to build llama-server"; exit 1; }
	done
	if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
		say "installing cmake and ninja (pip)"
		python3 -m venv "$peers/tools"
		"$peers/tools/bin/pip" install --quiet --disable-pip-version-check cmake==4.4.4 ninja==1.13.2 >&2
		PATH=$peers/tools/bin:$PATH
	fi
	if [ ! -d "$peers/llama.cpp" ]; then
		say "fetching the source of llama.cpp (npm)"
		rm -rf "$peers/pack" && mkdir "$peers/pack"
		(cd "$peers/pack" && npm pack --loglevel=error --ignore-scripts "$package" >/dev/null)
		got=$(node -e 'const c=require("crypto"),f=require("fs");console.log("sha512-"+c.createHash("sha512").update(f.readFileSync(process.argv[1])).digest("base64"))' "$peers"/pack/*.tgz)
		[ "$got" = "$integrity" ] || { say "llama-server.sh: $package has integrity $got, want $integrity"; exit 1; }
		tar -xzf "$peers"/pack/*.tgz -C "$peers/pack" package/llama/gitRelease.bundle
		git -c advice.detachedHead=false clone --quiet "$peers/pack/package/llama/gitRelease.bundle" "$peers/llama.cpp.new" >&2
		mv "$peers/llama.cpp.new" "$peers/llama.cpp"
		rm -rf "$peers/pack"
	fi
	say "building llama-server (about 6 minutes on two cores)"
	cmake -S "$peers/llama.cpp" -B "$peers/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
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
