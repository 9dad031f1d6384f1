package runner

import (
	"fmt"
	"os"
)

// Levels of ggml's log.
const (
	logInfo  = 2
	logWarn  = 3
	logError = 4
)

// logLine writes one line to stderr, which the node reads line by line: W and
// E mark what someone should see, the rest is for debugging.
func logLine(level int, line string) {
	mark := "I"
	switch level {
	case logWarn:
		mark = "W"
	case logError:
		mark = "E"
	}
	fmt.Fprintf(os.Stderr, "%s %s\n", mark, line)
}
