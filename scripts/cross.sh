#!/bin/sh
# Builds for every platform without a C compiler. The tests of other systems
# cannot run here; vet at least compiles them.
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
mkdir -p build/cross
for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64; do
	GOOS=${platform%/*} GOARCH=${platform#*/}
	export GOOS GOARCH
	echo "build $platform"
	go build -o "build/cross/skein-$GOOS-$GOARCH" ./cmd/skein
	go build ./...
done
for GOOS in darwin windows; do
	export GOOS GOARCH=arm64
	echo "vet $GOOS/$GOARCH"
	go vet ./...
done
