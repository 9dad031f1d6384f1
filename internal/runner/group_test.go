package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/wire"
)

// group is a set of runner processes, each a shard of one model.
type group struct {
	t      testing.TB
	load   wire.LoadRequest
	shards []slice.Spec
	head   int
	procs  []*child
	infos  []wire.ModelInfo
	epoch  uint64
}

// cut gives the specs of stages of about equal size, each of parts.
func cut(layers, stages int, parts []int) []slice.Spec {
	var out []slice.Spec
	for s := range stages {
		for r := range max(1, len(parts)) {
			out = append(out, slice.Spec{First: layers * s / stages, End: layers * (s + 1) / stages, Rank: r, Parts: parts})
		}
	}
	return out
}

// layersOf reads a model file's number of layers.
func layersOf(t testing.TB, path string) int {
	t.Helper()
	whole, files, err := parse([]string{path})
	defer closeAll(files)
	if err != nil {
		t.Fatal(err)
	}
	n, ok := whole.Uint(whole.Arch() + ".block_count")
	if !ok {
		t.Fatal("no block_count")
	}
	return int(n)
}

// startGroup loads and joins a group; a refusal of the cut is an error.
func startGroup(t testing.TB, req wire.LoadRequest, shards []slice.Spec) (*group, error) {
	t.Helper()
	g := &group{t: t, load: req, shards: shards, head: len(shards) - shards[0].Ranks(), procs: make([]*child, len(shards)), infos: make([]wire.ModelInfo, len(shards))}
	for i := range shards {
		if err := g.start(i); err != nil {
			return nil, err
		}
	}
	return g, g.join()
}

// start starts and loads shard i.
func (g *group) start(i int) error {
	g.t.Helper()
	c := startChild(g.t)
	g.procs[i] = c
	var ei wire.EngineInfo
	if err := c.call(wire.TypeEngine, engineSpec(g.t), &ei); err != nil {
		return err
	}
	req := g.load
	req.Shard = &wire.ShardSpec{Group: g.t.Name(), Index: i, Shards: g.shards, Head: g.head, Listen: "127.0.0.1:0"}
	return c.call(wire.TypeLoad, req, &g.infos[i])
}

// join connects all shards in a new epoch.
func (g *group) join() error {
	g.epoch++
	req := wire.ConnectRequest{Epoch: g.epoch}
	for _, i := range g.infos {
		req.Addresses = append(req.Addresses, i.Link)
	}
	errs := make([]error, len(g.procs))
	var wg sync.WaitGroup
	for i, c := range g.procs {
		wg.Go(func() {
			errs[i] = c.call(wire.TypeConnect, req, &struct{}{})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// replace starts a new process for shard i and joins the group again.
func (g *group) replace(i int) {
	g.t.Helper()
	if err := g.start(i); err != nil {
		g.t.Fatal(err)
	}
	if err := g.join(); err != nil {
		g.t.Fatal(err)
	}
}

func (g *group) headProc() *child { return g.procs[g.head] }

// eval gives the rows of an evaluation, and the token fed at each.
func (c *child) eval(req wire.EvalRequest) (tokens []int32, rows [][]float32, err error) {
	c.ref++
	if err := c.conn.SendJSON(wire.TypeEval, c.ref, req); err != nil {
		return nil, nil, err
	}
	for {
		f, err := c.conn.Read()
		if err != nil {
			return nil, nil, err
		}
		switch f.Type {
		case wire.TypeBeat:
		case wire.TypeLogits:
			tokens = append(tokens, int32(binary.LittleEndian.Uint32(f.Body)))
			row := make([]float32, len(f.Body)/4-1)
			for i := range row {
				row[i] = math.Float32frombits(binary.LittleEndian.Uint32(f.Body[4+4*i:]))
			}
			rows = append(rows, row)
		case wire.TypeResult:
			return tokens, rows, nil
		case wire.TypeFailure:
			var fail wire.Failure
			if err := f.Decode(&fail); err != nil {
				return nil, nil, err
			}
			return nil, nil, &fail
		default:
			return nil, nil, fmt.Errorf("frame type %d", f.Type)
		}
	}
}

// nmse is the normalized mean square error of rows against want.
func nmse(want, got [][]float32) float64 {
	var d, n float64
	for i := range want {
		for k := range want[i] {
			e := float64(want[i][k]) - float64(got[i][k])
			d += e * e
			n += float64(want[i][k]) * float64(want[i][k])
		}
	}
	return d / n
}

func shardRequest(path string) wire.LoadRequest {
	return wire.LoadRequest{Paths: []string{path}, Slots: 2, Context: 256, Threads: 1, ChunkTokens: 16, PendingLimit: 8, CacheBytes: 64 << 20}
}

// checkGroup compares a group with the whole model: a pipeline gives the same
// bits, ranks sums that were rounded elsewhere, which quantized products make
// larger.
func checkGroup(t *testing.T, path string, stages int, parts []int) {
	t.Helper()
	limit := 0.0
	if len(parts) > 0 {
		limit = 1e-6
		if !strings.Contains(path, "-f16") {
			limit = 1e-4
		}
	}
	layers := layersOf(t, path)
	if layers < stages {
		t.Skipf("%d layers don't make %d stages", layers, stages)
	}
	g, err := startGroup(t, shardRequest(path), cut(layers, stages, parts))
	if err != nil {
		var f *wire.Failure
		if errors.As(err, &f) && f.Code == wire.CodeModel && (strings.Contains(err.Error(), slice.ErrRefused.Error()) || strings.Contains(err.Error(), "can't cut")) {
			t.Skipf("refused: %v", err)
		}
		t.Fatal(err)
	}
	whole := startChild(t)
	info := whole.load(shardRequest(path))
	if got := g.infos[g.head]; got.Vocabulary != info.Vocabulary || got.Layers != info.Layers || got.Memory != info.Memory || got.ChatTemplate != info.ChatTemplate || !slices.Equal(got.EndTokens, info.EndTokens) {
		t.Errorf("the head tells %+v, the whole model %+v", got, info)
	}
	ev := wire.EvalRequest{Tokens: ids(45, 1, info.Vocabulary), Prompt: 40, Greedy: 12}
	wantTokens, want, err := whole.eval(ev)
	if err != nil {
		t.Fatal(err)
	}
	ev.Tokens, ev.Greedy = append(slices.Clone(ev.Tokens), wantTokens[len(wantTokens)-ev.Greedy:]...), 0
	_, got, err := g.headProc().eval(ev)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || len(want) != 18 {
		t.Fatalf("%d rows, the whole model gave %d, want 18", len(got), len(want))
	}
	e := nmse(want, got)
	t.Logf("NMSE %.3g", e)
	if !(e <= limit) {
		t.Errorf("NMSE %.3g, at most %.3g is right", e, limit)
	}
	if limit > 0 {
		g.checkDraws(info.Vocabulary)
		return
	}
	for i, p := range [][]int32{ids(70, 1, info.Vocabulary), ids(20, 2, info.Vocabulary), ids(70, 1, info.Vocabulary)} {
		req := wire.GenerateRequest{ID: uint64(i + 1), Prompt: p, Sampling: greedy(), MaxTokens: 12, IgnoreEnd: true, Logprobs: true}
		w, got := whole.generate(req)[req.ID], g.headProc().generate(req)[req.ID]
		if !slices.Equal(w.tokens, got.tokens) || !slices.Equal(w.logprobs, got.logprobs) {
			t.Errorf("prompt %d: %v %v, the whole model gives %v %v", i, got.tokens, got.logprobs, w.tokens, w.logprobs)
		}
	}
}

// checkDraws compares what the head draws from parts of rows with the best of
// whole rows, computed in the same shapes.
func (g *group) checkDraws(vocabulary int) {
	g.t.Helper()
	prompt := ids(70, 1, vocabulary)
	req := wire.GenerateRequest{ID: 1, Prompt: prompt, Sampling: greedy(), MaxTokens: 12, IgnoreEnd: true}
	got := g.headProc().generate(req)[1]
	want, _, err := g.headProc().eval(wire.EvalRequest{Tokens: prompt, Prompt: len(prompt) - 1, Greedy: 12})
	if err != nil {
		g.t.Fatal(err)
	}
	if want = want[2:]; !slices.Equal(got.tokens, want) {
		g.t.Errorf("the group draws %v, its whole rows say %v", got.tokens, want)
	}
}

func TestGroupEqualsWhole(t *testing.T) {
	for _, s := range []struct {
		stages int
		parts  []int
	}{{1, nil}, {2, nil}, {3, nil}, {1, []int{1, 1}}, {1, []int{1, 2, 1}}, {1, []int{3, 1}}, {2, []int{1, 1}}} {
		t.Run(fmt.Sprintf("%dx%d%v", s.stages, max(1, len(s.parts)), s.parts), func(t *testing.T) {
			t.Run("demo", func(t *testing.T) { checkGroup(t, demoModel(t), s.stages, s.parts) })
			for _, f := range sharedModels(t) {
				t.Run(strings.TrimSuffix(filepath.Base(f), ".gguf"), func(t *testing.T) { checkGroup(t, f, s.stages, s.parts) })
			}
		})
	}
}
