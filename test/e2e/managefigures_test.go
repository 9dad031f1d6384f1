//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/figures"
)

var (
	manageSwaps = flag.Int("manage-swaps", 0, "so many swaps of each kind are timed for `make bench-manage`; 0: nothing is measured")
	manageLoads = flag.Int("manage-loads", 100, "so many loads are timed with them")
)

// manageNodes are three nodes with the demo model under two names, of which the
// second alone is told of.
func manageNodes(t *testing.T) (n [3]*node) {
	t.Helper()
	if *manageSwaps == 0 {
		t.Skip("NOT RUN: measured by `make bench-manage`")
	}
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		save(t, dir, name, demoBytes(t))
	}
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
	return n
}

// tell appends figures, and says them in the log.
func tell(t *testing.T, all ...figures.Figure) {
	t.Helper()
	for _, f := range all {
		if err := figures.Append(*clusterFigures, f); err != nil {
			t.Error(err)
		}
		t.Logf("%s: %d values, p50 %.3g, p99 %.3g, max %.3g %s %s", f.Name, len(f.Values), f.Quantile(0.5), f.Quantile(0.99), f.Quantile(1), f.Unit, f.Note)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// TestLoadsAreSeen times how long after a load was answered all nodes show it,
// and what a look at three nodes costs a client beside four running answers.
func TestLoadsAreSeen(t *testing.T) {
	n := manageNodes(t)
	visible := figures.Figure{Name: "acknowledged load, visible on all 3 nodes", Unit: "ms", Bars: []figures.Bar{figures.Below("p99", 100)}, Note: "asked in turn until it is there, each time on a new connection"}
	for range *manageLoads {
		if r := n[1].post("/v1/cluster/models/load", loadBody("one", 1, n[0].id())); r.status != http.StatusOK {
			t.Fatalf("load: %d %s", r.status, r.body)
		}
		acknowledged := time.Now()
		for _, x := range n {
			for {
				if nodes, _ := x.holders("one"); len(nodes) > 0 {
					break
				}
			}
		}
		visible.Values = append(visible.Values, ms(time.Since(acknowledged)))
		n[0].gone("one")
	}
	tell(t, visible)

	n[0].load("one", n[0])
	for range 4 {
		s := n[1].open("/v1/chat/completions", ask("one", question, "stream", true, "max_tokens", 900, "ignore_eos", true))
		if _, err := s.data(); err != nil {
			t.Fatal(err)
		}
		defer s.close()
		go func() {
			for {
				if _, err := s.data(); err != nil {
					return
				}
			}
		}()
	}
	seen := figures.Figure{Name: "GET /v1/cluster of 3 nodes as a client sees it", Unit: "ms", Note: "beside 4 streams, a kept connection, with the network of this machine"}
	client := http.Client{Timeout: 10 * time.Second}
	for range 300 {
		begin := time.Now()
		r, err := client.Get(n[2].url + "/v1/cluster")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != http.StatusOK {
			t.Fatal(r.StatusCode, err)
		}
		r.Body.Close()
		seen.Values = append(seen.Values, ms(time.Since(begin)))
	}
	tell(t, seen)
}

// TestSwapFigures times for how long a swap lets nobody be served beyond what a
// load takes, where there is room for both models and where there is not.
func TestSwapFigures(t *testing.T) {
	t.Run("room for both", func(t *testing.T) { swapFigures(t, manageNodes(t), "room for both", 4) })
	t.Run("room for one", func(t *testing.T) {
		if *manageSwaps == 0 {
			t.Skip("NOT RUN: measured by `make bench-manage`")
		}
		// 96 slots are 225 MB with what an estimate may be wrong by. The nodes take
		// some 100 MB themselves, so that there is room for one and not for two.
		if !confine(t, 420<<20, os.Getpid()) {
			t.Skip("NOT RUN: this needs root and control groups")
		}
		swapFigures(t, manageNodes(t), "room for one", 96)
	})
}

func swapFigures(t *testing.T, n [3]*node, what string, slots int) {
	on := n[0].id()
	// first loads by a request and asks at once; it tells when the first piece came.
	first := func(model string) <-chan time.Time {
		out := make(chan time.Time, 1)
		go func() {
			defer close(out)
			s := n[1].open("/v1/chat/completions", ask(model, question, "stream", true, "max_tokens", 1))
			for {
				data, err := s.data()
				if err != nil {
					return
				}
				if chunk(t, data) != "" {
					out <- time.Now()
					return
				}
			}
		}()
		return out
	}
	load := figures.Figure{Name: "load answered, first token (" + what + ")", Unit: "ms"}
	gap := figures.Figure{Name: "swap, last token of the old model to first of the new (" + what + ")", Unit: "ms"}
	rest := figures.Figure{Name: "the same less the round's load (" + what + ")", Unit: "ms", Bars: []figures.Bar{figures.Below("p99", 1000)}}
	beside := 0
	for range *manageSwaps {
		if r := n[1].post("/v1/cluster/models/load", fmt.Sprintf(`{"model_id":"one","node_ids":[%q],"slots":%d}`, on, slots)); r.status != http.StatusOK {
			t.Fatalf("load: %d %s", r.status, r.body)
		}
		asked := time.Now()
		served, ok := <-first("one")
		if !ok {
			t.Fatal("the loaded model gave no token")
		}
		took := served.Sub(asked)
		n[0].ready("one")

		// The answer of the old model runs into the swap; the new one is asked at once.
		s := n[2].open("/v1/chat/completions", ask("one", question, "stream", true, "max_tokens", 900, "ignore_eos", true))
		if _, err := s.data(); err != nil {
			t.Fatal(err)
		}
		if r := n[1].post("/v1/cluster/models/swap", fmt.Sprintf(`{"unload_model_id":"one","load_model_id":"two","drain_seconds":0,"node_ids":[%q],"slots":%d}`, on, slots)); r.status != http.StatusOK {
			t.Fatalf("swap: %d %s", r.status, r.body)
		}
		fresh := first("two")
		last := time.Now()
		for {
			data, err := s.data()
			var e apiError
			if errors.Is(err, errEnd) || err != nil || json.Unmarshal([]byte(data), &e) == nil && e.Error.Message != "" {
				break
			}
			last = time.Now()
		}
		if served, ok = <-fresh; !ok {
			t.Fatal("the new model gave no token")
		}
		if served.Before(last) {
			beside++
		}
		load.Values = append(load.Values, ms(took))
		gap.Values = append(gap.Values, ms(served.Sub(last)))
		rest.Values = append(rest.Values, ms(served.Sub(last)-took))
		n[0].ready("two")
		n[0].gone("two")
	}
	gap.Note = fmt.Sprintf("%d times the new one served before the old one ended", beside)
	tell(t, load, gap, rest)
	if what == "room for one" && gap.Quantile(0.5) < load.Quantile(0.5)/2 {
		t.Errorf("the old model served while the new one was loaded: there was room for both")
	}
}

// confine puts processes, and what they start from now on, into a control group
// of so many bytes; false: there can be none.
func confine(t *testing.T, limit int64, pids ...int) bool {
	t.Helper()
	// The kernel makes the files of a group; where it does not, there is none.
	write := func(name, text string) error {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	for root, file := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		group := filepath.Join(root, fmt.Sprintf("skein-test-%d", os.Getpid()))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, "the control group to be empty", func() bool {
				inside, _ := os.ReadFile(filepath.Join(group, "cgroup.procs")) // it is none, or gone
				for _, pid := range strings.Fields(string(inside)) {
					_ = write(filepath.Join(root, "cgroup.procs"), pid) // it may have ended
				}
				err := os.Remove(group)
				return err == nil || errors.Is(err, os.ErrNotExist)
			})
		})
		err := write(filepath.Join(group, file), strconv.FormatInt(limit, 10))
		for _, pid := range pids {
			err = errors.Join(err, write(filepath.Join(group, "cgroup.procs"), strconv.Itoa(pid)))
		}
		if err == nil {
			return true
		}
	}
	return false
}
