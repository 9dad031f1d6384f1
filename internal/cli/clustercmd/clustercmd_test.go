package clustercmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// said is what a command wrote.
type said struct{ out, err bytes.Buffer }

// node is a client of a node that sends these events to each follower and then
// refuses.
func node(t *testing.T, events ...api.Event) *client.Client {
	t.Helper()
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		if asked > 1 {
			w.WriteHeader(401)
			fmt.Fprint(w, `{"error":{"message":"no more"}}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for k, e := range events {
			e.ID = fmt.Sprintf("e.%d", k)
			b, err := json.Marshal(e)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(w, "data: %s\n\n", b)
		}
	}))
	t.Cleanup(server.Close)
	c, err := client.New(client.Options{BaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// env is what commands get: on a terminal of a width, or on a pipe (0).
func env(s *said, c *client.Client, width int, styled bool) Env {
	return Env{
		Stdout: &s.out, Stderr: &s.err,
		Connect: func(context.Context, bool) (*client.Client, error) { return c, nil },
		Explain: func(err error) error { return err },
		Usage:   func(_ *cobra.Command, format string, args ...any) error { return fmt.Errorf(format, args...) },
		Note:    func(format string, args ...any) { fmt.Fprintf(&s.err, format+"\n", args...) },
		JSON:    func(v any) error { return json.NewEncoder(&s.out).Encode(v) },
		Width:   func() int { return width }, WidthErr: func() int { return width }, Styled: func() bool { return styled },
	}
}

func model(instance, status, progress string, percent float64) *api.Model {
	m := &api.Model{
		InstanceID: instance, ModelID: "org/m", ModelName: "m", Status: status, Ready: status == api.StatusReady, Progress: progress, ProgressPercent: percent, NodeNames: []string{"a", "b"},
		Shards: []api.Shard{{NodeName: "a", Role: "stage 1/2, layers 0-11", Progress: progress, ProgressPercent: percent}, {NodeName: "b", Role: "stage 2/2, layers 12-23", Progress: "waiting"}},
	}
	if status == api.StatusFailed {
		m.Error = "no library"
	}
	return m
}

func changed(m *api.Model) api.Event {
	return api.Event{Type: api.EventModel, Change: api.ChangeChanged, Model: m}
}

func snapshot(models ...*api.Model) api.Event {
	o := &api.Overview{NodeCount: 2, MasterNodeID: "n1", Nodes: []api.Node{{NodeID: "n1", FriendlyName: "a", Status: api.NodeOnline, IsMaster: true, RAMTotalGB: 64, RAMUsedGB: 60, RAMUsedPercent: 93.8}}}
	for _, m := range models {
		o.Models = append(o.Models, *m)
	}
	return api.Event{Type: api.EventSnapshot, Cluster: o}
}

func TestWaitEnds(t *testing.T) {
	removed := func(m *api.Model) api.Event {
		return api.Event{Type: api.EventModel, Change: api.ChangeRemoved, Model: m}
	}
	loading, ready, failed := model("i", api.StatusLoading, "loading layer 6/24 (25%)", 25), model("i", api.StatusReady, "ready", 100), model("i", api.StatusFailed, "failed: no library", 0)
	other := model("old", api.StatusReady, "ready", 100)
	elsewhere := model("i", api.StatusReady, "ready", 100)
	elsewhere.ModelID = "other"
	for _, tt := range []struct {
		name     string
		instance string
		events   []api.Event
		code     int // 0: ready; -1: the stream ended before it
		text     string
	}{
		{"ready at once", "i", []api.Event{snapshot(ready)}, 0, ""},
		{"ready later", "i", []api.Event{snapshot(), changed(loading), changed(ready)}, 0, ""},
		{"failed", "i", []api.Event{snapshot(loading), changed(failed)}, 1, "org/m failed: no library"},
		{"an older replica does not count", "i", []api.Event{snapshot(other, loading), changed(other)}, -1, ""},
		{"nor does another model", "i", []api.Event{snapshot(elsewhere), changed(elsewhere)}, -1, ""},
		{"without a place of its own", "", []api.Event{snapshot(), changed(model("", api.StatusLoading, "waiting for a place", 0)), changed(loading), changed(ready)}, 0, ""},
		{"it fits nowhere", "", []api.Event{snapshot(model("", api.StatusFailed, "failed", 0))}, 1, "no library"},
		{"placed again elsewhere", "i", []api.Event{snapshot(loading), changed(model("j", api.StatusLoading, "starting", 0)), changed(failed), removed(failed), changed(model("j", api.StatusReady, "ready", 100))}, 0, ""},
		{"unloaded meanwhile", "i", []api.Event{snapshot(loading), removed(loading)}, 1, "was unloaded while"},
		{"gone, after a break", "i", []api.Event{snapshot(loading), snapshot()}, 1, "was unloaded while"},
		{"refused", "i", nil, -1, "no more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s said
			err := env(&s, nil, 0, false).wait(t.Context(), node(t, tt.events...), "org/m", tt.instance, time.Minute)
			var exit *ExitError
			switch {
			case tt.code == 0 && err != nil, tt.code > 0 && (!errors.As(err, &exit) || exit.Code != tt.code), tt.code < 0 && (err == nil || errors.As(err, &exit)):
				t.Fatalf("%v", err)
			case err != nil && !strings.Contains(err.Error(), tt.text):
				t.Errorf("%v, want %q", err, tt.text)
			case tt.code == 0 && !strings.Contains(s.err.String(), "org/m is ready"):
				t.Errorf("stderr %q", s.err.String())
			}
		})
	}
}

// On a terminal the lines of each stage are drawn over.
func TestWaitOnATerminal(t *testing.T) {
	var s said
	c := node(t, snapshot(model("i", api.StatusDownloading, "fetching 3.1/4.2 GB (74%)", 74)), changed(model("i", api.StatusLoading, "loading layer 6/24 (25%)", 25)), changed(model("i", api.StatusReady, "ready", 100)))
	if err := env(&s, c, 80, true).wait(t.Context(), c, "org/m", "i", time.Minute); err != nil {
		t.Fatal(err)
	}
	frames := strings.Split(s.err.String(), "\x1b[3A\x1b[J")
	want := "m                            [###############-----] fetching 3.1/4.2 GB (74%)\n" +
		"  a stage 1/2, layers 0-11   [###############-----] fetching 3.1/4.2 GB (74%)\n" +
		"  b stage 2/2, layers 12-23  [--------------------] waiting\n"
	if len(frames) != 3 || frames[0] != want || !strings.HasSuffix(frames[2], "org/m is ready\n") {
		t.Errorf("%d frames\n%s", len(frames), cmp.Diff(want, frames[0]))
	}
	for _, l := range strings.Split(s.err.String(), "\n") {
		if n := utf8.RuneCountInString(strings.TrimPrefix(l, "\x1b[3A\x1b[J")); n >= 80 {
			t.Errorf("line of %d characters: %q", n, l)
		}
	}
}

func TestTop(t *testing.T) {
	var s said
	master := "n2"
	node2 := api.Node{NodeID: "n2", FriendlyName: "b", Status: api.NodeOnline}
	c := node(t, snapshot(model("i", api.StatusLoading, "starting", 0)),
		api.Event{Type: api.EventNode, Change: api.ChangeAdded, Node: &node2}, changed(model("i", api.StatusReady, "ready", 100)),
		api.Event{Type: api.EventMaster, Change: api.ChangeChanged, MasterNodeID: &master},
		api.Event{Type: api.EventDownload, Change: api.ChangeAdded, Download: &api.Download{NodeID: "n1", ModelID: "d", Status: api.DownloadRunning, ETASeconds: 9}},
		api.Event{Type: api.EventTask, Change: api.ChangeAdded, Task: &api.Task{TaskID: "t"}},
		api.Event{Type: api.EventModel, Change: api.ChangeRemoved, Model: model("i", api.StatusStopping, "", 0)})
	if err := env(&s, c, 70, true).top(t.Context(), c); err == nil || err.Error() != "no more" {
		t.Fatal(err)
	}
	screens := strings.Split(s.out.String(), screenTop)
	if screens[0] != screenOn || !strings.HasSuffix(s.out.String(), screenOff) || len(screens) != 9 {
		t.Fatalf("%d screens: %q", len(screens), s.out.String())
	}
	for k, text := range map[int]string{1: "2 nodes, master \x1b[1ma\x1b[0m", 2: "\x1b[1mb\x1b[0m", 3: "\x1b[32mready\x1b[0m", 4: "master \x1b[1mb\x1b[0m", 5: "9 s", 7: "No model is loaded", 8: "the connection broke"} {
		if !strings.Contains(screens[k], text) {
			t.Errorf("screen %d lacks %q:\n%s", k, text, screens[k])
		}
	}
}

func TestEvents(t *testing.T) {
	var s said
	master := ""
	events := []api.Event{
		snapshot(), changed(model("i", api.StatusLoading, "loading layer 6/24 (25%)", 25)),
		{Type: api.EventMaster, Change: api.ChangeChanged, MasterNodeID: &master},
		{Type: api.EventNode, Change: api.ChangeChanged, Node: &api.Node{FriendlyName: "a\x1b", Status: api.NodeStale, Draining: true}},
		{Type: api.EventTask, Change: api.ChangeAdded, Task: &api.Task{TaskType: "chat", ModelID: "org/m", Status: "running"}},
		{Type: api.EventDownload, Change: api.ChangeRemoved, Download: &api.Download{ModelID: "d", NodeName: "a", Status: api.DownloadCompleted, ProgressPercent: 100, TotalGB: 4.2}},
	}
	for _, asJSON := range []bool{false, true} {
		s = said{}
		c := node(t, events...)
		cmd := newEvents(env(&s, c, 0, false))
		cmd.SetArgs([]string{fmt.Sprintf("--json=%v", asJSON)})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "no more") {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(s.out.String()), "\n")
		if len(lines) != len(events) {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		if asJSON {
			var e api.Event
			if err := json.Unmarshal([]byte(lines[1]), &e); err != nil || e.Model.ModelID != "org/m" || e.ID != "e.1" {
				t.Errorf("%s, %v", lines[1], err)
			}
			continue
		}
		for k, want := range []string{
			"snapshot now     2 nodes, 0 models, master n1", "model    changed org/m on a, b: loading layer 6/24 (25%)", "master   changed there is none any more",
			"node     changed a\uFFFD stale, 0.0 of 0.0 GB free, draining", "task     added   chat of org/m: running", "download removed d to a: completed, 100 % of 4.2 GB",
		} {
			if _, got, _ := strings.Cut(lines[k], " "); got != want {
				t.Errorf("line %d is %q, want %q", k, got, want)
			}
		}
	}
}

// A grid keeps within its width if its columns can give way at all, shows every
// row, and never cuts what must not be cut.
func TestGridFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-zäö/]{0,40}`)
		g := newGrid("NAME", "N", "TEXT").alignRight(1).cut(0, 2)
		rows := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) [3]string {
			return [3]string{word.Draw(t, "name"), fmt.Sprint(rapid.IntRange(0, 99999).Draw(t, "n")), word.Draw(t, "text")}
		}), 0, 8).Draw(t, "rows")
		for _, r := range rows {
			g.add(cell{r[0], bold}, t2(r[1]), cell{r[2], bad})
		}
		width := rapid.IntRange(0, 120).Draw(t, "width")
		lines := g.lines(width, false)
		if len(lines) != len(rows)+1 {
			t.Fatalf("%d lines of %d rows", len(lines), len(rows))
		}
		styled := g.lines(width, true)
		for k, l := range lines {
			// The narrowest: two columns of eight, one of five, and what is between.
			if n := utf8.RuneCountInString(l); width > 0 && n > max(width, 25) {
				t.Fatalf("%d characters, width %d: %q", n, width, l)
			}
			if k > 0 && !strings.Contains(l, rows[k-1][1]) {
				t.Fatalf("%q lacks %s", l, rows[k-1][1])
			}
			if width == 0 && k > 0 && !strings.Contains(l, rows[k-1][0]) {
				t.Fatalf("%q is cut without need", l)
			}
			if strip(styled[k]) != l {
				t.Fatalf("colours move text:\n%q\n%q", strip(styled[k]), l)
			}
		}
	})
}

func t2(s string) cell { return cell{text: s} }

// strip takes colours off, and the blanks that they hid at the end.
func strip(s string) string {
	var out strings.Builder
	for {
		before, after, ok := strings.Cut(s, "\x1b[")
		out.WriteString(before)
		if !ok {
			return strings.TrimRight(out.String(), " ")
		}
		_, s, _ = strings.Cut(after, "m")
	}
}

func TestTexts(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0 s", 90: "90 s", 600: "10 min", 10800: "3 h", 400000: "5 days"} {
		if got := ago(seconds); got != want {
			t.Errorf("%v s is %q, want %q", seconds, got, want)
		}
	}
	for text, want := range map[string]time.Duration{"600": 600 * time.Second, "1.5": 1500 * time.Millisecond, "10m": 10 * time.Minute, "0": 0} {
		var s span
		if err := s.Set(text); err != nil || time.Duration(s) != want {
			t.Errorf("%q is %v, %v", text, time.Duration(s), err)
		}
	}
	for _, text := range []string{"", "-1", "soon", "1e300", "NaN", "-5s"} {
		var s span
		if s.Set(text) == nil {
			t.Errorf("%q was taken as %v", text, time.Duration(s))
		}
	}
	if got := bar(150, 4) + bar(-5, 4) + bar(50, 4); got != "[####][----][##--]" {
		t.Errorf("bars %s", got)
	}
	if got := shorten("a\x1b[31mb", 3); got != "a\uFFFD…" {
		t.Errorf("shortened %q", got)
	}
}

// What can't be written is told.
func TestClosedOutput(t *testing.T) {
	var s said
	e := env(&s, nil, 0, false)
	e.Stdout = closed{}
	if err := printLines(e.Stdout, []string{"x"}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
	c := node(t, snapshot())
	if err := e.top(t.Context(), c); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("top: %v", err)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
