package load

import (
	"fmt"
	"math"
	"slices"
)

// Summary describes repeated measurements of one figure.
type Summary struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Each   []float64 `json:"each"` // in the order measured
}

// Summarize orders values; without any, everything is 0.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	return Summary{Median: Quantile(values, 0.5), Min: slices.Min(values), Max: slices.Max(values), Each: values}
}

// Quantile gives the value below which a part q (0..1) of the values lies,
// between two of them where it falls there. There must be a value.
func Quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Ratio divides; 0 stands for no ratio, since JSON has no infinity.
func Ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// Ratios divides round by round: both were measured under the same load of the
// machine, so their ratio is steadier than either.
func Ratios(a, b []float64) []float64 {
	n := min(len(a), len(b))
	out := make([]float64, 0, n)
	for i := range n {
		out = append(out, Ratio(a[i], b[i]))
	}
	return out
}

// Spread writes "median (min..max)".
func (s Summary) Spread(format string) string {
	if len(s.Each) == 0 {
		return "-"
	}
	return fmt.Sprintf(format+" ("+format+".."+format+")", s.Median, s.Min, s.Max)
}
