package sim

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	seeds = flag.Uint64("seeds", 1000, "random clusters that are run")
	lines = flag.Uint64("lines", 150, "of the transcript of a seed that fails")
	first = flag.Uint64("seed", 1, "the first one")
)

// TestRandom runs so many seeds; the nightly form runs more.
func TestRandom(t *testing.T) {
	n := *seeds
	if testing.Short() {
		n = min(n, 100)
	}
	var next, events, acked atomic.Uint64
	next.Store(*first)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !t.Failed() {
				seed := next.Add(1) - 1
				if seed >= *first+n {
					return
				}
				r := Random(seed, false)
				events.Add(uint64(r.Events))
				acked.Add(uint64(r.Acked))
				if len(r.Problems) == 0 {
					continue
				}
				log := Random(seed, true).Log
				t.Errorf("seed %d: %s\n%s", seed, strings.Join(r.Problems, "\n"), strings.Join(log[max(0, len(log)-int(*lines)):], "\n"))
			}
		})
	}
	wg.Wait()
	t.Log(fmt.Sprintf("%d seeds, %d events, %d acknowledged commands", n, events.Load(), acked.Load()))
	if acked.Load() < n {
		t.Errorf("%d seeds acknowledged %d commands: too little happens", n, acked.Load())
	}
}

// TestSameSeedSameRun: a run is repeated to the last line.
func TestSameSeedSameRun(t *testing.T) {
	for seed := range uint64(10) {
		a, b := Random(seed, true), Random(seed, true)
		if strings.Join(a.Log, "\n") != strings.Join(b.Log, "\n") || len(a.Log) == 0 {
			t.Fatalf("seed %d: two runs differ", seed)
		}
	}
}
