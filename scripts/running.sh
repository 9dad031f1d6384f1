#!/bin/sh
# Prints the process id of this folder's `make run` and succeeds, or fails when
# none runs. A process counts only when it is this folder's bin/skein: the id in
# the file may belong to someone else by now.
cd "$(dirname "$0")/.." || exit 1
read -r pid 2>/dev/null <.run/pid || exit 1
case $pid in '' | *[!0-9]*) exit 1 ;; esac
case "$(ps -o args= -p "$pid" 2>/dev/null)" in
"$(pwd)/bin/skein serve"*) echo "$pid" ;;
*) exit 1 ;;
esac
