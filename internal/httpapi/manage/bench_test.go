package manage

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/ids"
)

// crowd is the fake cluster with so many nodes, of which each tells all it can.
func crowd(nodes int) *fake {
	f := newFake()
	f.change(func(in *view.Inputs) {
		state, vitals, live := maps.Clone(in.State.Nodes), maps.Clone(in.Vitals), maps.Clone(in.Live)
		for k := len(state); k < nodes; k++ {
			id := ids.Node(fmt.Sprintf("node%04d", k))
			n := in.State.Nodes["n2"]
			n.ID, n.Name = id, "machine "+string(id)
			v := in.Vitals["n1"]
			v.Instances, v.Tasks, v.Downloads = nil, []cluster.Task{{ID: "t" + string(id), Type: "chat", Status: "running", Model: "m"}}, nil
			state[id], vitals[id], live[id] = n, v, true
		}
		in.State.Nodes, in.Vitals, in.Live = state, vitals, live
	})
	return f
}

// BenchmarkOverview is the handler's own time for GET /v1/cluster: from the
// request to the last byte, without the network. The bar is 50 ms at the 99th
// percentile for 1,000 nodes.
func BenchmarkOverview(b *testing.B) {
	for _, nodes := range []int{3, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			d, err := New(options(crowd(nodes)))
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			s, err := httpapi.New(httpapi.Options{Address: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
			if err != nil {
				b.Fatal(err)
			}
			s.Mount(d)
			h := s.Handler()
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				if w := call(h, "GET", "/v1/cluster", ""); w.Code != 200 {
					b.Fatal(w.Code, w.Body)
				}
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
