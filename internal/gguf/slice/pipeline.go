package slice

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
)

// fewRows is how many rows of the vocabulary a stage keeps that has no output
// head: libllama wants a table, and nothing reads it.
const fewRows = 32

// cutLayers makes the draft of a stage with whole layers.
func cutLayers(m *gguf.Model, spec Spec) (*draft, error) {
	d := &draft{model: m, arch: m.Arch(), spec: spec, meta: m.Metadata}
	layers, ok := m.Uint(d.key("block_count"))
	if !ok || layers > 1<<16 {
		return nil, fmt.Errorf("the model has no usable %s: %w", d.key("block_count"), gguf.ErrDamaged)
	}
	n := int(layers)
	if spec.First < 0 || spec.End > n || spec.First >= spec.End {
		return nil, fmt.Errorf("the model has layers [0, %d); name at least one of these", n)
	}
	table, ok := m.Tensor("token_embd.weight")
	if !ok || table.Dims != 2 {
		return nil, fmt.Errorf("the model has no table token_embd.weight: %w", ErrRefused)
	}
	width, vocab := int(table.Shape[0]), int(table.Shape[1])
	last := spec.End == n
	d.run = Run{Arch: d.arch, Embedding: width, Vocabulary: vocab, Positions: 1}
	rows := min(fewRows, vocab)
	if last {
		d.run.VocabCount, rows = vocab, vocab
	} else {
		d.run.Capture = "l_out-" + strconv.Itoa(spec.End-spec.First-1)
	}
	if spec.First == 0 {
		t := whole(table, m.Parts()[table.Part].DataOffset)
		d.run.Embed = &Embed{Type: table.Type, Row: int64(table.Type.RowBytes(table.Shape[0])), Rows: t.Source[0], Scale: 1}
	}
	if err := d.cutMetadata(n, rows); err != nil {
		return nil, err
	}
	return d, d.takeTensors(rows, last)
}

// cutMetadata renumbers what counts layers and drops the tokenizer.
func (d *draft) cutMetadata(layers, rows int) error {
	first, end := d.spec.First, d.spec.End
	d.meta = d.meta.Without(func(key string) bool {
		return strings.HasPrefix(key, "tokenizer.") || strings.HasPrefix(key, "split.")
	})
	for _, kv := range d.meta.Pairs() {
		name, ours := strings.CutPrefix(kv.Key, d.arch+".")
		if !ours || kv.Type != gguf.TypeArray || !slices.Contains(layerArrays, name) || kv.Len != uint64(layers) {
			continue
		}
		cut, err := kv.Cut(uint64(first), uint64(end))
		if err != nil {
			return err
		}
		d.meta = d.meta.With(cut)
	}
	if lead, ok := d.meta.Int(d.key("leading_dense_block_count")); ok {
		if err := d.set(d.key("leading_dense_block_count"), uint32(min(max(lead-int64(first), 0), int64(end-first)))); err != nil {
			return err
		}
	}
	if err := d.set(d.key("block_count"), uint32(end-first)); err != nil {
		return err
	}
	if err := d.set("tokenizer.ggml.model", "no_vocab"); err != nil {
		return err
	}
	return d.set(d.key("vocab_size"), uint32(rows))
}

// layerArrays are the keys whose arrays have one entry a layer.
var layerArrays = []string{
	"attention.head_count", "attention.head_count_kv", "feed_forward_length",
	"attention.sliding_window_pattern", "expert_feed_forward_length", "expert_used_count",
}

// takeTensors picks the stage's tensors under their new names.
func (d *draft) takeTensors(rows int, last bool) error {
	parts := d.model.Parts()
	for _, t := range d.model.Tensors() {
		w := whole(t, parts[t.Part].DataOffset)
		if layer, rest, ok := layerOf(t.Name); ok {
			if layer < d.spec.First || layer >= d.spec.End {
				continue
			}
			w.Name = "blk." + strconv.Itoa(layer-d.spec.First) + "." + rest
		} else if vocabulary(t, d.run.Vocabulary) && !last {
			var err error
			if w, err = w.rows(0, uint64(rows)); err != nil {
				return err
			}
		}
		d.tensors = append(d.tensors, w)
	}
	return nil
}

// vocabulary tells whether a tensor has a row for each token.
func vocabulary(t gguf.Tensor, vocab int) bool {
	switch t.Name {
	case "token_embd.weight", "output.weight", "output.bias":
		return t.Dims > 0 && t.Shape[t.Dims-1] == uint64(vocab)
	}
	return false
}

// layerOf splits "blk.3.attn_q.weight" into 3 and "attn_q.weight".
func layerOf(name string) (layer int, rest string, ok bool) {
	s, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return 0, "", false
	}
	number, rest, ok := strings.Cut(s, ".")
	layer, err := strconv.Atoi(number)
	return layer, rest, ok && err == nil && layer >= 0
}

// rows keeps rows [first, first+count) of a tensor that has all its bytes in
// one run: its last dimension is cut.
func (t Tensor) rows(first, count uint64) (Tensor, error) {
	if t.Dims == 0 || len(t.Source) != 1 || t.Source[0].Count != 1 {
		return Tensor{}, fmt.Errorf("tensor %q can't be cut by rows", t.Name)
	}
	last := t.Dims - 1
	all := t.Shape[last]
	if all == 0 || first+count > all {
		return Tensor{}, fmt.Errorf("tensor %q has %d rows, not %d", t.Name, all, first+count)
	}
	row := t.Bytes / int64(all)
	if row*int64(all) != t.Bytes {
		return Tensor{}, fmt.Errorf("tensor %q of %s can't be cut between rows", t.Name, t.Type)
	}
	r := t.Source[0]
	r.Offset += int64(first) * row
	r.Length = int64(count) * row
	t.Shape[last], t.Bytes, t.Source = count, r.Length, []Range{r}
	return t, nil
}
