package bench

import (
	"fmt"
	"strings"
)

// Table gives the comparison as rows for a table, the heading first.
func (r *PeersResult) Table() [][]string {
	rows := [][]string{{"FIGURE", "SKEIN", "LLAMA-SERVER", "UNIT", "RATIO", "BY ROUND", "BAR"}}
	for _, f := range r.Figures {
		format := "%.1f"
		if f.Unit == "s" {
			format = "%.4f"
		}
		bar := f.Bar
		if bar == "" {
			bar = "-"
		}
		rows = append(rows, []string{f.Name, f.Ours.Spread(format), f.Theirs.Spread(format), f.Unit,
			fmt.Sprintf("%.3f", f.Ratio), f.Rounds.Spread("%.3f"), bar})
	}
	return rows
}

// String sums up a comparison of texts, a line for each difference.
func (r *TextResult) String() string {
	within := 0
	var lines strings.Builder
	for _, d := range r.Differences {
		verdict := "BEYOND the noise"
		if d.Within {
			verdict = "within the noise"
			within++
		}
		fmt.Fprintf(&lines, "\n  %q, token %d: skein %q, llama-server %q; distance %.4f and %.4f, disagreement %.4f: %s",
			d.Prompt, d.At+1, d.Ours, d.Theirs, d.OursDistance, d.TheirsDistance, d.Disagreement, verdict)
	}
	return fmt.Sprintf("greedy texts: %d of %d equal, %d of %d differences within the noise; the library against itself (%d points): median %.4f, at most %.4f nats%s",
		r.Equal, r.Prompts, within, len(r.Differences), r.Noise.Samples, r.Noise.Median, r.Noise.Max, lines.String())
}
