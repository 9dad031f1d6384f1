package llama

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/gguf/slice"
)

// tokens are items of sequence 0 from position pos on, the last one an output.
func tokens(pos int, ids ...int32) []Item {
	items := make([]Item, len(ids))
	for i, id := range ids {
		items[i] = Item{Token: id, Position: pos + i, Output: i == len(ids)-1}
	}
	return items
}

func hookedContext(t testing.TB, m *Model, threads int, h *Hooks) *Context {
	t.Helper()
	c, err := m.NewContext(ContextOptions{Sequences: 2, ContextSeq: 256, BatchTokens: 32, Outputs: 32, Threads: threads, Hooks: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func lastLogits(t testing.TB, c *Context, items []Item) []float32 {
	t.Helper()
	if err := c.Decode(items); err != nil {
		t.Fatal(err)
	}
	row, err := c.Logits(len(items) - 1)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(row)
}

var sums = []slice.Reduction{{Weight: "attn_output.weight"}, {Weight: "ffn_down.weight"}}

// An exchange that gives back what it gets changes nothing, one that doubles
// does, and both see each layer twice.
func TestExchange(t *testing.T) {
	m := demo(t)
	prompt := tokens(0, 51, 52, 53, 54, 55, 56, 57)
	want := lastLogits(t, hookedContext(t, m, 1, nil), prompt)
	for _, threads := range []int{1, 2} {
		var sizes []int
		same := hookedContext(t, m, threads, &Hooks{Reduce: sums, Exchange: func(data []float32) error {
			sizes = append(sizes, len(data))
			return nil
		}})
		if got := lastLogits(t, same, prompt); !slices.Equal(got, want) {
			t.Errorf("%d threads: the graph in pieces gives other logits", threads)
		}
		// Behind the last attention only the output's row is of use.
		all := slices.Repeat([]int{len(prompt) * m.Embedding()}, 2*m.Layers())
		all[len(all)-1] = m.Embedding()
		if !slices.Equal(sizes, all) {
			t.Errorf("%d threads: exchanges of %v elements, want %v", threads, sizes, all)
		}
		if err := same.Decode([]Item{{Token: 1, Position: len(prompt)}}); err != nil {
			t.Errorf("%d threads: a batch without outputs: %v", threads, err)
		}
		twice := hookedContext(t, m, threads, &Hooks{Reduce: sums, Exchange: func(data []float32) error {
			for i := range data {
				data[i] *= 2
			}
			return nil
		}})
		if got := lastLogits(t, twice, prompt); slices.Equal(got, want) {
			t.Errorf("%d threads: what Exchange wrote had no effect", threads)
		}
	}
}

// A device whose memory the host can't address gets and gives copies.
func TestHooksOnADevice(t *testing.T) {
	m := demo(t)
	far := *m.lib
	far.bufferIsHost = func(uintptr) bool { return false }
	away := &Model{lib: &far, handle: m.handle, vocab: m.vocab}
	prompt := tokens(0, 51, 52, 53, 54)
	twice := func(data []float32) error {
		for i := range data {
			data[i] *= 2
		}
		return nil
	}
	h := &Hooks{Reduce: sums, Exchange: twice}
	if want, got := lastLogits(t, hookedContext(t, m, 1, h), prompt), lastLogits(t, hookedContext(t, away, 1, h), prompt); !slices.Equal(got, want) {
		t.Error("what Exchange wrote did not arrive")
	}
	h = &Hooks{Capture: "l_out-2"}
	here, there := hookedContext(t, m, 1, h), hookedContext(t, away, 1, h)
	for _, c := range []*Context{here, there} {
		if err := c.Decode(prompt); err != nil {
			t.Fatal(err)
		}
	}
	if len(here.Captured()) == 0 || !slices.Equal(here.Captured(), there.Captured()) {
		t.Error("other hidden states were captured")
	}
}

// A tensor that is laid out otherwise is found before a hook reads one.
func TestTensorGate(t *testing.T) {
	m := demo(t)
	good := *m.lib
	if err := good.checkTensor(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Library){
		"size":     func(l *Library) { l.tensorOverhead = func() uint64 { return tensorOverhead + 8 } },
		"no name":  func(l *Library) { l.setName = func(t *tensor, _ string) *tensor { return t } },
		"data":     func(l *Library) { l.tensorData = func(*tensor) uintptr { return 8 } },
		"op":       func(l *Library) { l.opName = func(int32) string { return "MUL_MAT_ID" } },
		"view_src": func(l *Library) { l.viewTensor = func(_ uintptr, t *tensor) *tensor { return t } },
		"ne": func(l *Library) {
			l.newTensor = func(c uintptr, kind int32, n0, n1, n2, n3 int64) *tensor {
				return good.newTensor(c, kind, n0, n2, n1, n3)
			}
		},
		"type": func(l *Library) {
			l.newTensor = func(c uintptr, _ int32, n0, n1, n2, n3 int64) *tensor {
				return good.newTensor(c, ggmlTypeF16, n0, n1, n2, n3)
			}
		},
		"src": func(l *Library) {
			l.mulMat = func(c uintptr, a, b *tensor) *tensor { p := *good.mulMat(c, a, b); p.src[1] = a; return &p }
		},
	} {
		l := good
		change(&l)
		var abi *ABIError
		if _, err := (&Model{lib: &l, handle: m.handle}).NewContext(ContextOptions{Sequences: 1, ContextSeq: 64, BatchTokens: 8, Threads: 1, Hooks: &Hooks{Capture: "l_out-0"}}); !errors.As(err, &abi) {
			t.Errorf("%s: %v, want an ABIError", name, err)
		}
	}
}

func TestReduceByNode(t *testing.T) {
	m := demo(t)
	n := 0
	c := hookedContext(t, m, 1, &Hooks{Reduce: []slice.Reduction{{Node: "l_out"}}, Exchange: func([]float32) error { n++; return nil }})
	lastLogits(t, c, tokens(0, 51, 52))
	if n != m.Layers() {
		t.Errorf("%d exchanges at l_out, the model has %d layers", n, m.Layers())
	}
}

// After an error no exchange follows, and the context goes on being usable.
func TestExchangeError(t *testing.T) {
	m := demo(t)
	gone := errors.New("rank 1 is gone")
	for at := range 2 * m.Layers() {
		calls, broken := 0, true
		c := hookedContext(t, m, 1, &Hooks{Reduce: sums, Exchange: func([]float32) error {
			if calls++; broken && calls == at+1 {
				return gone
			}
			return nil
		}})
		if err := c.Decode(tokens(0, 51, 52, 53)); err != gone {
			t.Fatalf("exchange %d: Decode returned %v", at, err)
		}
		if calls != at+1 {
			t.Errorf("exchange %d failed, but %d were called", at, calls)
		}
		broken = false
		c.Clear()
		if got := lastLogits(t, c, tokens(0, 51, 52, 53)); !slices.Equal(got, lastLogits(t, hookedContext(t, m, 1, nil), tokens(0, 51, 52, 53))) {
			t.Errorf("exchange %d: other logits after the error", at)
		}
	}
}

// What is captured at the last layer is what the layer gave.
func TestCapture(t *testing.T) {
	m := demo(t)
	var layers [][]float32
	c := hookedContext(t, m, 1, &Hooks{Reduce: []slice.Reduction{{Node: "l_out"}}, Exchange: func(data []float32) error {
		layers = append(layers, slices.Clone(data))
		return nil
	}})
	prompt := tokens(0, 51, 52, 53, 54)
	for i := range prompt {
		prompt[i].Output = true
	}
	lastLogits(t, c, prompt)
	for layer := range m.Layers() {
		c := hookedContext(t, m, 1, &Hooks{Capture: fmt.Sprint("l_out-", layer)})
		if err := c.Decode(tokens(0, 51, 52, 53, 54)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(c.Captured(), layers[layer]) {
			t.Errorf("layer %d: captured other values than the layer has", layer)
		}
	}
	if err := hookedContext(t, m, 1, &Hooks{Capture: "l_out-99"}).Decode(prompt); err == nil {
		t.Error("a node that does not exist was captured")
	}
}

// Hidden states come in the order of the items, also if the library computes
// a batch in pieces.
func TestCaptureOfSequences(t *testing.T) {
	m := demo(t)
	h := &Hooks{Capture: "l_out-0"}
	c, err := m.NewContext(ContextOptions{Sequences: 5, ContextSeq: 64, BatchTokens: 8, Threads: 1, Hooks: h})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	one := make([][]float32, 5)
	for s := range one {
		if err := c.Decode([]Item{{Token: int32(60 + s), Sequence: s}}); err != nil {
			t.Fatal(err)
		}
		one[s] = slices.Clone(c.Captured())
	}
	for _, seqs := range [][]int{{0, 1, 2, 3, 4}, {0, 2, 3}, {1, 4}, {0, 2, 4}} {
		c.Clear()
		var items []Item
		for _, s := range seqs {
			items = append(items, Item{Token: int32(60 + s), Sequence: s})
		}
		if err := c.Decode(items); err != nil {
			t.Fatal(err)
		}
		for i, s := range seqs {
			row := c.Captured()[i*m.Embedding() : (i+1)*m.Embedding()]
			if d := nmse(one[s], row); d > 1e-6 {
				t.Errorf("sequences %v: row %d is not that of sequence %d: NMSE %g", seqs, i, s, d)
			}
		}
	}
	if err := c.Decode([]Item{{Token: 1, Sequence: 1, Position: 1}, {Token: 1, Sequence: 0, Position: 1}}); err == nil {
		t.Error("a batch was taken whose order the library may change")
	}
}

func TestHooksRefused(t *testing.T) {
	m := demo(t)
	exchange := func([]float32) error { return nil }
	for name, h := range map[string]Hooks{
		"no exchange": {Reduce: sums},
		"empty":       {Reduce: []slice.Reduction{{}}, Exchange: exchange},
		"both":        {Reduce: []slice.Reduction{{Weight: "a", Node: "b"}}, Exchange: exchange},
	} {
		if c, err := m.NewContext(ContextOptions{Sequences: 1, ContextSeq: 64, BatchTokens: 8, Threads: 1, Hooks: &h}); err == nil {
			c.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{"blk.3.attn_output.weight": "attn_output.weight", "blk.12.a": "a", "blk..a": "", "blk.x.a": "", "output.weight": "", "blk.3": ""} {
		if got := string(blockTensor([]byte(in))); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"CUDA0#blk.3.ffn_down.weight#0": "blk.3.ffn_down.weight", "blk.3.a": "blk.3.a", "a#b": "a#b", "": ""} {
		if got := string(original([]byte(in))); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"ffn_moe_out-3": "ffn_moe_out", "l_out-12": "l_out", "a-b": "a-b", "-3": "-3", "x-": "x-", "": ""} {
		if got := string(withoutLayer([]byte(in))); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// nmse is the squared error against the squared size of want.
func nmse(want, got []float32) float64 {
	if len(want) != len(got) {
		return 1
	}
	var e, z float64
	for i := range want {
		d := float64(want[i]) - float64(got[i])
		e += d * d
		z += float64(want[i]) * float64(want[i])
	}
	return e / z
}
