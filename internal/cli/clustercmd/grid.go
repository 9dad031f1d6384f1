package clustercmd

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// style is how a cell looks where colours may be shown.
type style string

// Styles, as the terminal's codes.
const (
	plain style = ""
	bold  style = "1"
	faint style = "2"
	good  style = "32"
	busy  style = "33"
	bad   style = "31"
)

// cell is one field of a grid. A cell without a style is plain.
type cell struct {
	text  string
	style style
}

func t(text string) cell { return cell{text: text} }

// grid is a table that keeps within a width: its columns that may give way
// (flex) are cut, the widest first.
type grid struct {
	head  []string
	rows  [][]cell
	right map[int]bool // columns aligned to the right
	flex  map[int]bool // columns that may be cut
}

func newGrid(head ...string) *grid {
	return &grid{head: head, right: map[int]bool{}, flex: map[int]bool{}}
}

func (g *grid) add(cells ...cell) { g.rows = append(g.rows, cells) }

func (g *grid) alignRight(columns ...int) *grid {
	for _, c := range columns {
		g.right[c] = true
	}
	return g
}

func (g *grid) cut(columns ...int) *grid {
	for _, c := range columns {
		g.flex[c] = true
	}
	return g
}

// least is to how many characters a column may be cut.
const least = 8

// widths are those of the columns, in all at most width if that can be; 0: as
// wide as they are.
func (g *grid) widths(width int) []int {
	out := make([]int, len(g.head))
	for i, h := range g.head {
		out[i] = utf8.RuneCountInString(h)
	}
	for _, row := range g.rows {
		for i, c := range row {
			out[i] = max(out[i], utf8.RuneCountInString(c.text))
		}
	}
	if width <= 0 {
		return out
	}
	for {
		sum, widest := 2*(len(out)-1), -1
		for i, w := range out {
			sum += w
			if g.flex[i] && w > max(least, utf8.RuneCountInString(g.head[i])) && (widest < 0 || w > out[widest]) {
				widest = i
			}
		}
		if sum <= width || widest < 0 {
			return out
		}
		out[widest]--
	}
}

// lines gives the grid as text.
func (g *grid) lines(width int, styled bool) []string {
	widths := g.widths(width)
	head := make([]cell, len(g.head))
	for i, h := range g.head {
		head[i] = cell{h, faint}
	}
	var out []string
	for _, row := range append([][]cell{head}, g.rows...) {
		var line strings.Builder
		for i, c := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			text := shorten(c.text, widths[i])
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			switch {
			case g.right[i]:
				line.WriteString(pad + paint(text, c.style, styled))
			case i == len(row)-1:
				line.WriteString(paint(text, c.style, styled))
			default:
				line.WriteString(paint(text, c.style, styled) + pad)
			}
		}
		out = append(out, strings.TrimRight(line.String(), " "))
	}
	return out
}

func paint(text string, s style, styled bool) string {
	if !styled || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// shorten cuts a text that is too long, which shows.
func shorten(text string, width int) string {
	text = visible(text)
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	if width < 2 {
		return string([]rune(text)[:max(width, 0)])
	}
	return string([]rune(text)[:width-1]) + "…"
}

// visible keeps control characters of names and errors off the terminal.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return utf8.RuneError
		}
		return r
	}, s)
}

// bar shows a part of a whole in so many characters.
func bar(percent float64, width int) string {
	full := int(percent*float64(width)/100 + 0.5)
	full = max(0, min(full, width))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]"
}

// printLines writes lines of text.
func printLines(w io.Writer, lines []string) error {
	for _, l := range lines {
		if _, err := fmt.Fprintln(w, l); err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
	}
	return nil
}
