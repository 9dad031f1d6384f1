package cli

import (
	"encoding/json"
	"fmt"

	"golang.org/x/term"
)

// printJSON writes one indented value to stdout.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.Stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}

// isTerminal says whether a stream is one that a person looks at or types on.
func isTerminal(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// styled says whether stdout may hold colours.
func (a *app) styled() bool { return a.coloured(a.Stdout) }

// coloured says whether a stream may hold colours: it is a terminal that can
// show them, and NO_COLOR is not set.
func (a *app) coloured(stream any) bool {
	return isTerminal(stream) && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb"
}
