package figures

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures")
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(i+1)*10*time.Millisecond)
	}
	for _, f := range []Figure{
		{Name: "all in time", Unit: "s", Values: Seconds(took), Bars: []Bar{Below("p50", 0.51), Below("p99", 1)}},
		{Name: "one late", Unit: "s", Values: []float64{0.5, 0.5, 2}, Bars: []Bar{Below("p99", 2)}},
		{Name: "lost", Values: []float64{0, 0, 0}, Bars: []Bar{None}, Count: true},
		{Name: "lost one", Values: []float64{0, 1, 0}, Bars: []Bar{None}, Count: true},
		{Name: "size", Unit: "MB", Values: []float64{38.25}, Note: "resident"},
		{Name: "never measured", Unit: "s", Bars: []Bar{Below("p99", 2)}},
		{Name: "lost", Values: []float64{0}, Bars: []Bar{None}, Count: true},
	} {
		if err := Append(path, f); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	all, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := Table(&b, all); err != nil {
		t.Fatal(err)
	}
	want := `
| figure         | N   | p50     | p99     | max      | bar                       |                    |
| ---            | --- | ---     | ---     | ---      | ---                       | ---                |
| all in time    | 100 | 0.500 s | 0.990 s | 1 s      | p50 < 0.510 s, p99 < 1 s  | met                |
| one late       | 3   | 0.500 s | 2 s     | 2 s      | p99 < 2 s                 | **missed**         |
| lost           | 4   |         |         | 0 in all | 0                         | met                |
| lost one       | 3   |         |         | 1 in all | 0                         | **missed**         |
| size           | 1   | 38.2 MB | 38.2 MB | 38.2 MB  |                           | reported; resident |
| never measured | 0   | none    | none    | none     | p99 < 2 s                 | **missed**         |
`
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if got := squeeze(b.String()); got != squeeze(want) {
		t.Errorf("the table is\n%s", b.String())
	}
}

func TestUnknownBar(t *testing.T) {
	if _, err := (Figure{Name: "x", Values: []float64{1}, Bars: []Bar{Below("p98", 1)}}).Met(); err == nil {
		t.Error("a bar of nothing is met")
	}
}
