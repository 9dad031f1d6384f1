package llama

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// whole is a model file, parsed and open.
type whole struct {
	path  string
	model *gguf.Model
	parts []io.ReaderAt
}

var demoPath = filepath.Join("..", "..", "..", "models", "demo", "skein-demo-4m-q8_0.gguf")

func openWhole(t testing.TB, path string) *whole {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Parse(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	m, err := gguf.Join(file)
	if err != nil {
		t.Fatal(err)
	}
	return &whole{path: path, model: m, parts: []io.ReaderAt{f}}
}

// models are the demo model and, if they are beside the checkout, tiny ones of
// each weight type. Which architectures can be cut is package slice's matter.
func models(t testing.TB) []string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "..", "shared", "models", "archs")
	if _, err := os.Stat(dir); err != nil {
		t.Logf("SKIPPED for tiny models: %v", err)
		return []string{demoPath}
	}
	out := []string{demoPath}
	for _, name := range []string{"llama-dense-f16", "llama-dense-q8_0", "llama-dense-q4_0", "llama-dense-q4_k", "qwen3-dense-f16", "qwen2-dense-f16", "qwen3moe-moe-f16",
		"bloom-dense-f16", "cohere2-dense-f16", "gemma2-dense-f16", "gemma3-dense-f16", "glm4-dense-f16", "gpt2-dense-f16", "jamba-dense-f16", "minicpm-dense-f16"} {
		out = append(out, filepath.Join(dir, name+".gguf"))
	}
	return out
}

func layersOf(t testing.TB, m *gguf.Model) int {
	t.Helper()
	n, ok := m.Uint(m.Arch() + ".block_count")
	if !ok {
		t.Fatal("no block_count")
	}
	return int(n)
}

// shard is a loaded shard with a context.
type shard struct {
	file  *slice.File
	parts []io.ReaderAt
	model *Model
	ctx   *Context
	lib   *Library
}

// newShard loads a shard; refused models skip the test.
func newShard(t testing.TB, w *whole, spec slice.Spec, exchange func([]float32) error) *shard {
	t.Helper()
	lib, err := library()
	if err != nil {
		t.Fatalf("these tests need the engine; run 'make build' first: %v", err)
	}
	f, err := slice.Cut(w.model, spec)
	if errors.Is(err, slice.ErrRefused) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := lib.LoadSlice(f, w.parts, ModelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	s := &shard{file: f, parts: w.parts, model: m, lib: lib}
	s.ctx = s.open(t, exchange)
	return s
}

// open gives the shard another context.
func (s *shard) open(t testing.TB, exchange func([]float32) error) *Context {
	t.Helper()
	h := &Hooks{Capture: s.file.Run.Capture, Enter: s.file.Run.Enter, Positions: s.file.Run.Positions, Reduce: s.file.Run.Reduce, Exchange: exchange}
	if len(h.Reduce) == 0 {
		h.Exchange = nil
	}
	c, err := s.model.NewContext(ContextOptions{Sequences: 2, ContextSeq: 256, BatchTokens: 64, Threads: 1, Outputs: 64, SWAFull: true, Hooks: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// embed looks up the hidden states of tokens, as a first stage does.
func (s *shard) embed(t testing.TB, items []Item) []float32 {
	t.Helper()
	e, width := s.file.Run.Embed, s.file.Run.Embedding
	out := make([]float32, len(items)*width)
	row := make([]byte, e.Row)
	for i, it := range items {
		if _, err := s.parts[e.Rows.Part].ReadAt(row, e.Rows.Offset+int64(it.Token)*e.Row); err != nil {
			t.Fatal(err)
		}
		to := out[i*width : (i+1)*width]
		if err := s.lib.Dequantize(e.Type, row, to); err != nil {
			t.Fatal(err)
		}
		if e.Scale != 1 {
			for k := range to {
				to[k] *= e.Scale
			}
		}
	}
	return out
}

// pipeline runs items through stages of one rank and gives the last's logits.
func pipeline(t testing.TB, stages []*shard, ctxs []*Context, items []Item) []float32 {
	t.Helper()
	state := stages[0].embed(t, items)
	for _, c := range ctxs {
		if err := c.DecodeEmbd(items, state); err != nil {
			t.Fatal(err)
		}
		state = c.Captured()
	}
	row, err := ctxs[len(ctxs)-1].Logits(len(items) - 1)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(row)
}

func contexts(stages []*shard) []*Context {
	var out []*Context
	for _, s := range stages {
		out = append(out, s.ctx)
	}
	return out
}

// reference is a whole model's context, loaded from its file.
func reference(t testing.TB, path string) *Context {
	t.Helper()
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	m, err := lib.LoadModel([]string{path}, ModelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	c, err := m.NewContext(ContextOptions{Sequences: 2, ContextSeq: 256, BatchTokens: 64, Threads: 1, SWAFull: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// ids are n token ids that every model here has.
func ids(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((i*31 + 7) % 120)
	}
	return out
}

func argmax(row []float32) int32 {
	best := 0
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	return int32(best)
}

func modelName(path string) string { return strings.TrimSuffix(filepath.Base(path), ".gguf") }

// Stages in one process, loaded from the whole file, give the same bits.
func TestStages(t *testing.T) {
	for _, path := range models(t) {
		t.Run(modelName(path), func(t *testing.T) {
			w := openWhole(t, path)
			n := layersOf(t, w.model)
			if n < 2 {
				t.Skip("one layer")
			}
			ref := reference(t, path)
			stages := []*shard{newShard(t, w, slice.Spec{First: 0, End: n / 2}, nil), newShard(t, w, slice.Spec{First: n / 2, End: n}, nil)}
			items := tokens(0, ids(24)...)
			for step := range 12 {
				want := lastLogits(t, ref, items)
				got := pipeline(t, stages, contexts(stages), items)
				if !slices.Equal(got, want) {
					t.Fatalf("step %d: other logits, NMSE %g", step, nmse(want, got))
				}
				items = tokens(24+step, argmax(want))
			}
		})
	}
}

// ranks runs tensor ranks side by side, each on a thread of its own, and sums
// in rank order.
type ranks struct {
	shards []*shard
	sum    *summer
}

// summer is an all-reduce in one process: all ranks wait until each has given
// its part.
type summer struct {
	n     int
	mu    sync.Mutex
	parts [][]float32
	total []float32
	here  int
	round chan struct{} // closed when the round's total is there
}

func newSummer(n int) *summer {
	return &summer{n: n, parts: make([][]float32, n), round: make(chan struct{})}
}

func (s *summer) exchange(rank int) func([]float32) error {
	return func(data []float32) error {
		s.mu.Lock()
		round := s.round
		s.parts[rank] = slices.Clone(data)
		if s.here++; s.here == s.n {
			total := slices.Clone(s.parts[0])
			for _, p := range s.parts[1:] {
				for i := range total {
					total[i] += p[i]
				}
			}
			s.total, s.here, s.round = total, 0, make(chan struct{})
			close(round)
		}
		s.mu.Unlock()
		<-round
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.total) != len(data) {
			return fmt.Errorf("rank %d gives %d elements, another %d", rank, len(data), len(s.total))
		}
		copy(data, s.total)
		return nil
	}
}

func newRanks(t testing.TB, w *whole, parts []int) *ranks {
	t.Helper()
	r := &ranks{sum: newSummer(len(parts))}
	for i := range parts {
		spec := slice.Spec{First: 0, End: layersOf(t, w.model), Rank: i, Parts: parts}
		r.shards = append(r.shards, newShard(t, w, spec, r.sum.exchange(i)))
	}
	return r
}

// decode runs items on all ranks and joins the parts of the vocabulary.
func (r *ranks) decode(t testing.TB, ctxs []*Context, items []Item) []float32 {
	t.Helper()
	state := r.shards[0].embed(t, items)
	rows := make([][]float32, len(ctxs))
	errs := make([]error, len(ctxs))
	var wg sync.WaitGroup
	for i, c := range ctxs {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if errs[i] = c.DecodeEmbd(items, state); errs[i] == nil {
				rows[i], errs[i] = c.Logits(len(items) - 1)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var out []float32
	for i, row := range rows {
		out = append(out, row[:r.shards[i].file.Run.VocabCount]...)
	}
	return out
}

func TestRanks(t *testing.T) {
	for _, path := range models(t) {
		if strings.Contains(path, "q4_k") || strings.Contains(path, "qwen2") {
			continue // two KV heads of 128 can't be cut by blocks of 256; one KV head
		}
		t.Run(modelName(path), func(t *testing.T) {
			ref := reference(t, path)
			r := newRanks(t, openWhole(t, path), []int{1, 1})
			items := tokens(0, ids(24)...)
			worst := 0.0
			for step := range 12 {
				want := lastLogits(t, ref, items)
				worst = max(worst, nmse(want, r.decode(t, contexts(r.shards), items)))
				items = tokens(24+step, argmax(want))
			}
			// Quantized weights have their activations quantized too, where a
			// last bit may go either way.
			limit := 1e-6
			if !strings.HasSuffix(modelName(path), "f16") {
				limit = 1e-3
			}
			if worst > limit {
				t.Errorf("NMSE %g, want at most %g", worst, limit)
			}
			t.Logf("NMSE %.2g", worst)
		})
	}
}

// A rank whose peers are gone ends its Decode with their error.
func TestRankLost(t *testing.T) {
	gone := errors.New("rank 1 is gone")
	calls := 0
	s := newShard(t, openWhole(t, demoPath), slice.Spec{First: 0, End: 4, Parts: []int{1, 1}}, func([]float32) error {
		if calls++; calls == 3 {
			return gone
		}
		return nil
	})
	items := tokens(0, ids(8)...)
	if err := s.ctx.DecodeEmbd(items, s.embed(t, items)); !errors.Is(err, gone) || calls != 3 {
		t.Errorf("%v after %d exchanges", err, calls)
	}
}

// What a shard keeps of a sequence goes on in another context as in its own.
func TestShardState(t *testing.T) {
	w := openWhole(t, demoPath)
	prompt := tokens(0, ids(24)...)
	const steps = 8
	t.Run("stages", func(t *testing.T) {
		stages := []*shard{newShard(t, w, slice.Spec{First: 0, End: 2}, nil), newShard(t, w, slice.Spec{First: 2, End: 4}, nil)}
		own := contexts(stages)
		var other []*Context
		first := argmax(pipeline(t, stages, own, prompt))
		for i, s := range stages {
			other = append(other, s.open(t, nil))
			restore(t, own[i], other[i])
		}
		run := func(ctxs []*Context) (rows [][]float32) {
			next := first
			for step := range steps {
				rows = append(rows, pipeline(t, stages, ctxs, tokens(24+step, next)))
				next = argmax(rows[step])
			}
			return rows
		}
		if want, got := run(own), run(other); !slices.EqualFunc(want, got, slices.Equal) {
			t.Error("restored stages go on otherwise")
		}
	})
	t.Run("ranks", func(t *testing.T) {
		r := newRanks(t, w, []int{1, 1})
		own := contexts(r.shards)
		var other []*Context
		first := argmax(r.decode(t, own, prompt))
		for i, s := range r.shards {
			other = append(other, s.open(t, r.sum.exchange(i)))
			restore(t, own[i], other[i])
		}
		run := func(ctxs []*Context) (rows [][]float32) {
			next := first
			for step := range steps {
				rows = append(rows, r.decode(t, ctxs, tokens(24+step, next)))
				next = argmax(rows[step])
			}
			return rows
		}
		if want, got := run(own), run(other); !slices.EqualFunc(want, got, slices.Equal) {
			t.Error("restored ranks go on otherwise")
		}
	})
}

// restore moves sequence 0 from one context to another.
func restore(t testing.TB, from, to *Context) {
	t.Helper()
	b, err := from.State(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.SetState(0, b); err != nil {
		t.Fatal(err)
	}
}
