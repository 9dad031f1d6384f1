package manage

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/figures"
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

// overview is the handler's own way from a request for GET /v1/cluster to the
// last byte, without the network, with so many nodes.
func overview(tb testing.TB, nodes int) (call func() time.Duration) {
	d, err := New(options(crowd(nodes)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Close)
	s, err := httpapi.New(httpapi.Options{Address: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		tb.Fatal(err)
	}
	s.Mount(d)
	h := s.Handler()
	return func() time.Duration {
		r, w := httptest.NewRequest("GET", "/v1/cluster", nil), httptest.NewRecorder()
		begin := time.Now()
		h.ServeHTTP(w, r)
		took := time.Since(begin)
		if w.Code != 200 {
			tb.Fatal(w.Code, w.Body)
		}
		return took
	}
}

func BenchmarkOverview(b *testing.B) {
	for _, nodes := range []int{3, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			call := overview(b, nodes)
			for b.Loop() {
				call()
			}
		})
	}
}

// What `make bench-manage` sets.
var (
	overviewCalls = flag.Int("overview-calls", 0, "so many calls of GET /v1/cluster are timed; 0: none")
	figuresFile   = flag.String("figures", "", "a file that figures are appended to")
	beside        = flag.String("beside", "", "a running node, such as http://127.0.0.1:52415, of which four answers are read meanwhile")
	besideModel   = flag.String("beside-model", "", "the model that gives them")
)

// TestOverviewFigures times the handler beside four running answers. They are
// read in this process, as a node passes them on, and computed on its machine.
func TestOverviewFigures(t *testing.T) {
	if *overviewCalls == 0 {
		t.Skip("NOT RUN: measured by `make bench-manage`")
	}
	pieces, arrived := streams(t, 4)
	for _, f := range []struct {
		nodes int
		bar   float64
	}{{3, 5}, {1000, 50}} {
		call := overview(t, f.nodes)
		for range 20 {
			call()
		}
		before, began := pieces.Load(), time.Now()
		figure := figures.Figure{Name: fmt.Sprintf("GET /v1/cluster with %d nodes, the handler's own time", f.nodes), Unit: "ms", Bars: []figures.Bar{figures.Below("p99", f.bar)}}
		for range *overviewCalls {
			select { // a call each time that a piece comes, so that they run all the time
			case <-arrived:
			case <-time.After(10 * time.Second):
				t.Fatal("the answers stand still")
			}
			figure.Values = append(figure.Values, float64(call().Microseconds())/1000)
		}
		read := pieces.Load() - before
		figure.Note = fmt.Sprintf("beside 4 streams, %.0f pieces/s", float64(read)/time.Since(began).Seconds())
		if err := figures.Append(*figuresFile, figure); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d values, p50 %.3g, p99 %.3g %s", figure.Name, len(figure.Values), figure.Quantile(0.5), figure.Quantile(0.99), figure.Note)
	}
}

// streams keeps so many answers running until the test ends, counts their pieces
// and tells when some came. All have begun when it returns.
func streams(t *testing.T, n int) (*atomic.Int64, <-chan struct{}) {
	ctx, cancel := context.WithCancel(t.Context())
	var pieces atomic.Int64
	arrived := make(chan struct{}, 1)
	var readers sync.WaitGroup
	t.Cleanup(func() { cancel(); readers.Wait() })
	body := fmt.Sprintf(`{"model": %q, "messages": [{"role": "user", "content": "Tell a long story."}], "stream": true, "max_tokens": 900, "ignore_eos": true}`, *besideModel)
	begun := make(chan error, n)
	read := func(told *bool) error {
		r, err := http.NewRequestWithContext(ctx, "POST", *beside+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			return err
		}
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			text, err := io.ReadAll(answer.Body)
			return fmt.Errorf("status %d: %s %w", answer.StatusCode, text, err)
		}
		lines := bufio.NewScanner(answer.Body)
		for lines.Scan() {
			if !strings.HasPrefix(lines.Text(), "data: {") {
				continue
			}
			pieces.Add(1)
			select {
			case arrived <- struct{}{}:
			default:
			}
			if !*told {
				*told = true
				begun <- nil
			}
		}
		return lines.Err()
	}
	for range n {
		readers.Go(func() {
			told := false
			for ctx.Err() == nil {
				if err := read(&told); err != nil && ctx.Err() == nil {
					if !told {
						begun <- err
					}
					return // pieces that do not come are seen
				}
			}
		})
	}
	for range n {
		if err := <-begun; err != nil {
			t.Fatal(err)
		}
	}
	return &pieces, arrived
}
