package gguf

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Model is a whole model: one file, or all parts of a split one.
type Model struct {
	// Metadata is that of the first part, the only one that has any beside the
	// split keys.
	Metadata
	parts   []*File
	tensors []Tensor
	byName  map[string]int
}

// Split is what a file says about the split model that it is a part of.
type Split struct {
	Part    int // 0-based
	Count   int // parts; 1 for a file that is not split
	Tensors int // in all parts; 0 if not said
}

// Split reads the split keys.
func (f *File) Split() (Split, error) {
	count, ok := f.Uint("split.count")
	if !ok || count <= 1 {
		return Split{Count: 1, Tensors: len(f.tensors)}, nil
	}
	part, ok := f.Uint("split.no")
	if !ok || part >= count || count > maxPairs {
		return Split{}, fmt.Errorf("split.no is %d of split.count %d: %w", part, count, ErrDamaged)
	}
	tensors, _ := f.Uint("split.tensors.count")
	if tensors > maxTensors {
		return Split{}, fmt.Errorf("split.tensors.count is %d: %w", tensors, ErrDamaged)
	}
	return Split{Part: int(part), Count: int(count), Tensors: int(tensors)}, nil
}

// Join makes a model from its parts, given in any order. Missing, doubled and
// foreign parts are errors that name them.
func Join(parts ...*File) (*Model, error) {
	if len(parts) == 0 {
		return nil, fmt.Errorf("join gguf: no file given")
	}
	first, err := parts[0].Split()
	if err != nil {
		return nil, fmt.Errorf("join gguf: %w", err)
	}
	if first.Count == 1 && len(parts) > 1 {
		return nil, fmt.Errorf("join gguf: %d files given, but the first is a whole model; give one file", len(parts))
	}
	ordered := make([]*File, min(first.Count, maxPairs))
	for _, f := range parts {
		s, err := f.Split()
		if err != nil {
			return nil, fmt.Errorf("join gguf: %w", err)
		}
		if s.Count != first.Count || s.Tensors != first.Tensors && s.Tensors != 0 && first.Tensors != 0 {
			return nil, fmt.Errorf("join gguf: the files are parts of different models (%d parts and %d tensors, %d parts and %d tensors)", first.Count, first.Tensors, s.Count, s.Tensors)
		}
		if ordered[s.Part] != nil {
			return nil, fmt.Errorf("join gguf: part %d of %d is given twice", s.Part+1, s.Count)
		}
		ordered[s.Part] = f
	}
	var missing []string
	for i, f := range ordered {
		if f == nil {
			missing = append(missing, fmt.Sprint(i+1))
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("join gguf: of %d parts these are missing: %s; download them into the same folder", first.Count, strings.Join(missing, ", "))
	}
	m := &Model{Metadata: ordered[0].Metadata, parts: ordered, byName: map[string]int{}}
	for i, f := range ordered {
		for _, t := range f.tensors {
			t.Part = i
			if _, dup := m.byName[t.Name]; dup {
				return nil, fmt.Errorf("join gguf: tensor %q is in two parts: %w", t.Name, ErrDamaged)
			}
			m.byName[t.Name] = len(m.tensors)
			m.tensors = append(m.tensors, t)
		}
	}
	if first.Tensors != 0 && first.Tensors != len(m.tensors) {
		return nil, fmt.Errorf("join gguf: the parts hold %d tensors, split.tensors.count says %d: %w", len(m.tensors), first.Tensors, ErrDamaged)
	}
	return m, nil
}

// Parts lists the files in order.
func (m *Model) Parts() []*File { return slices.Clone(m.parts) }

// Tensors lists the tensors of all parts. The slice is the Model's own and
// must not be changed.
func (m *Model) Tensors() []Tensor { return m.tensors }

// Tensor finds a tensor by name.
func (m *Model) Tensor(name string) (Tensor, bool) {
	i, ok := m.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return m.tensors[i], true
}

// Data reads a tensor's bytes from the part that holds it.
func (m *Model) Data(t Tensor) *io.SectionReader { return m.parts[t.Part].Data(t) }

// Arch is general.architecture: "llama", "qwen3moe", ...; "" if missing.
func (m *Model) Arch() string {
	s, _ := m.String("general.architecture")
	return s
}

// Name is general.name; "" if missing.
func (m *Model) Name() string {
	s, _ := m.String("general.name")
	return s
}

// Parameters is the number of elements of all tensors.
func (m *Model) Parameters() uint64 {
	var n uint64
	for _, t := range m.tensors {
		n += t.Elements()
	}
	return n
}

// TensorBytes is the size of all tensor data, without padding.
func (m *Model) TensorBytes() int64 {
	var n int64
	for _, t := range m.tensors {
		n += t.Bytes
	}
	return n
}

// ChatTemplate is the model's default template; "" if it has none.
func (m *Model) ChatTemplate() string {
	s, _ := m.String("tokenizer.chat_template")
	return s
}

// ChatTemplates gives every template by name, the default one as "default".
func (m *Model) ChatTemplates() map[string]string {
	const prefix = "tokenizer.chat_template"
	out := map[string]string{}
	for _, kv := range m.kvs {
		rest, ok := strings.CutPrefix(kv.Key, prefix)
		if !ok || kv.Type != TypeString {
			continue
		}
		name := "default"
		if rest != "" {
			if name, ok = strings.CutPrefix(rest, "."); !ok || name == "" {
				continue
			}
		}
		if text, ok := m.String(kv.Key); ok {
			out[name] = text
		}
	}
	return out
}

// Quantization names how the weights are stored ("Q4_K_M"): by general.file_type
// if it is known, else by the type that most of the bytes have.
func (m *Model) Quantization() string {
	if v, ok := m.Uint("general.file_type"); ok {
		if name := fileTypeName(v &^ 1024); name != "" { // 1024: "guessed"
			return name
		}
	}
	sum := map[TensorType]int64{}
	var best TensorType
	for _, t := range m.tensors {
		sum[t.Type] += t.Bytes
		if sum[t.Type] > sum[best] {
			best = t.Type
		}
	}
	if len(m.tensors) == 0 {
		return "unknown"
	}
	return best.String()
}

// fileTypeName names llama.cpp's LLAMA_FTYPE values of v0.5.0.
func fileTypeName(v uint64) string {
	names := [...]string{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
		10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M",
		16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
		22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
		28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
		38: "MXFP4", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0"}
	if v < uint64(len(names)) {
		return names[v]
	}
	return ""
}
