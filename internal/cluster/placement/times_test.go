package placement_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/figures"
)

var figuresFile = flag.String("figures", "", "a file that figures are appended to")

// sizes of clusters, and how long a placement may take on an idle machine.
var sizes = []struct {
	nodes int
	limit time.Duration
}{{10, time.Millisecond}, {100, 5 * time.Millisecond}, {1000, 50 * time.Millisecond}}

// memories of the nodes: plenty, nearly full, and too little for one node.
var memories = []int64{2000 * mb, 100 * mb, 25 * mb}

// crowd is a cluster of so many nodes with so much free memory each, or a bit more.
func crowd(nodes int, free int64) placement.Cluster {
	c := placement.Cluster{}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range nodes {
		c.Nodes = append(c.Nodes, node(fmt.Sprintf("n%04d", i), free+random.Int64N(10*mb)))
	}
	return c
}

// attempt places a model of 80 layers; that there is no room is an answer too.
func attempt(t testing.TB, c placement.Cluster) {
	_, err := placement.Place(c, placement.Request{Model: even(80, 8), Context: 256, Slots: 1, Batch: 64}, time.Time{})
	var no *placement.NoMemoryError
	if err != nil && !errors.As(err, &no) {
		t.Fatal(err)
	}
}

// BenchmarkPlace gives the share of the limit too; below 1 is met.
func BenchmarkPlace(b *testing.B) {
	for _, size := range sizes {
		for _, free := range memories {
			c := crowd(size.nodes, free)
			b.Run(fmt.Sprintf("nodes=%d/free=%dMB", size.nodes, free/mb), func(b *testing.B) {
				for b.Loop() {
					attempt(b, c)
				}
				b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(size.limit), "of-limit")
			})
		}
	}
}

// TestPlaceTimes measures what TestWork counts.
func TestPlaceTimes(t *testing.T) {
	if *figuresFile == "" {
		t.Skip("NOT MEASURED: times are the machine's; see make bench-cluster, and TestWork for steps")
	}
	for _, size := range sizes {
		for i, free := range memories {
			// The bar is for the usual placement; what the machine adds now and then
			// shows in p99.
			f := figures.Figure{Name: fmt.Sprintf("placement on %d nodes, %s", size.nodes, []string{"plenty of memory", "nearly full", "each too small"}[i]), Unit: "ms",
				Bars: []figures.Bar{figures.Below("p50", float64(size.limit)/1e6)}}
			c := crowd(size.nodes, free)
			for range 3 {
				attempt(t, c)
			}
			for range 100 {
				begin := time.Now()
				attempt(t, c)
				f.Values = append(f.Values, float64(time.Since(begin))/1e6)
			}
			t.Logf("%s: %d values, p50 %.3g, p99 %.3g ms", f.Name, len(f.Values), f.Quantile(0.5), f.Quantile(0.99))
			if err := figures.Append(*figuresFile, f); err != nil {
				t.Fatal(err)
			}
		}
	}
}
