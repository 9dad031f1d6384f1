// Package table lays out text for terminals: tables that keep within a width,
// colours, bars, and sentences broken between words.
//
// It belongs to the commands of package cli and knows nothing of what they
// show. It imports nothing of ours. A Table is used by one goroutine.
package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Style is how a cell looks where colours may be shown.
type Style string

// Styles, as the terminal's codes.
const (
	Plain Style = ""
	Bold  Style = "1"
	Faint Style = "2"
	Good  Style = "32"
	Busy  Style = "33"
	Bad   Style = "31"
)

// Cell is one field. One without a style is plain.
type Cell struct {
	Text  string
	Style Style
	Short string // what may stand there instead where the place is scarce; "": nothing shorter
}

// T is a plain cell.
func T(text string) Cell { return Cell{Text: text} }

// Table has a row of headings and rows of cells. Where it is wider than its
// terminal it gives way by its steps, in the order in which they were given,
// each only as far as it must.
type Table struct {
	head  []string
	rows  [][]Cell
	right map[int]bool
	steps []step
}

// New makes an empty table with its headings.
func New(head ...string) *Table { return &Table{head: head, right: map[int]bool{}} }

// Add adds a row.
func (t *Table) Add(cells ...Cell) { t.rows = append(t.rows, cells) }

// Right aligns columns to the right.
func (t *Table) Right(columns ...int) *Table {
	for _, c := range columns {
		t.right[c] = true
	}
	return t
}

// step is one way to give way.
type step struct {
	column int
	kind   stepKind
	least  int // places
}

type stepKind int

const (
	cut stepKind = iota
	shorten
	drop
)

// Cut lets a column be cut, to so many characters at least.
func (t *Table) Cut(column, least int) *Table {
	t.steps = append(t.steps, step{column, cut, least})
	return t
}

// Shorten lets a column show the short form of its cells.
func (t *Table) Shorten(column int) *Table {
	t.steps = append(t.steps, step{column, shorten, 0})
	return t
}

// Drop lets a column be left out.
func (t *Table) Drop(column int) *Table {
	t.steps = append(t.steps, step{column, drop, 0})
	return t
}

// layout is how the columns stand.
type layout struct {
	widths  []int
	short   []bool
	dropped []bool
}

// width of all columns that are left, with two blanks between them.
func (l layout) width() int {
	sum := -2
	for i, w := range l.widths {
		if !l.dropped[i] {
			sum += w + 2
		}
	}
	return max(sum, 0)
}

// natural is how wide a column is when nothing of it is cut.
func (t *Table) natural(column int, short bool) int {
	w := Width(t.head[column])
	for _, row := range t.rows {
		w = max(w, Width(row[column].text(short)))
	}
	return w
}

func (c Cell) text(short bool) string {
	if short && c.Short != "" {
		return Visible(c.Short)
	}
	return Visible(c.Text)
}

// fit lays the columns out within a width; 0: as wide as they are.
func (t *Table) fit(width int) layout {
	n := len(t.head)
	l := layout{make([]int, n), make([]bool, n), make([]bool, n)}
	for i := range l.widths {
		l.widths[i] = t.natural(i, false)
	}
	if width <= 0 {
		return l
	}
	for _, s := range t.steps {
		over := l.width() - width
		if over <= 0 {
			return l
		}
		switch s.kind {
		case drop:
			l.dropped[s.column] = true
		case shorten:
			l.short[s.column] = true
			l.widths[s.column] = min(l.widths[s.column], t.natural(s.column, true))
		case cut:
			least := max(s.least, Width(t.head[s.column]))
			l.widths[s.column] = max(min(l.widths[s.column], least), l.widths[s.column]-over)
		}
	}
	// No step is left: the columns at the end go, but never the first.
	for i := n - 1; i > 0 && l.width() > width; i-- {
		l.dropped[i] = true
	}
	if over := l.width() - width; over > 0 {
		l.widths[0] = max(1, l.widths[0]-over)
	}
	return l
}

// Lines gives the table as text: at most width characters wide, or if that is
// 0, as wide as it is.
func (t *Table) Lines(width int, styled bool) []string {
	l := t.fit(width)
	head := make([]Cell, len(t.head))
	for i, h := range t.head {
		head[i] = Cell{Text: h, Style: Faint}
	}
	var out []string
	for _, row := range slices.Concat([][]Cell{head}, t.rows) {
		var line strings.Builder
		pad, first := 0, true // pad: blanks owed to the column before, so that no line ends in some
		for i, c := range row {
			if l.dropped[i] {
				continue
			}
			if !first {
				pad += 2
			}
			first = false
			text := Clip(c.text(l.short[i]), l.widths[i])
			free := l.widths[i] - Width(text)
			if t.right[i] {
				pad, free = pad+free, 0
			}
			if text == "" {
				pad += free
				continue
			}
			line.WriteString(strings.Repeat(" ", pad) + Paint(text, c.Style, styled))
			pad = free
		}
		out = append(out, line.String())
	}
	return out
}

// Paint gives a text a style.
func Paint(text string, s Style, styled bool) string {
	if !styled || s == Plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// Clip cuts a text that takes more places than width, which shows.
func Clip(text string, width int) string {
	text = Visible(text)
	if Width(text) <= width {
		return text
	}
	if width < 2 {
		return beginning(text, width)
	}
	return beginning(text, width-1) + "…"
}

// Visible keeps control characters of names and errors off the terminal.
func Visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return utf8.RuneError // the last two turn the direction of what follows
		}
		return r
	}, s)
}

// Bar shows a part of a whole in so many characters between brackets.
func Bar(percent float64, width int) string {
	full := int(percent*float64(width)/100 + 0.5)
	full = max(0, min(full, width))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]"
}

// Wrap breaks a sentence between words into lines of at most width characters;
// 0: it stays one. Lines after the first are indented. A word that is longer
// than a line stays whole, so that it can be copied.
func Wrap(text string, width, indent int) []string {
	if width <= 0 || Width(text) <= width {
		return []string{text}
	}
	margin := strings.Repeat(" ", max(0, len(text)-len(strings.TrimLeft(text, " "))))
	var out []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = margin + word
		case Width(line)+1+Width(word) <= width:
			line += " " + word
		default:
			out = append(out, line)
			line = margin + strings.Repeat(" ", indent) + word
		}
	}
	return append(out, line)
}

// Print writes lines of text.
func Print(w io.Writer, lines ...string) error {
	for _, l := range lines {
		if _, err := fmt.Fprintln(w, l); err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
	}
	return nil
}
