package slice

import (
	"strings"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/rank"
	"github.com/skein-run/skein/internal/gguf/slice/stage"
)

// Support says how the models of an architecture can be cut.
type Support struct {
	Architecture string
	Pipeline     Answer // into stages of whole layers
	Tensor       Answer // into ranks that share each layer
}

// Answer says whether something can be done.
type Answer struct {
	Yes bool
	// Why is the reason where it can't; otherwise conditions that a model may
	// fail all the same, and what it costs. Cut has the last word.
	Why string
}

// Architectures lists every architecture that the engine knows, by name.
func Architectures() []string { return stage.Architectures() }

// SupportFor looks an architecture up. One that the engine does not know is
// refused like one that nobody has tried.
func SupportFor(arch string) Support {
	s := Support{Architecture: arch}
	if why := stage.Reason(arch); why != "" {
		s.Pipeline.Why = why
	} else {
		s.Pipeline = Answer{Yes: true, Why: strings.Join(stage.Notes(arch), "; ")}
	}
	s.Tensor = tensorAnswer(arch)
	return s
}

// tensorAnswer says whether ranks can share an architecture's layers. Ranks
// are fed with hidden states like stages are, so what bars stages bars them.
func tensorAnswer(arch string) Answer {
	if !stage.Single(arch) {
		return Answer{Why: stage.Reason(arch)}
	}
	whole, err := rank.Reason(arch)
	if err != nil {
		return Answer{Why: strings.TrimSuffix(err.Error(), ": "+ErrRefused.Error())}
	}
	if whole != "" {
		whole = "attention stays whole: " + whole
	}
	return Answer{Yes: true, Why: whole}
}

// CutPoint is a place where a model can be cut into stages.
type CutPoint struct {
	Layer int // the first layer of the later stage
	// Padding is how many empty layers the two stages get together if the
	// model is cut in two here. Each takes the memory of its kind of layer;
	// those of a later stage also take its time.
	Padding int
}

// CutPoints lists where a model can be cut into stages, in order. An error
// wraps ErrRefused where it must not be cut at all. A stage between two points
// may still be refused, for its number of layers.
func CutPoints(m *gguf.Model) ([]CutPoint, error) {
	s, err := stage.Read(m)
	if err != nil {
		return nil, err
	}
	var points []CutPoint
	for _, layer := range s.CutPoints() {
		p := CutPoint{Layer: layer}
		for _, part := range [][2]int{{0, layer}, {layer, s.Layers}} {
			st, err := s.Stage(part[0], part[1])
			if err != nil {
				return nil, err
			}
			p.Padding += len(st.Layers) - st.Own
		}
		points = append(points, p)
	}
	return points, nil
}
