#!/bin/sh
# Prints a folder for PATH that has cmake and ninja; installs them there (pip)
# where the system lacks them.
set -eu
cd "$(dirname "$0")/.."
tools=$(pwd)/build/peers/tools
command -v c++ >/dev/null || { echo "llama-tools.sh: a C++ compiler is needed to build llama.cpp; install g++ or clang" >&2; exit 1; }
if ! { command -v cmake && command -v ninja; } >/dev/null && [ ! -x "$tools/bin/ninja" ]; then
	echo "installing cmake and ninja (pip)" >&2
	python3 -m venv "$tools"
	"$tools/bin/pip" install --quiet --disable-pip-version-check cmake==4.4.4 ninja==1.13.2 >&2
fi
echo "$tools/bin"
