package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Keep gives as many lines as a height has room for; the last one says that
// there are more.
func Keep(lines []string, height int) []string {
	if height < 1 || len(lines) <= height {
		return lines
	}
	return append(slices.Clone(lines[:height-1]), fmt.Sprintf("… and %d more", len(lines)-height+1))
}

// Live redraws lines at the end of a terminal. It is used by one goroutine.
type Live struct {
	w     io.Writer
	drawn int // lines that stand there
}

// NewLive draws on w, which is a terminal.
func NewLive(w io.Writer) *Live { return &Live{w: w} }

// Draw puts lines in the place of those that it drew before.
func (l *Live) Draw(lines []string) error {
	text := ""
	if l.drawn > 0 {
		text = fmt.Sprintf("\x1b[%dA\x1b[J", l.drawn)
	}
	l.drawn = len(lines)
	if _, err := io.WriteString(l.w, text+strings.Join(append(lines, ""), "\n")); err != nil {
		return fmt.Errorf("show the progress: %w", err)
	}
	return nil
}
