package slice

import (
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/rank"
)

// Sharing says how tensor ranks may share a model.
type Sharing = rank.Sharing

// Ranks says how a model may be shared by tensor ranks. An error that wraps
// ErrRefused says why it must not be.
func Ranks(m *gguf.Model) (Sharing, error) {
	r, err := ranksOf(m)
	if err != nil {
		return Sharing{}, err
	}
	return r.Sharing(), nil
}

// PartsFor gives the parts nearest to the weights (relative speeds or memories,
// above 0) that the model can be cut in, one for each rank.
func PartsFor(m *gguf.Model, weights []float64) ([]int, error) {
	r, err := ranksOf(m)
	if err != nil {
		return nil, err
	}
	return r.Parts(weights)
}

func ranksOf(m *gguf.Model) (*rank.Model, error) {
	var tensors []rank.Tensor
	for _, t := range m.Tensors() {
		tensors = append(tensors, ranked(t))
	}
	r, err := rank.Read(m.Metadata, m.Arch(), tensors)
	if err != nil {
		return nil, fmt.Errorf("share %s among ranks: %w", m.Arch(), err)
	}
	return r, nil
}

func ranked(t gguf.Tensor) rank.Tensor {
	layer, name, ok := layerOf(t.Name)
	if !ok {
		return rank.Tensor{Layer: -1, Tensor: t}
	}
	t.Name = name
	return rank.Tensor{Layer: layer, Tensor: t}
}

// cutTensor keeps one rank's part of the stage that the draft holds.
func cutTensor(d *draft) error {
	if err := d.spec.validateParts(); err != nil {
		return err
	}
	tensors := make([]rank.Tensor, len(d.tensors))
	for i, t := range d.tensors {
		tensors[i] = ranked(t.Tensor)
	}
	r, err := rank.Read(d.meta, d.arch, tensors)
	if err != nil {
		return err
	}
	p, err := r.Plan(d.spec.Parts, d.spec.Rank)
	if err != nil {
		return err
	}
	kept := d.tensors[:0:0]
	for i, t := range d.tensors {
		if tensors[i].Layer >= 0 {
			cut, err := p.Cut(tensors[i])
			if err != nil {
				return err
			}
			if t, err = t.apply(cut); err != nil {
				return err
			}
			d.sum(p.Sum(tensors[i].Name))
			name, ok := p.Name(tensors[i].Name)
			if !ok {
				continue
			}
			t.Name = fmt.Sprintf("blk.%d.%s", tensors[i].Layer, name)
		}
		kept = append(kept, t)
	}
	d.tensors = kept
	if len(d.run.Reduce) == 0 {
		return fmt.Errorf("layers [%d, %d) of %s have nothing that ranks could share: %w", d.spec.First, d.spec.End, d.arch, ErrRefused)
	}
	if d.meta, err = p.Metadata(d.run.Embedding); err != nil {
		return err
	}
	d.arch = p.Arch()
	return d.cutVocabulary()
}

// sum adds a reduction to the list, which is in the order of the first layer.
func (d *draft) sum(weight, node string) {
	r := Reduction{Weight: weight, Node: node}
	if r != (Reduction{}) && !slices.Contains(d.run.Reduce, r) {
		d.run.Reduce = append(d.run.Reduce, r)
	}
}

// validateParts checks what does not depend on the model.
func (s Spec) validateParts() error {
	if s.Rank < 0 || s.Rank >= len(s.Parts) {
		return fmt.Errorf("rank %d is not one of the %d that the parts name; ranks count from 0", s.Rank, len(s.Parts))
	}
	for _, n := range s.Parts {
		if n < 1 || n > 1<<20 {
			return fmt.Errorf("parts %d: each must be between 1 and %d", s.Parts, 1<<20)
		}
	}
	return nil
}

// cutVocabulary keeps the rank's rows of the output head, in the last stage.
func (d *draft) cutVocabulary() error {
	if d.run.VocabCount == 0 {
		return nil
	}
	rows, err := rank.Rows(d.run.VocabCount, d.spec.Parts, d.spec.Rank)
	if err != nil {
		return err
	}
	for i, t := range d.tensors {
		if !vocabulary(t.Tensor, d.run.VocabCount) {
			continue
		}
		if d.tensors[i], err = t.apply(rank.Cut{Dim: t.Dims - 1, Spans: []rank.Span{rows}}); err != nil {
			return err
		}
	}
	d.run.VocabFirst, d.run.VocabCount = d.run.VocabFirst+int(rows.First), int(rows.Count)
	return d.set(d.key("vocab_size"), uint32(rows.Count))
}
