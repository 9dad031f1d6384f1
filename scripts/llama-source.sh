#!/bin/sh
# Fetches the source of llama.cpp v0.5.0 into build/peers/llama.cpp, once, and
# prints that path. It is the git bundle inside the npm package node-llama-cpp;
# comparisons and tests are built from it, never the product.
set -eu
cd "$(dirname "$0")/.."
package=node-llama-cpp@3.22.1
integrity=sha512-bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw==
peers=$(pwd)/build/peers

say() { echo "$*" >&2; }

if [ ! -d "$peers/llama.cpp" ]; then
	for tool in git npm node; do
		command -v "$tool" >/dev/null || { say "llama-source.sh: $tool is needed to fetch the source of llama.cpp"; exit 1; }
	done
	say "fetching the source of llama.cpp (npm)"
	rm -rf "$peers/pack" "$peers/llama.cpp.new" && mkdir -p "$peers/pack"
	(cd "$peers/pack" && npm pack --loglevel=error --ignore-scripts "$package" >/dev/null)
	got=$(node -e 'const c=require("crypto"),f=require("fs");console.log("sha512-"+c.createHash("sha512").update(f.readFileSync(process.argv[1])).digest("base64"))' "$peers"/pack/*.tgz)
	[ "$got" = "$integrity" ] || { say "llama-source.sh: $package has integrity $got, want $integrity"; exit 1; }
	tar -xzf "$peers"/pack/*.tgz -C "$peers/pack" package/llama/gitRelease.bundle
	git -c advice.detachedHead=false clone --quiet "$peers/pack/package/llama/gitRelease.bundle" "$peers/llama.cpp.new" >&2
	mv "$peers/llama.cpp.new" "$peers/llama.cpp"
	rm -rf "$peers/pack"
fi
echo "$peers/llama.cpp"
