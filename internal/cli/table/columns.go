package table

import (
	"fmt"
	"io"
	"strings"
)

// Columns prints rows with aligned columns, two blanks apart, as wide as they
// are; the first row is the heading. The columns named in right are aligned to the right.
func Columns(w io.Writer, rows [][]string, right ...int) error {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], Width(cell))
		}
	}
	toRight := map[int]bool{}
	for _, i := range right {
		toRight[i] = true
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-Width(cell))
			if toRight[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return fmt.Errorf("print the table: %w", err)
		}
	}
	return nil
}
