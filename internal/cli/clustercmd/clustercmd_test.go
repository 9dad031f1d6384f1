package clustercmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
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
		Connect:  func(context.Context, bool) (*client.Client, error) { return c, nil },
		Explain:  func(err error) error { return err },
		Note:     func(format string, args ...any) { fmt.Fprintf(&s.err, format+"\n", args...) },
		JSON:     func(v any) error { return json.NewEncoder(&s.out).Encode(v) },
		Terminal: func() (int, int) { return width, 24 }, TerminalErr: func() (int, int) { return width, 24 },
		Styled: func() bool { return styled }, StyledErr: func() bool { return styled },
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
			var exit *command.ExitError
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
	if err := env(&s, c, 80, false).wait(t.Context(), c, "org/m", "i", time.Minute); err != nil {
		t.Fatal(err)
	}
	frames := strings.Split(s.err.String(), "\x1b[3A\x1b[J")
	want := "m                            [#######---]  fetching 3.1/4.2 GB (74%)\n" +
		"  a stage 1/2, layers 0-11   [#######---]  fetching 3.1/4.2 GB (74%)\n" +
		"  b stage 2/2, layers 12-23  [----------]  waiting\n"
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
		if !strings.Contains(screens[k], "Ctrl-C ends") {
			t.Errorf("screen %d does not say how to end it:\n%s", k, screens[k])
		}
	}
}

// More nodes than lines: the screen never scrolls, and says that there is more.
func TestTopOfManyNodes(t *testing.T) {
	var s said
	e := env(&s, nil, 60, false)
	o := api.Overview{NodeCount: 100, Timestamp: 1}
	for k := range 100 {
		o.Nodes = append(o.Nodes, api.Node{NodeID: fmt.Sprint(k), FriendlyName: fmt.Sprintf("node-%d", k), Status: api.NodeOnline})
	}
	if err := e.screen(o, "the connection broke"); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(s.out.String(), lineEnd)
	if len(lines) != 24 || !strings.HasPrefix(lines[21], "… and ") {
		t.Errorf("%d lines, the last of the list is %q", len(lines), lines[len(lines)-3])
	}
}

// Each code that a node may answer with has its next command, or a reason why
// there is none.
func TestErrorsNameTheNextCommand(t *testing.T) {
	none := map[string]string{
		"CodeInvalidBody": "the command made the body", "CodeInvalidValue": "the message names the flag's field and its range",
		"CodeKeyReused": "commands never use a key twice", "CodeNotImplemented": "the message says what to do instead", "CodeInvalidAPIKey": "package cli says how to give one",
	}
	file, err := parser.ParseFile(token.NewFileSet(), "../../../api/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			name := v.Names[0].Name
			if !strings.HasPrefix(name, "Code") {
				continue
			}
			seen++
			code := strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)
			switch hint := hints[code]; {
			case hint == "" && none[name] == "":
				t.Errorf("%s (%s) has no hint", name, code)
			case hint != "" && !strings.Contains(hint, "'skein "):
				t.Errorf("the hint of %s names no command: %s", name, hint)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d codes were found", seen)
	}
	e := env(&said{}, nil, 0, false)
	if err := e.Hint(api.NewError(404, api.CodeNodeNotFound, "", "there is no node x")); !strings.HasSuffix(err.Error(), "x\n  'skein nodes' lists them") {
		t.Errorf("%v", err)
	}
}

// On a terminal a long event goes on below itself.
func TestEventOnATerminal(t *testing.T) {
	lines := named{}.lines(changed(model("i", api.StatusLoading, "loading layer 6/24 (25%)", 25)), 50)
	if len(lines) != 2 || !strings.HasSuffix(lines[0], " model    changed org/m on a, b: loading") || lines[1] != strings.Repeat(" ", 26)+"layer 6/24 (25%)" {
		t.Errorf("%q", lines)
	}
}

// Where a card has a model, the tables say so, and how much of it is left.
func TestCards(t *testing.T) {
	m := model("i", api.StatusReady, "ready", 100)
	m.NodeNames = []string{"a", "b"}
	m.Shards = []api.Shard{{NodeName: "a", Device: "CUDA0"}, {NodeName: "b"}}
	o := api.Overview{Models: []api.Model{*m}, Nodes: []api.Node{
		{FriendlyName: "a", Status: api.NodeOnline, Accelerators: []api.Device{{ID: "CUDA0", Name: "A card", Kind: "CUDA", MemoryTotalGB: 24, MemoryAvailableGB: 3.5}}},
	}}
	var s said
	e := env(&s, nil, 120, false)
	text := strings.Join(e.frame(o), "\n")
	for _, want := range []string{"a (CUDA0), b", "a     CUDA0    3.5  24.0 GB  CUDA  A card"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
}

// Every table keeps within the terminal, and shows what counts most.
func TestWidths(t *testing.T) {
	long := strings.Repeat("very-long-name-", 5)
	m := model("i", api.StatusDownloading, "fetching 3.1/4.2 GB (74%)", 74)
	m.ModelName = long
	o := api.Overview{
		NodeCount: 2, MasterNodeID: "n1", TotalRAMGB: 1234.5, AvailableRAMGB: 1000.1, TokensPerSecond: 123.4,
		Nodes: []api.Node{
			{NodeID: strings.Repeat("N", 26), FriendlyName: long, Status: api.NodeOnline, RAMTotalGB: 512, LoadedModels: []string{long, "b"}, Accelerators: []api.Device{{ID: "CUDA0", Name: long, Kind: "CUDA", MemoryTotalGB: 24, MemoryAvailableGB: 20}}, IPAddresses: []string{"192.168.1.200", "fd00::2"}, Roles: []string{"master", "candidate"}},
			{NodeID: "n2", FriendlyName: "b", Status: api.NodeStale, SecondsSinceSeen: 300, RAMTotalGB: 64},
		},
		Models:    []api.Model{*m, {ModelName: "broken", Status: api.StatusFailed, Error: strings.Repeat("why ", 40)}},
		Downloads: []api.Download{{ModelID: long, NodeName: long, Status: api.DownloadFailed, Error: strings.Repeat("no space ", 20), TotalGB: 99.9}},
	}
	for _, width := range []int{20, 40, 60, 80, 120} {
		var s said
		e := env(&s, nil, width, true)
		lines := e.frame(o)
		lines = append(lines, progressLines(*m, width, true)...)
		lines = append(lines, e.describeModel(api.ModelStatus{ModelID: "org/m", Status: m.Status, Progress: m.Progress, Nodes: []string{"a", "b"}}, []api.Model{*m})...)
		for _, l := range lines {
			if n := table.Width(l); n > width {
				t.Errorf("%d characters on a terminal of %d: %q", n, width, l)
			}
		}
		if text := strings.Join(lines, "\n"); width >= 40 {
			for _, want := range []string{"very-lo", "gone 5 min", "fetching", "failed"} {
				if !strings.Contains(text, want) {
					t.Errorf("width %d lacks %q:\n%s", width, want, text)
				}
			}
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
			"snapshot now     2 nodes, 0 models, master a", "model    changed org/m on a, b: loading layer 6/24 (25%)", "master   changed there is none any more",
			"node     changed a\uFFFD stale, 0.0 of 0.0 GB free, draining", "task     added   chat of org/m: running", "download removed d to a: completed, 100 % of 4.2 GB",
		} {
			if _, got, _ := strings.Cut(lines[k], " "); got != want {
				t.Errorf("line %d is %q, want %q", k, got, want)
			}
		}
	}
}

func TestTexts(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0 s", 0.5: "0.5 s", 90: "90 s", 600: "10 min", 10800: "3 h", 400000: "5 days"} {
		if got := ago(seconds); got != want {
			t.Errorf("%v s is %q, want %q", seconds, got, want)
		}
	}
	if got := inGB(0) + ", " + inGB(0.1); got != "less than 0.1 GB, 0.1 GB" {
		t.Errorf("memory %q", got)
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
}

// What can't be written is told.
func TestClosedOutput(t *testing.T) {
	var s said
	e := env(&s, nil, 0, false)
	e.Stdout = closed{}
	if err := table.Print(e.Stdout, "x"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
	e.Terminal = func() (int, int) { return 70, 24 }
	c := node(t, snapshot())
	if err := e.top(t.Context(), c); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("top: %v", err)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
