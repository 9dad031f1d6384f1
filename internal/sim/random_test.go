package sim

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/figures"
)

var (
	seeds = flag.Uint64("seeds", usualSeeds, "random clusters that are run")
	lines = flag.Uint64("lines", 150, "of the transcript of a seed that fails")
	first = flag.Uint64("seed", 1, "the first one")

	figuresFile = flag.String("figures", "", "a file that figures are appended to")
)

// enoughSeeds are so many that everything happens which the test asks for in the end.
const enoughSeeds = 500

// TestRandom runs so many seeds, one on each processor, at 7 to 10 ms each: the
// usual 10,000 take less than a minute on two processors that are free. Under
// the race detector, which has little to see in Worlds of one goroutine each,
// there are fewer.
func TestRandom(t *testing.T) {
	// What a run keeps is small, and a third of the time went into looking for garbage.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	n := *seeds
	if testing.Short() {
		n = min(n, enoughSeeds)
	}
	begin := time.Now()
	var next, events, acked, filled atomic.Uint64
	next.Store(*first)
	var mu sync.Mutex
	kinds := map[string]int{}
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
				filled.Add(uint64(r.Filled))
				mu.Lock()
				for kind, n := range r.Kinds {
					kinds[kind] += n
				}
				mu.Unlock()
				if len(r.Problems) == 0 {
					continue
				}
				log := Random(seed, true).Log
				t.Errorf("seed %d: %s\n%s", seed, strings.Join(r.Problems, "\n"), strings.Join(log[max(0, len(log)-int(*lines)):], "\n"))
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds, %d events, %d acknowledged commands, %d disks full: %v", n, events.Load(), acked.Load(), filled.Load(), kinds)
	if t.Failed() {
		return
	}
	if n < enoughSeeds {
		t.Logf("NOT RUN: whether enough happens, which takes %d seeds", enoughSeeds)
		return
	}
	err := figures.Append(*figuresFile, figures.Figure{Name: fmt.Sprintf("%d simulated clusters, all invariants", n), Unit: "s",
		Values: []float64{time.Since(begin).Seconds()}, Bars: []figures.Bar{figures.Below("max", 180)}, Note: fmt.Sprintf("%d events", events.Load())})
	if err != nil {
		t.Error(err)
	}
	if acked.Load() < n {
		t.Errorf("%d seeds acknowledged %d commands: too little happens", n, acked.Load())
	}
	if filled.Load() == 0 {
		t.Error("no seed found a disk full: too little happens")
	}
	for _, kind := range []string{"session_began", "node_seen", "node_gone", "node_drained", "model_known", "model_wanted", "model_unwanted", "wanted_problem",
		"instance_placed", "instance_released", "shard_reported", "command_dropped", "swap_began", "swap_ended", "swap_undone", "swap_forgotten"} {
		if kinds[kind] == 0 {
			t.Errorf("no seed made %s: too little happens", kind)
		}
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
