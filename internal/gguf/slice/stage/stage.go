// Package stage knows what llama.cpp derives from the number of a layer and
// from how many layers there are, architecture by architecture, and so which
// layers of a model can be loaded as a model of their own and how.
//
// It is pure: it imports gguf and gguf/hyper alone, not net, os or log/slog.
// All of its values are immutable and may be used from any goroutine.
//
// Source: llama.cpp v0.5.0, src/models and src/llama-model.cpp.
package stage

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/hyper"
)

// ErrRefused is in every error about a model that must not be cut this way.
var ErrRefused = errors.New("placed whole instead")

// maxLayers is the engine's own limit.
const maxLayers = 512

// maxBefore and maxBehind are how many empty layers a stage may get: one for
// each kind that the library wants, and those that bring layers to a place
// where the library treats them right.
const (
	maxBefore = 3
	maxBehind = 8
)

// Model is what matters about a model for cutting its layers.
type Model struct {
	// Layers counts those that a plain context runs: draft layers are not
	// among them and in no stage.
	Layers int

	rule  rule
	arch  string
	meta  gguf.Metadata
	hyper *hyper.Params
	vocab int
	lead  int // leading dense layers
	step  int // one layer in step has experts; 0: not by step
	// donors are the layers that padding may be shaped like: the first of each
	// sort.
	donors []int
	// indexed tells for each layer whether it has an indexer of its own.
	indexed []bool
}

// Stage is how layers [First, End) become a model.
type Stage struct {
	// Layers are the layers of the model that the stage's layers are made of,
	// in order. Own of them, after the first Before, are its own; the others
	// are padding, shaped like these layers and full of zeros, so that they
	// change nothing: the library does not run a model that lacks a kind of
	// layer, and tells some kinds by their number.
	Layers []int
	Before int
	Own    int
	// Metadata is that of the stage, but for the vocabulary.
	Metadata gguf.Metadata
	// End is the node that holds the hidden states after the last own layer.
	End string
	// Enter is the node that the input replaces; "": the input is used as it is.
	Enter string
	// Zero lists tensors without a layer whose bytes are zeros in this stage.
	Zero []string
	// OwnHead: the output head must be called output.weight; otherwise it may
	// take the embedding table's place, as in models that share one table.
	OwnHead bool
	// Scale multiplies rows of the embedding table; 1: nothing.
	Scale float32
	// Positions is how many position values each token has.
	Positions int
}

// Read reads what matters about a model. An error wraps ErrRefused where the
// model can't be cut into stages at all, and says why.
func Read(m *gguf.Model) (*Model, error) {
	arch := m.Arch()
	s := &Model{arch: arch, rule: ruleOf(arch), meta: m.Metadata}
	if s.rule.refuse != "" && !s.rule.single {
		return nil, fmt.Errorf("%s is not cut by layers: %s: %w", shown(arch), s.rule.refuse, ErrRefused)
	}
	h, err := hyper.Read(m)
	if err != nil {
		return nil, err
	}
	table, ok := m.Tensor("token_embd.weight")
	if !ok || table.Dims != 2 {
		return nil, fmt.Errorf("the model has no table token_embd.weight: %w", ErrRefused)
	}
	if int(table.Shape[0]) != h.Embedding {
		return nil, fmt.Errorf("token_embd.weight is %d wide, %s.embedding_length says %d: %w", table.Shape[0], arch, h.Embedding, ErrRefused)
	}
	if h.Layers+h.Draft > maxLayers {
		return nil, fmt.Errorf("the model has %d layers, the engine takes %d at most: %w", h.Layers+h.Draft, maxLayers, ErrRefused)
	}
	s.hyper, s.Layers = h, h.Layers
	s.vocab = int(table.Shape[1])
	if loops, ok := m.Uint(s.key("num_loops")); ok && loops > 1 {
		return nil, fmt.Errorf("%s is not cut by layers: %s: %w", arch, looped, ErrRefused)
	}
	if lead, _ := m.Uint(s.key("leading_dense_block_count")); arch != "llama4" { // which has the key and ignores it
		s.lead = int(min(lead, uint64(s.Layers)))
	}
	if s.rule.experts != "" {
		step, _ := m.Uint(s.key(s.rule.experts))
		s.step = int(min(step, uint64(s.Layers)+1))
	}
	if err := s.readIndexers(); err != nil {
		return nil, err
	}
	s.findDonors()
	return s, nil
}

// findDonors picks one layer of each sort.
func (s *Model) findDonors() {
	type sort struct {
		windowed, recurrent, attention, leading, dense, indexed bool
		kind                                                    int
	}
	seen := map[sort]bool{}
	for l := range s.Layers {
		of := sort{s.hyper.Windowed[l], s.hyper.Recurrent[l], s.hyper.Attention[l], l < s.lead, dense(l, s.lead, s.step),
			s.indexed != nil && s.indexed[l], s.kind(l)}
		if !seen[of] {
			seen[of] = true
			s.donors = append(s.donors, l)
		}
	}
}

// shown is an architecture's name for a person.
func shown(arch string) string {
	if arch == "" {
		return "a model without general.architecture"
	}
	return strconv.Quote(arch)
}

func (s *Model) key(name string) string { return s.arch + "." + name }

// readIndexers finds the layers whose attention another layer's indexer serves.
func (s *Model) readIndexers() error {
	if !s.rule.indexer {
		return nil
	}
	s.indexed = make([]bool, s.Layers)
	kv, ok := s.meta.Pair(s.key("attention.indexer.types"))
	if !ok {
		// Files of GLM 5.2 leave the list out and the library has it built in.
		if s.hyper.Context >= 1<<20 {
			return fmt.Errorf("the file does not say which layers have an indexer (%s): %w", s.key("attention.indexer.types"), ErrRefused)
		}
		for i := range s.indexed {
			s.indexed[i] = true
		}
		return nil
	}
	if kv.Type != gguf.TypeArray {
		v, _ := s.meta.Uint(kv.Key)
		for i := range s.indexed {
			s.indexed[i] = v != 0
		}
		return nil
	}
	types, err := s.meta.Uints(kv.Key)
	if err != nil {
		return err
	}
	for i := range s.indexed {
		s.indexed[i] = i < len(types) && types[i] != 0
	}
	return nil
}

// dense tells whether a layer has no experts where others do.
func dense(layer, lead, step int) bool {
	return layer < lead || step > 0 && (layer+1)%step != 0
}

// kind is what the library decides by the number of a layer.
func (s *Model) kind(layer int) int {
	if s.rule.number == nil || s.arch == "smallthinker" && s.hyper.Window == 0 ||
		s.arch == "llama4" && s.hyper.Window == 0 {
		return 0
	}
	return s.rule.number(layer)
}

// Stage makes the stage of layers [first, end). An error wraps ErrRefused where
// the model can be cut, but not there, and names places that do.
func (s *Model) Stage(first, end int) (Stage, error) {
	if first < 0 || end > s.Layers || first >= end {
		return Stage{}, fmt.Errorf("the model has layers [0, %d); name at least one of these", s.Layers)
	}
	if s.rule.refuse != "" && end-first < s.Layers {
		return Stage{}, fmt.Errorf("%s is not cut by layers: %s: %w", shown(s.arch), s.rule.refuse, ErrRefused)
	}
	st, err := s.stage(first, end)
	if errors.Is(err, ErrRefused) {
		return Stage{}, fmt.Errorf("%s: %w", s.advice(), err)
	}
	return st, err
}

// advice names the places where the model can be cut.
func (s *Model) advice() string {
	points := s.CutPoints()
	if len(points) == 0 {
		return s.arch + " has no place to be cut"
	}
	text := make([]string, len(points))
	for i, p := range points {
		text[i] = strconv.Itoa(p)
	}
	return fmt.Sprintf("a new stage of this %s model may begin at layers %s", s.arch, strings.Join(text, ", "))
}

// CutPoints lists the layers at which the model can be cut in two: those that
// may begin a stage when the one before ends there.
func (s *Model) CutPoints() []int {
	var points []int
	if s.rule.refuse != "" {
		return points
	}
	for k := 1; k < s.Layers; k++ {
		if _, err := s.stage(k, s.Layers); err != nil {
			continue
		}
		if _, err := s.stage(0, k); err != nil {
			continue
		}
		points = append(points, k)
	}
	return points
}

func (s *Model) stage(first, end int) (Stage, error) {
	st := Stage{Own: end - first, Scale: 1, Positions: s.positions(), OwnHead: ownHead(s.arch)}
	for layer := first; layer < end; layer++ {
		st.Layers = append(st.Layers, layer)
	}
	if err := s.shareable(first, end); err != nil {
		return Stage{}, err
	}
	lead, step, err := s.arrange(&st)
	if err != nil {
		return Stage{}, err
	}
	for _, n := range s.rule.counts {
		if (s.Layers == n) != (len(st.Layers) == n) {
			return Stage{}, fmt.Errorf("the library takes a %s model of %d layers for another than one of %d: %w", s.arch, s.Layers, len(st.Layers), ErrRefused)
		}
	}
	if s.rule.lite && !s.lite(s.Layers) && s.lite(len(st.Layers)) {
		return Stage{}, fmt.Errorf("the library takes a %s model of %d layers for one without q_lora_rank: %w", s.arch, len(st.Layers), ErrRefused)
	}
	if st.Metadata, err = s.metadata(st, first, lead, step); err != nil {
		return Stage{}, err
	}
	node := s.rule.end
	if node == "" {
		node = "l_out"
	}
	st.End = node + "-" + strconv.Itoa(st.Before+st.Own-1)
	if first > 0 {
		st.Enter = s.rule.enter
		if s.rule.positions {
			st.Zero = []string{"position_embd.weight"}
		}
	} else if s.rule.scaleRow {
		st.Scale = float32(math.Sqrt(float64(s.hyper.Embedding)))
	}
	return st, nil
}

// shareable tells whether no layer of the stage needs an earlier stage's.
func (s *Model) shareable(first, end int) error {
	if s.indexed == nil {
		return nil
	}
	for layer := first; layer < end; layer++ {
		if s.hyper.Windowed[layer] {
			continue
		}
		if !s.indexed[layer] {
			return fmt.Errorf("layer %d attends to what an earlier layer's indexer picked: %w", layer, ErrRefused)
		}
		return nil
	}
	return nil
}

// want is a kind of layer that the library needs.
type want struct {
	name string
	has  func(layer int) bool
}

// wants lists the kinds of layers that the model has and a stage needs too.
func (s *Model) wants() []want {
	h := s.hyper
	all := []want{
		{"a windowed layer", func(l int) bool { return h.Windowed[l] }},
		{"a recurrent layer", func(l int) bool { return h.Recurrent[l] }},
	}
	if slices.Contains(h.Recurrent, true) || s.rule.both {
		all = append(all, want{"an attention layer", func(l int) bool { return h.Attention[l] && !(s.rule.both && h.Windowed[l]) }})
	}
	if s.rule.sparse {
		all = append(all, want{"a sparse layer", func(l int) bool { return l >= s.lead }})
	}
	if s.arch == "llama4" && s.hyper.Window > 0 {
		all = append(all, want{"a layer without positions", func(l int) bool { return s.kind(l) == 1 }})
	}
	return slices.DeleteFunc(all, func(w want) bool {
		for l := range s.Layers {
			if w.has(l) {
				return false
			}
		}
		return true
	})
}

// arrange adds the padding that the stage needs and finds the settings under
// which the library sees each layer as what it is. Padding goes behind the
// stage's own layers, where a stage that hands over hidden states never runs
// it; before them only if nothing else helps.
func (s *Model) arrange(st *Stage) (lead, step int, err error) {
	own := st.Layers
	for before := range maxBefore + 1 {
		var best []int
		for _, front := range s.fronts(before) {
			layers, gap := s.behind(slices.Concat(front, own))
			switch {
			case gap != nil && err == nil:
				err = gap
			case gap == nil && (best == nil || len(layers) < len(best)):
				best = layers
			}
		}
		if best != nil {
			st.Layers, st.Before = best, before
			lead, step, _ = s.settings(best)
			return lead, step, nil
		}
	}
	return 0, 0, err
}

// fronts lists the ways to put n layers of padding first.
func (s *Model) fronts(n int) [][]int {
	ways := [][]int{nil}
	for place := range n {
		var longer [][]int
		for _, way := range ways {
			for _, l := range s.donors {
				if s.kind(l) == s.kind(place) {
					longer = append(longer, append(slices.Clone(way), l))
				}
			}
		}
		ways = longer
	}
	return ways
}

// behind puts as many layers of padding behind these as it takes.
func (s *Model) behind(layers []int) ([]int, error) {
	for place, layer := range layers {
		if s.kind(layer) != s.kind(place) {
			return nil, fmt.Errorf("the library would treat layer %d as another kind at place %d: %w", layer, place, ErrRefused)
		}
	}
	if _, _, ok := s.settings(layers); !ok {
		return nil, fmt.Errorf("no setting makes the library see which layers have experts: %w", ErrRefused)
	}
	for range maxBehind {
		if len(s.missing(layers)) == 0 {
			return layers, nil
		}
		donor, err := s.donor(layers)
		if err != nil {
			return nil, err
		}
		layers = append(layers, donor)
	}
	if missing := s.missing(layers); len(missing) > 0 {
		return nil, fmt.Errorf("the stage lacks %s, and an empty one does not fit: %w", missing[0].name, ErrRefused)
	}
	return layers, nil
}

// missing lists what the library wants and these layers lack.
func (s *Model) missing(layers []int) []want {
	return slices.DeleteFunc(s.wants(), func(w want) bool { return slices.ContainsFunc(layers, w.has) })
}

// donor picks the layer that the padding behind these layers is shaped like:
// one of a kind that is missing, or any that fits in that place.
func (s *Model) donor(layers []int) (int, error) {
	missing := s.missing(layers)
	best := -1
	for _, l := range s.donors {
		if s.kind(l) != s.kind(len(layers)) {
			continue
		}
		if _, _, ok := s.settings(append(slices.Clone(layers), l)); !ok {
			continue
		}
		if slices.ContainsFunc(missing, func(w want) bool { return w.has(l) }) {
			return l, nil
		}
		best = l
	}
	if best < 0 {
		return 0, fmt.Errorf("the stage lacks %s, and an empty one does not fit: %w", missing[0].name, ErrRefused)
	}
	return best, nil
}

// settings finds the number of leading dense layers and the step of layers
// with experts under which the stage's layers are what they were.
func (s *Model) settings(layers []int) (lead, step int, ok bool) {
	natural := 0
	for natural < len(layers) && layers[natural] < s.lead {
		natural++
	}
	leads, steps := []int{natural}, []int{s.step}
	if s.lead > 0 {
		leads = append(leads, 0, len(layers))
	}
	if s.step > 0 {
		steps = append(steps, 1, len(layers)+1)
	}
	for _, step := range steps {
		for _, lead := range leads {
			fits := true
			for i, l := range layers {
				fits = fits && dense(i, lead, step) == dense(l, s.lead, s.step)
			}
			if fits {
				return lead, step, true
			}
		}
	}
	return 0, 0, false
}

// lite tells whether the library takes a model of so many layers for one
// without q_lora_rank.
func (s *Model) lite(layers int) bool {
	return layers == 26 || layers == 27 || layers == 48 && s.vocab == 128256
}

// positions is how many position values a token has.
func (s *Model) positions() int {
	if s.rule.mrope > 0 {
		return s.rule.mrope
	}
	if (s.arch == "glm4" || s.arch == "hunyuan_vl") && s.hasSections() {
		return 4
	}
	return 1
}

// hasSections tells whether the file switches M-RoPE on.
func (s *Model) hasSections() bool {
	v, err := s.meta.Uints(s.key("rope.dimension_sections"))
	return err == nil && len(v) > 1 && v[0] > 0 && v[1] > 0
}
