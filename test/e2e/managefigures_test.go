//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"slices"
	"testing"
	"time"
)

var manageFigures = flag.Int("manage-figures", 0, "so many rounds of the figures of `make bench-manage`; 0: not measured")

// TestManageFigures measures three nodes: how long after a load was answered
// all of them show it, and how long a swap lets nobody be served beyond the time
// that the load itself takes.
func TestManageFigures(t *testing.T) {
	if *manageFigures == 0 {
		t.Skip("NOT RUN: measured by `make bench-manage`")
	}
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		save(t, dir, name, demoBytes(t))
	}
	var n [3]*node
	for i := range n {
		n[i] = member(t, n[0], options{home: t.TempDir(), args: []string{"--models-dir", dir}})
	}
	together(t, n[:]...)
	for _, x := range n {
		for _, name := range []string{"one", "two"} {
			eventually(t, name+" to be known", func() bool {
				var status struct{ Error string }
				x.read("/v1/cluster/models/"+name+"/status", &status)
				return status.Error == ""
			})
		}
	}
	var visible, read, gaps, loads []time.Duration
	for range *manageFigures {
		if r := n[1].post("/v1/cluster/models/load", loadBody("one", 1, n[0].id())); r.status != http.StatusOK {
			t.Fatalf("load: %d %s", r.status, r.body)
		}
		acknowledged := time.Now()
		for _, x := range n {
			for {
				begin := time.Now()
				nodes, _ := x.holders("one")
				read = append(read, time.Since(begin))
				if len(nodes) > 0 {
					break
				}
			}
		}
		visible = append(visible, time.Since(acknowledged))
		n[0].ready("one")

		// The answer of the old model runs into the swap; the new one is asked at once.
		s := n[2].open("/v1/chat/completions", ask("one", question, "stream", true, "max_tokens", 900, "ignore_eos", true))
		if _, err := s.data(); err != nil {
			t.Fatal(err)
		}
		if r := n[1].post("/v1/cluster/models/swap", `{"unload_model_id":"one","load_model_id":"two","drain_seconds":0,"node_ids":["`+n[0].id()+`"]}`); r.status != http.StatusOK {
			t.Fatalf("swap: %d %s", r.status, r.body)
		}
		asked := time.Now()
		first := make(chan time.Time, 1)
		go func() {
			s := n[1].open("/v1/chat/completions", ask("two", question, "stream", true, "max_tokens", 1))
			defer func() { first <- time.Now() }()
			for {
				if data, err := s.data(); err != nil || chunk(t, data) != "" {
					return
				}
			}
		}()
		last := asked
		for {
			data, err := s.data()
			if errors.Is(err, errEnd) || err != nil {
				break
			}
			var e apiError
			if json.Unmarshal([]byte(data), &e) == nil && e.Error.Message != "" {
				break
			}
			last = time.Now()
		}
		served := <-first
		gaps = append(gaps, served.Sub(last))
		loads = append(loads, served.Sub(asked))
		n[0].ready("two")
		if r := n[0].must(http.MethodDelete, "/v1/cluster/models/two?drain_seconds=0", ""); r.status != http.StatusOK {
			t.Fatalf("unload: %d %s", r.status, r.body)
		}
		eventually(t, "two to end", func() bool { nodes, _ := n[0].holders("two"); return len(nodes) == 0 })
	}
	for _, f := range []struct {
		what string
		took []time.Duration
	}{
		{"acknowledged load to visible on all 3 nodes (asked one after the other)", visible},
		{"one GET /v1/cluster/models with its connection", read},
		{"last token of the old model to the first of the new one (below 0: both served)", gaps},
		{"swap answered to the first token of the new model", loads},
	} {
		slices.Sort(f.took)
		t.Logf("%-80s p50 %8.1f ms, p99 %8.1f ms (%d)", f.what, ms(f.took[len(f.took)/2]), ms(f.took[len(f.took)*99/100]), len(f.took))
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
