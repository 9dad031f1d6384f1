#!/bin/sh
# Prints the process ids of this folder's `make run`, one a line, and succeeds, or
# fails when none runs. A process counts only when it is this folder's bin/skein:
# an id in the file may belong to someone else by now.
cd "$(dirname "$0")/.." || exit 1
found=1
while read -r pid; do
	case $pid in '' | *[!0-9]*) continue ;; esac
	case "$(ps -o args= -p "$pid" 2>/dev/null)" in
	"$(pwd)/bin/skein serve"*) echo "$pid"; found=0 ;;
	esac
done 2>/dev/null <.run/pid
exit $found
