#!/bin/sh
# Installs the clients that clients_test.go runs, exactly as pinned here, into
# build/clients/; what is there already is not installed again.
set -eu
cd "$(dirname "$0")"
out=../../build/clients
mkdir -p "$out"

# newer FILE STAMP: FILE changed since STAMP was made.
newer() { [ ! -f "$2" ] || [ -n "$(find "$1" -newer "$2")" ]; }

# python NAME: what NAME/requirements.txt lists, in a folder of its own, since
# clients and tools may want different versions of the same package.
python() {
	if newer "$1/requirements.txt" "$out/$1.stamp"; then
		echo "installing the Python clients and tools of test/clients/$1 (pip)"
		rm -rf "$out/$1" "$out/$1.stamp"
		# pip warns of packages elsewhere on the machine, which do not matter here.
		python3 -m pip install --quiet --disable-pip-version-check --no-compile \
			--target "$out/$1" -r "$1/requirements.txt" >"$out/pip.log" 2>&1 || {
			cat "$out/pip.log" >&2
			echo "setup: pip could not install the Python clients; python3 with pip is needed" >&2
			exit 1
		}
		touch "$out/$1.stamp"
	fi
}
python python
python openapi
if newer node/package-lock.json "$out/node.stamp"; then
	echo "installing the JavaScript client (npm)"
	rm -rf "$out/node" "$out/node.stamp"
	mkdir -p "$out/node"
	cp node/package.json node/package-lock.json node/.npmrc "$out/node/"
	(cd "$out/node" && npm ci --ignore-scripts --loglevel=error --no-progress >/dev/null)
	touch "$out/node.stamp"
fi
if ! command -v curl >/dev/null; then
	echo "setup: WARNING: curl is not installed: it will NOT be tested" >&2
fi
