package bench

import "fmt"

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
		rows = append(rows, []string{f.Name, f.Ours.spread(format), f.Theirs.spread(format), f.Unit,
			fmt.Sprintf("%.3f", f.Ratio), f.Rounds.spread("%.3f"), bar})
	}
	return rows
}
