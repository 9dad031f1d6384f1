package slice

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/stage"
)

// fewRows is how many rows of the vocabulary a stage keeps that has no output
// head: libllama wants a table, and nothing reads it.
const fewRows = 32

// cutLayers makes the draft of a stage with whole layers.
func cutLayers(m *gguf.Model, spec Spec) (*draft, error) {
	s, err := stage.Read(m)
	if err != nil {
		return nil, err
	}
	st, err := s.Stage(spec.First, spec.End)
	if err != nil {
		return nil, err
	}
	d := &draft{model: m, arch: m.Arch(), spec: spec}
	table, _ := m.Tensor("token_embd.weight") // stage.Read refuses a model without it
	width, vocab := int(table.Shape[0]), int(table.Shape[1])
	d.run = Run{Arch: d.arch, Embedding: width, Vocabulary: vocab, Positions: st.Positions, Enter: st.Enter}
	rows := min(fewRows, vocab)
	last := spec.End == s.Layers
	if last {
		d.run.VocabCount, rows = vocab, vocab
	} else {
		d.run.Capture = st.End
	}
	if spec.First == 0 {
		t := whole(table, m.Parts()[table.Part].DataOffset)
		d.run.Embed = &Embed{Type: table.Type, Row: int64(table.Type.RowBytes(table.Shape[0])), Rows: t.Source[0], Scale: st.Scale}
	}
	// Every shard is addressed by token ids that it never sees, so none has a
	// tokenizer; the engine takes the size of its vocabulary from vocab_size.
	d.meta = st.Metadata.Without(func(key string) bool {
		return strings.HasPrefix(key, "tokenizer.") || strings.HasPrefix(key, "split.")
	})
	if err := d.set("tokenizer.ggml.model", "no_vocab"); err != nil {
		return nil, err
	}
	if err := d.set(d.key("vocab_size"), uint32(rows)); err != nil {
		return nil, err
	}
	return d, d.takeTensors(st, rows, last)
}

// takeTensors picks the stage's tensors under their new names.
func (d *draft) takeTensors(st stage.Stage, rows int, last bool) error {
	parts := d.model.Parts()
	for _, t := range d.model.Tensors() {
		w := whole(t, parts[t.Part].DataOffset)
		layer, rest, ok := layerOf(t.Name)
		if ok {
			for place, l := range st.Layers {
				if l != layer {
					continue
				}
				at := w
				if place < st.Before || place >= st.Before+st.Own {
					at = empty(t)
				}
				at.Name = "blk." + strconv.Itoa(place) + "." + rest
				d.tensors = append(d.tensors, at)
			}
			continue
		}
		if last && t.Name == "token_embd.weight" && d.separateHead() {
			// Nobody looks up rows in the last stage.
			if !st.OwnHead {
				continue
			}
			w = empty(smallest(t))
		}
		if last && t.Name == "output.weight" && d.separateHead() && !st.OwnHead {
			w.Name = "token_embd.weight"
		}
		if vocabulary(t, d.run.Vocabulary) && !last {
			var err error
			if w, err = w.rows(0, uint64(rows)); err != nil {
				return err
			}
		}
		if slices.Contains(st.Zero, t.Name) {
			w = empty(t)
		}
		d.tensors = append(d.tensors, w)
	}
	return nil
}

// separateHead tells whether the model has an output head beside its embedding
// table, of the same shape.
func (d *draft) separateHead() bool {
	table, _ := d.model.Tensor("token_embd.weight")
	head, ok := d.model.Tensor("output.weight")
	return ok && head.Shape == table.Shape
}

// smallest is a tensor of the same shape in the type that takes the fewest
// bytes.
func smallest(t gguf.Tensor) gguf.Tensor {
	for _, typ := range []gguf.TensorType{gguf.Q4_0, gguf.Q2_0, gguf.Q1_0} {
		block, _ := typ.Block()
		if t.Shape[0]%block != 0 {
			continue
		}
		if n := int64(typ.RowBytes(t.Shape[0]) * t.Shape[1]); n < t.Bytes {
			t.Type, t.Bytes = typ, n
		}
	}
	return t
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
