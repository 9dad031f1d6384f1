//go:build unix

package e2e

import (
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/skein-run/skein/internal/figures"
)

// What three nodes that have nothing to do take of a processor, over 30 s, and of
// memory.
func TestIdleNodes(t *testing.T) {
	if *clusterFigures == "" {
		t.Skip("NOT MEASURED: it takes 30 s and has no limit here; see make bench-cluster")
	}
	f := newCampaign(t, 3, nil)
	f.agree(f.nodes)
	wait := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
	}
	wait(5 * time.Second) // what a start does in the background is over
	used := func(n *node) (seconds, megabytes float64) {
		p, err := process.NewProcess(int32(n.pid))
		if err != nil {
			t.Fatal(err)
		}
		times, err := p.Times()
		if err != nil {
			t.Fatal(err)
		}
		memory, err := p.MemoryInfo()
		if err != nil {
			t.Fatal(err)
		}
		return times.User + times.System, float64(memory.RSS) / 1e6
	}
	var before, shares, sizes []float64
	began := time.Now()
	for _, n := range f.nodes {
		s, _ := used(n)
		before = append(before, s)
	}
	wait(30 * time.Second)
	for i, n := range f.nodes {
		s, mb := used(n)
		shares = append(shares, 100*(s-before[i])/time.Since(began).Seconds())
		sizes = append(sizes, mb)
	}
	f.report(figures.Figure{Name: "idle node, share of a core", Unit: "%", Values: shares, Bars: []figures.Bar{figures.Below("max", 1)}},
		figures.Figure{Name: "idle node, resident memory", Unit: "MB", Values: sizes, Bars: []figures.Bar{figures.Below("max", 60)}})
}
