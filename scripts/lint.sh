#!/bin/sh
# Everything that can be said about the source without running it.
set -eu
cd "$(dirname "$0")/.."

echo "gofmt"
unformatted=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 gofmt -l)
if [ -n "$unformatted" ]; then
	echo "lint: not formatted; run gofmt -w on:" >&2
	echo "$unformatted" >&2
	exit 1
fi

echo "import rules"
go test -count=1 -run 'TestImports|TestHouse' ./internal

echo "lock files"
for lock in package-lock.json internal/engine/packages/package-lock.json; do
	if grep -n '"resolved"' "$lock"; then
		echo "lint: $lock names a registry; run npm with omit-lockfile-registry-resolved (.npmrc sets it)" >&2
		exit 1
	fi
done

echo "notices"
go run ./scripts/notices -check

echo "vet"
go vet ./...

echo "staticcheck"
go tool staticcheck ./...
