// Package profile reads from a model file what placement needs to know of it:
// sizes layer by layer, and how it may be cut. It finds both out by cutting
// (package slice) and by reading the shards' own metadata (package hyper), so
// that placement and shards can't disagree.
//
// It is pure, like placement; it imports gguf, gguf/hyper, gguf/slice and
// placement/cost alone. All functions may be called from any goroutine.
package profile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// maxUnits bounds the pieces that ranks share out, where the model has no KV
// heads to bound them.
const maxUnits = 16

// Of makes the profile of a model for the KV caches that it gets: of f16, or of
// f32 where its weights are. A model that must not
// be cut has a profile too, with the reason in it.
func Of(m *gguf.Model, name string) (cost.Model, error) {
	p, err := of(m, name)
	if err != nil {
		return cost.Model{}, fmt.Errorf("profile %s: %w", name, err)
	}
	return p, nil
}

func of(m *gguf.Model, name string) (cost.Model, error) {
	h, err := hyper.Read(m)
	if err != nil {
		return cost.Model{}, err
	}
	n := h.Layers // draft layers are in no stage
	out := cost.Model{
		Name: name, Layers: make([]cost.Layer, n), Embedding: h.Embedding, Vocabulary: h.Vocabulary, Parameters: m.Parameters(),
		Window: h.Window, Trained: h.Context, Exact: h.Exact, Whole: m.TensorBytes(), Units: 1,
	}
	experts := 1.0
	if h.Experts > 0 && h.ExpertsUsed > 0 {
		experts = min(1, float64(h.ExpertsUsed)/float64(h.Experts))
	}
	whole, err := measure(m, experts, h.Exact)
	if err != nil {
		return out, err
	}
	for i, w := range whole.layers {
		out.Whole -= w.weights
		out.Layers[i] = cost.Layer{Weights: cost.Part{Shared: w.weights}, Read: cost.Part{Shared: w.read}, Flops: w.flops,
			Cell: cost.Part{Shared: w.Cell}, Windowed: w.Windowed, State: cost.Part{Shared: w.State}, Scratch: cost.Part{Shared: w.Scratch}, Scores: cost.Part{Shared: w.Scores}}
	}
	out.HeadRead.Shared = headBytes(m)
	if err := ends(m, &out, n); err != nil {
		return out, err
	}
	return out, ranks(m, &out, n, h, experts)
}

// sizes is what one layer has.
type sizes struct {
	hyper.Layer
	weights, read int64
	flops         float64
	empty         bool // of zeros: there for the library, not for the model
}

// measured is a model or a shard, layer by layer.
type measured struct {
	layers []sizes
	rest   int64 // bytes of weights outside the layers
	head   int64 // bytes of the output head's matrix
}

// measure sums up the tensors of each layer. experts is the share of them that
// a token is sent to; exact is Params.Exact of the whole model.
func measure(m *gguf.Model, experts float64, exact bool) (measured, error) {
	h, err := hyper.Read(m)
	if err != nil {
		return measured{}, err
	}
	each, err := h.PerLayer(hyper.Spec{Context: 1, Slots: 1, Exact: exact})
	if err != nil {
		return measured{}, err
	}
	layers := len(each)
	out := measured{layers: make([]sizes, layers), head: headBytes(m)}
	for i, l := range each {
		out.layers[i].Layer = l
	}
	for _, t := range m.Tensors() {
		i, rest, ok := layerOf(t.Name)
		if !ok || i >= layers {
			out.rest += t.Bytes
			continue
		}
		share := 1.0
		if strings.Contains(rest, "_exps") {
			share = experts
		}
		l := &out.layers[i]
		l.weights += t.Bytes
		l.read += int64(float64(t.Bytes) * share)
		if t.Dims > 1 {
			l.flops += 2 * float64(t.Elements()) * share
		}
	}
	return out, nil
}

// headBytes is the size of the output head's matrix, which may be the
// embedding table.
func headBytes(m *gguf.Model) int64 {
	for _, name := range []string{"output.weight", "token_embd.weight"} {
		if t, ok := m.Tensor(name); ok {
			return t.Bytes
		}
	}
	return 0
}

// layerOf splits "blk.3.attn_q.weight" into 3 and "attn_q.weight".
func layerOf(name string) (int, string, bool) {
	s, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return 0, "", false
	}
	number, rest, ok := strings.Cut(s, ".")
	i, err := strconv.Atoi(number)
	return i, rest, ok && err == nil && i >= 0
}

// Shard gives a shard as the model that the library will load, without its
// tensor data.
func Shard(f *slice.File) (*gguf.Model, error) {
	p, err := gguf.Parse(header(f.Header), f.Size)
	if err != nil {
		return nil, fmt.Errorf("read a shard's header: %w", err)
	}
	return gguf.Join(p)
}

// header reads a file of which the header alone is known: zeros follow.
type header []byte

func (h header) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(h)) {
		n = copy(p, h[off:])
	}
	clear(p[n:])
	return len(p), nil
}

// refusal is an error of slice.Cut: this cut must not be made.
type refusal struct{ error }

// cutting cuts and measures a shard.
func cutting(m *gguf.Model, spec slice.Spec, experts float64, exact bool) (*slice.File, measured, error) {
	f, err := slice.Cut(m, spec)
	if err != nil {
		return nil, measured{}, refusal{err}
	}
	shard, err := Shard(f)
	if err != nil {
		return nil, measured{}, err
	}
	sizes, err := measure(shard, experts, exact)
	if err != nil {
		return nil, measured{}, err
	}
	for i := range sizes.layers {
		sizes.layers[i].empty = true
	}
	for _, t := range f.Tensors {
		if i, _, ok := layerOf(t.Name); ok && i < len(sizes.layers) && slices.ContainsFunc(t.Source, func(r slice.Range) bool { return r.Part >= 0 }) {
			sizes.layers[i].empty = false
		}
	}
	return f, sizes, nil
}

// ends finds out where stages may begin and end, and what each has outside its
// layers.
func ends(m *gguf.Model, out *cost.Model, n int) error {
	if n < 2 {
		out.NoPipeline = "it has one layer only"
		return nil
	}
	points, err := slice.CutPoints(m)
	if errors.Is(err, slice.ErrRefused) {
		out.NoPipeline = reason(err)
		return nil
	}
	if err != nil {
		return err
	}
	begins := []int{0}
	for _, p := range points {
		begins = append(begins, p.Layer)
	}
	least := make([]int, n)
	stages := make([]measured, n) // the smallest stage from each layer
	var refused refusal
	end := 0 // the smallest end never falls: a stage within another has no more kinds of layers
	for _, first := range begins {
		for _, next := range append(begins[1:len(begins):len(begins)], n) {
			if end = max(end, first+1); next < end {
				continue
			}
			_, sizes, err := cutting(m, slice.Spec{First: first, End: next}, 1, out.Exact)
			if err == nil {
				end = next
				least[first], stages[first] = end, sizes
				break
			}
			if !errors.As(err, &refused) {
				return err
			}
		}
	}
	last := n - 1
	for last > 0 && least[last] == 0 {
		last--
	}
	if least[0] == 0 || least[0] > last {
		if refused.error == nil { // no layer to cut at: cut anywhere to be told why
			_, refused.error = slice.Cut(m, slice.Spec{First: 0, End: n / 2})
		}
		out.NoPipeline = reason(refused.error)
		return nil
	}
	for first := range n {
		if least[first] != first+1 {
			out.Least = least
		}
	}
	// The stages that end and begin the model, and one in the middle, differ in
	// what they have beside their layers.
	out.Every = stages[0].rest
	for first := 1; first < last; first++ {
		if least[first] > 0 && least[first] < n {
			out.Every = min(out.Every, stages[first].rest)
		}
	}
	out.First = max(stages[0].rest-out.Every, 0)
	out.Head = cost.Part{Shared: max(stages[last].rest-out.Every, 0)}
	return padding(m, out, least, stages)
}

// padding finds what a stage has beside its own layers: the library does not
// run a model that lacks a kind of layer, so some stages get empty ones. The
// smallest stages have most of them; stages of half the model are looked at too.
func padding(m *gguf.Model, out *cost.Model, least []int, stages []measured) error {
	n := len(least)
	lacking := map[cost.Kind]*cost.Layer{}
	look := func(first, end int, stage measured) {
		own := map[cost.Kind]bool{}
		for _, l := range out.Layers[first:end] {
			own[l.Kind()] = true
		}
		extra := map[cost.Kind]*cost.Layer{}
		var other cost.Layer
		for _, s := range stage.layers {
			if !s.empty {
				continue
			}
			l := cost.Layer{Weights: cost.Part{Shared: s.weights}, Cell: cost.Part{Shared: s.Cell}, Windowed: s.Windowed, State: cost.Part{Shared: s.State}}
			to := &other
			if k := l.Kind(); !own[k] {
				if extra[k] == nil {
					extra[k] = &cost.Layer{Windowed: l.Windowed}
				}
				to = extra[k]
			}
			to.Weights.Shared += s.weights
			to.Cell.Shared += s.Cell
			to.State.Shared += s.State
		}
		raise(&out.Padding, other)
		for k, l := range extra {
			if lacking[k] == nil {
				lacking[k] = &cost.Layer{Windowed: l.Windowed}
			}
			raise(lacking[k], *l)
		}
	}
	for first := range n {
		if least[first] == 0 {
			continue
		}
		look(first, least[first], stages[first])
		if end := first + n/2; end < n && end > least[first] && least[end] > 0 {
			_, sizes, err := cutting(m, slice.Spec{First: first, End: end}, 1, out.Exact)
			var refused refusal
			switch {
			case err == nil:
				look(first, end, sizes)
			case !errors.As(err, &refused):
				return err
			}
		}
	}
	// A stage must not take less memory for having another layer: what an
	// empty layer has beyond the smallest real one of its kind, every stage has.
	for k, l := range lacking {
		smallest := *l
		for _, real := range out.Layers {
			if real.Kind() == k {
				smallest.Weights.Shared = min(smallest.Weights.Shared, real.Weights.Sum())
				smallest.Cell.Shared = min(smallest.Cell.Shared, real.Cell.Sum())
				smallest.State.Shared = min(smallest.State.Shared, real.State.Sum())
			}
		}
		out.Padding.Weights.Shared += l.Weights.Shared - smallest.Weights.Shared
		out.Padding.Cell.Shared += l.Cell.Shared - smallest.Cell.Shared
		out.Padding.State.Shared += l.State.Shared - smallest.State.Shared
		out.Lacking = append(out.Lacking, smallest)
	}
	slices.SortFunc(out.Lacking, func(a, b cost.Layer) int { return cmp.Compare(a.Kind(), b.Kind()) })
	return nil
}

func raise(to *cost.Layer, by cost.Layer) {
	to.Weights.Shared = max(to.Weights.Shared, by.Weights.Sum())
	to.Cell.Shared = max(to.Cell.Shared, by.Cell.Sum())
	to.State.Shared = max(to.State.Shared, by.State.Sum())
}

// reason takes the words for a person out of an error of slice.
func reason(err error) string {
	if err == nil {
		return "no split is possible"
	}
	words := strings.TrimSuffix(err.Error(), ": "+slice.ErrRefused.Error())
	if cut, rest, ok := strings.Cut(words, ": "); ok && strings.HasPrefix(cut, "cut ") {
		return rest
	}
	return words
}

// ranks finds out into how many pieces the layers can be cut, and what of each
// layer is shared out.
func ranks(m *gguf.Model, out *cost.Model, n int, h *hyper.Params, experts float64) error {
	_, whole, err := cutting(m, slice.Spec{First: 0, End: n}, experts, out.Exact)
	var refused refusal
	if errors.As(err, &refused) {
		out.NoTensor = reason(refused.error)
		return nil
	}
	if err != nil {
		return err
	}
	// The smallest rank of any cut: all of equal size, as many as there can be.
	for _, units := range counts(h) {
		parts := make([]int, units)
		for i := range parts {
			parts[i] = 1
		}
		most := measured{layers: make([]sizes, n)}
		var file *slice.File
		for rank := range units {
			var one measured
			if file, one, err = cutting(m, slice.Spec{First: 0, End: n, Rank: rank, Parts: parts}, experts, out.Exact); err != nil {
				break
			}
			most.raise(one)
		}
		if errors.As(err, &refused) {
			out.NoTensor = reason(refused.error)
			continue
		}
		if err != nil {
			return err
		}
		out.NoTensor = ""
		out.Units = units
		spread(out, whole, most, m, file.Run.Reduce)
		return nil
	}
	if out.NoTensor == "" {
		out.NoTensor = "it has one KV head only"
	}
	return nil
}

// raise takes the larger of each size: ranks of equal parts differ by a block.
func (a *measured) raise(b measured) {
	for i := range a.layers {
		x, y := &a.layers[i], b.layers[i]
		x.weights, x.read = max(x.weights, y.weights), max(x.read, y.read)
		x.Cell, x.State = max(x.Cell, y.Cell), max(x.State, y.State)
		x.Scratch, x.Scores = max(x.Scratch, y.Scratch), max(x.Scores, y.Scores)
	}
	a.rest, a.head = max(a.rest, b.rest), max(a.head, b.head)
}

// counts lists numbers of equal ranks to try, the largest first: divisors of
// the number of KV heads that all layers have.
func counts(h *hyper.Params) []int {
	heads := 0
	for i, k := range h.KVHeads {
		if h.Attention[i] && k > 0 {
			heads = gcd(heads, k)
		}
	}
	if heads < 2 || h.MLA {
		// What is shared out then is columns, if anything.
		heads = maxUnits
	}
	var out []int
	for units := min(heads, 4*maxUnits); units > 1; units-- {
		if heads%units == 0 {
			out = append(out, units)
		}
	}
	return out
}

// spread divides the sizes into what each rank has whole and what is shared
// out, by comparing a rank with the whole.
func spread(out *cost.Model, whole, rank measured, m *gguf.Model, reduce []slice.Reduction) {
	part := func(all, one int64) cost.Part {
		if out.Units < 2 || one >= all {
			return cost.Part{Shared: all}
		}
		// all = shared + cut, one = shared + cut/units; rounded so that no
		// rank is estimated too small.
		cut := int64(float64(all-one) * float64(out.Units) / float64(out.Units-1))
		cut = min(cut, all)
		return cost.Part{Shared: all - cut, Cut: cut}
	}
	for i := range out.Layers {
		l, w, r := &out.Layers[i], whole.layers[i], rank.layers[i]
		l.Weights, l.Read = part(w.weights, r.weights), part(w.read, r.read)
		l.Cell, l.State = part(w.Cell, r.Cell), part(w.State, r.State)
		l.Scratch, l.Scores = part(w.Scratch, r.Scratch), part(w.Scores, r.Scores)
		for _, name := range reduce {
			weight := name.Weight
			if weight == "" {
				weight = "ffn_down_exps.weight"
			}
			if _, ok := m.Tensor(fmt.Sprintf("blk.%d.%s", i, weight)); ok {
				l.Reductions++
			}
		}
	}
	head := part(whole.rest, rank.rest)
	// What every stage has is not shared out; the head is the rest of it.
	out.Head = cost.Part{Shared: max(whole.rest-out.Every-out.First-head.Cut, 0), Cut: min(head.Cut, max(whole.rest-out.Every-out.First, 0))}
	out.HeadRead = part(whole.head, rank.head)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
