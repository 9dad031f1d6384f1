// Package figures carries what tests measure to a table: a test appends what it
// measured to a file, and scripts/figures prints all of a file with bars and
// whether they are met.
//
// It is test support: product code must not import it. Everything may be called
// from any goroutine; processes that append to one file do it one after another.
package figures

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Figure is something that was measured, many times or once.
type Figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"` // "s", "ms", "%", "MB"; "" for counts
	Values []float64 `json:"values"`
	Bars   []Bar     `json:"bars,omitempty"` // none: it is only reported
	Note   string    `json:"note,omitempty"`
	// Count: the values are counts, of which the sum tells.
	Count bool `json:"count,omitempty"`
}

// Bar is a limit of a statistic; of several all count.
type Bar struct {
	Of    string  `json:"of"` // "p50", "p99", "max", or "sum" of a count
	Limit float64 `json:"limit"`
	// Reach: the limit itself is still met.
	Reach bool `json:"reach,omitempty"`
}

// Below is a bar that is met below the limit.
func Below(of string, limit float64) Bar { return Bar{Of: of, Limit: limit} }

// None is the bar of counts that must be 0.
var None = Bar{Of: "sum", Reach: true}

// Seconds are durations as values.
func Seconds(took []time.Duration) []float64 {
	var out []float64
	for _, d := range took {
		out = append(out, d.Seconds())
	}
	return out
}

// Quantile gives the smallest value that a share q of the values does not
// exceed (nearest rank); NaN without values.
func (f Figure) Quantile(q float64) float64 {
	if len(f.Values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(f.Values))
	return sorted[min(max(int(math.Ceil(q*float64(len(sorted))))-1, 0), len(sorted)-1)]
}

// Sum adds the values up.
func (f Figure) Sum() (sum float64) {
	for _, v := range f.Values {
		sum += v
	}
	return sum
}

func (f Figure) statistic(of string) (float64, error) {
	switch of {
	case "p50":
		return f.Quantile(0.5), nil
	case "p99":
		return f.Quantile(0.99), nil
	case "max":
		return f.Quantile(1), nil
	case "sum":
		return f.Sum(), nil
	}
	return 0, fmt.Errorf("figure %q has a bar of %q; there are p50, p99, max and sum", f.Name, of)
}

// Met tells whether the figure has values and keeps all its bars.
func (f Figure) Met() (bool, error) {
	for _, b := range f.Bars {
		v, err := f.statistic(b.Of)
		if err != nil {
			return false, err
		}
		if met := v < b.Limit || b.Reach && v == b.Limit; !met {
			return false, nil
		}
	}
	return len(f.Values) > 0, nil
}

// Append adds figures to a file, a line each; without a name it does nothing.
func Append(path string, figures ...Figure) error {
	if path == "" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("append figures: %w", err)
	}
	encoder := json.NewEncoder(file)
	for _, f := range figures {
		if err = encoder.Encode(f); err != nil {
			err = fmt.Errorf("append figure %q: %w", f.Name, err)
			break
		}
	}
	return errors.Join(err, file.Close())
}

// Read reads what Append wrote. Figures of one name are one, in the order of
// their first lines.
func Read(r io.Reader) ([]Figure, error) {
	var out []Figure
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var f Figure
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return nil, fmt.Errorf("read figure %d: %w", len(out)+1, err)
		}
		if i := slices.IndexFunc(out, func(x Figure) bool { return x.Name == f.Name }); i >= 0 {
			out[i].Values = append(out[i].Values, f.Values...)
			continue
		}
		out = append(out, f)
	}
	return out, lines.Err()
}

// Table writes figures as a Markdown table.
func Table(w io.Writer, figures []Figure) error {
	rows := [][]string{{"figure", "N", "p50", "p99", "max", "bar", ""}, {"---", "---", "---", "---", "---", "---", "---"}}
	for _, f := range figures {
		met, err := f.Met()
		if err != nil {
			return err
		}
		verdict := map[bool]string{true: "met", false: "**missed**"}[met]
		if len(f.Bars) == 0 {
			verdict = "reported"
		}
		if f.Note != "" {
			verdict += "; " + f.Note
		}
		row := []string{f.Name, strconv.Itoa(len(f.Values)), f.text(f.Quantile(0.5)), f.text(f.Quantile(0.99)), f.text(f.Quantile(1)), f.bars(), verdict}
		if f.Count {
			row[2], row[3], row[4] = "", "", f.text(f.Sum())+" in all"
		}
		rows = append(rows, row)
	}
	var width [7]int
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&b, "| %-*s ", width[i], cell)
		}
		if _, err := fmt.Fprintln(w, b.String()+"|"); err != nil {
			return err
		}
	}
	return nil
}

// bars are a figure's bars in words.
func (f Figure) bars() string {
	var out []string
	for _, b := range f.Bars {
		sign := " < "
		if b.Reach {
			sign = " <= "
		}
		if f.Count && b.Reach && b.Limit == 0 {
			out = append(out, "0")
			continue
		}
		out = append(out, b.Of+sign+f.text(b.Limit))
	}
	return strings.Join(out, ", ")
}

// text writes a value with three digits, and its unit.
func (f Figure) text(v float64) string {
	if math.IsNaN(v) {
		return "none"
	}
	digits := 0
	for x := math.Abs(v); x < 100 && digits < 3 && v != math.Trunc(v); x *= 10 {
		digits++
	}
	out := strconv.FormatFloat(v, 'f', digits, 64)
	if f.Unit != "" {
		out += " " + f.Unit
	}
	return out
}
