package slice

import (
	"fmt"
	"slices"
	"strings"
)

// A rank holds some heads and some columns of the feed-forward network of each
// layer. What follows from the sum over all heads or columns is a sum of the
// ranks' own results, so the product that ends a layer's half (attn_output,
// ffn_down, or the sum of the experts) is the one thing that ranks exchange.
// Biases after it are added by the library after the exchange, so each rank
// has them whole; so are norms, routers and everything else that works on
// hidden states. Rank r of every stage cuts by the same Parts.

// cutTensor keeps one rank's part of the stage that the draft holds.
func cutTensor(d *draft) error {
	if err := d.spec.validateParts(); err != nil {
		return err
	}
	p, err := planRanks(d)
	if err != nil {
		return err
	}
	weights := map[string]bool{}
	nodes := map[string]bool{}
	for i, t := range d.tensors {
		layer, name, ok := layerOf(t.Name)
		if !ok {
			continue
		}
		if d.tensors[i], err = p.cut(layer, name, t); err != nil {
			return err
		}
		weight, node := p.reduction(name)
		if weight != "" {
			weights[weight] = true
		}
		if node != "" {
			nodes[node] = true
		}
	}
	for _, name := range sorted(weights) {
		d.run.Reduce = append(d.run.Reduce, Reduction{Weight: name})
	}
	for _, name := range sorted(nodes) {
		d.run.Reduce = append(d.run.Reduce, Reduction{Node: name})
	}
	if len(d.run.Reduce) == 0 {
		return fmt.Errorf("layers [%d, %d) of %s have nothing that ranks could share: %w", d.spec.First, d.spec.End, d.arch, ErrRefused)
	}
	if err := p.metadata(d); err != nil {
		return err
	}
	if err := cutVocabulary(d); err != nil {
		return err
	}
	return p.rule.disguise(d)
}

// disguise names the shard an architecture of the same computation that the
// library loads with any number of heads.
func (r tensorRule) disguise(d *draft) error {
	if r.as == "" {
		return nil
	}
	prefix := d.arch + "."
	all := d.meta.Pairs()
	d.meta = d.meta.Without(func(key string) bool { return strings.HasPrefix(key, prefix) })
	for _, kv := range all {
		if rest, ok := strings.CutPrefix(kv.Key, prefix); ok {
			kv.Key = r.as + "." + rest
			d.meta = d.meta.With(kv)
		}
	}
	for i, t := range d.tensors {
		if layer, name, ok := layerOf(t.Name); ok {
			base, kind, _ := strings.Cut(name, ".")
			if other, ok := r.rename[base]; ok {
				d.tensors[i].Name = fmt.Sprintf("blk.%d.%s.%s", layer, other, kind)
			}
		}
	}
	d.tensors = slices.DeleteFunc(d.tensors, func(t Tensor) bool {
		_, name, _ := layerOf(t.Name)
		return slices.Contains(r.unread, name)
	})
	d.arch = r.as
	return d.set("general.architecture", r.as)
}

// validateParts checks what does not depend on the model.
func (s Spec) validateParts() error {
	if s.Rank < 0 || s.Rank >= len(s.Parts) {
		return fmt.Errorf("rank %d is not one of the %d that the parts name; ranks count from 0", s.Rank, len(s.Parts))
	}
	for _, n := range s.Parts {
		if n < 1 || n > 1<<20 {
			return fmt.Errorf("parts %s: each must be between 1 and %d", written(s.Parts), 1<<20)
		}
	}
	return nil
}

// cutVocabulary keeps the rank's rows of the output head, in the last stage.
func cutVocabulary(d *draft) error {
	if d.run.VocabCount == 0 {
		return nil
	}
	first, count, err := share(d.run.VocabCount, vocabularyUnit(d.run.VocabCount, len(d.spec.Parts)), d.spec)
	if err != nil {
		return fmt.Errorf("the vocabulary: %w", err)
	}
	for i, t := range d.tensors {
		if !vocabulary(t.Tensor, d.run.VocabCount) {
			continue
		}
		if d.tensors[i], err = t.keep(t.Dims-1, span{uint64(first), uint64(count)}); err != nil {
			return err
		}
	}
	d.run.VocabFirst, d.run.VocabCount = d.run.VocabFirst+first, count
	return d.set(d.key("vocab_size"), uint32(count))
}

// vocabularyUnit keeps the cut at rows that the library's kernels take at once,
// where there are enough of them.
func vocabularyUnit(rows, ranks int) int {
	if rows%kernelRows == 0 && rows/kernelRows >= 4*ranks {
		return kernelRows
	}
	return 1
}

// kernelRows is a number of rows that every repacked matrix layout of the
// library divides.
const kernelRows = 32

// cuts are the places where a dimension of n units is cut in proportion to the
// parts: len(parts)+1 of them, each part at least one unit.
func cuts(n int, parts []int) ([]int, error) {
	if n < len(parts) {
		return nil, fmt.Errorf("%d blocks can't be shared by %d ranks; use %d ranks at most", n, len(parts), n)
	}
	var total, sum int
	for _, p := range parts {
		total += p
	}
	out := make([]int, len(parts)+1)
	for i, p := range parts {
		sum += p
		at := (2*n*sum + total) / (2 * total) // rounded
		// Leave one unit for each rank before and after.
		out[i+1] = min(max(at, out[i]+1), n-(len(parts)-1-i))
	}
	return out, nil
}

// share is a rank's part of size elements, cut at multiples of unit.
func share(size, unit int, spec Spec) (first, count int, err error) {
	at, err := cuts(size/unit, spec.Parts)
	if err != nil {
		return 0, 0, err
	}
	return at[spec.Rank] * unit, (at[spec.Rank+1] - at[spec.Rank]) * unit, nil
}

// written prints parts as people write them: "2:1".
func written(parts []int) string {
	words := make([]string, len(parts))
	for i, p := range parts {
		words[i] = fmt.Sprint(p)
	}
	return strings.Join(words, ":")
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
