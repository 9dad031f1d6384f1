package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

// InvalidError is a request or an input that makes no sense.
type InvalidError struct{ Message string }

func (e *InvalidError) Error() string { return e.Message }

// NodeError is a required node that can't be used.
type NodeError struct{ Node, Why string }

func (e *NodeError) Error() string {
	return fmt.Sprintf("node %s is required, but %s", e.Node, e.Why)
}

// NotEnoughNodesError says that more nodes are wanted than may be used, or
// than the model can be spread over.
type NotEnoughNodesError struct {
	Want, Have int
	Passed     string // why others are not used; "" if there are none
}

func (e *NotEnoughNodesError) Error() string {
	s := fmt.Sprintf("%d nodes are wanted and %d can take a shard; ask for fewer with min_nodes, or add nodes", e.Want, e.Have)
	if e.Passed != "" {
		s += " (not used: " + e.Passed + ")"
	}
	return s
}

// RefusedError is a model that must not be cut the way that is needed.
type RefusedError struct {
	Model string
	Way   Way
	Why   string
	// NoMemory is why it can't be placed whole either.
	NoMemory *NoMemoryError
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("%s cannot be split as %s: %s", e.Model, e.Way, e.Why)
	if e.NoMemory != nil {
		s += "; and no single node has room for it. " + e.NoMemory.Error()
	}
	return s
}

func (e *RefusedError) Unwrap() error {
	if e.NoMemory == nil {
		return nil
	}
	return e.NoMemory
}

// NoMemoryError says what is needed and free, bytes, and what could be unloaded.
type NoMemoryError struct {
	Model        string
	Needed, Free int64
	// Largest is the most that one memory has free.
	Largest int64
	Loaded  []Loaded // one entry a model, over all nodes; largest first
	// Unload is a loaded model whose memory would be enough; "": none alone.
	Unload string
	// Busy: it would fit if everything loaded were unloaded.
	Busy    bool
	Context int
}

func (e *NoMemoryError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Need %s, have %s", bytesize.Format(e.Needed), bytesize.Format(e.Free))
	if e.Free >= e.Needed {
		fmt.Fprintf(&b, " in pieces that no split fits (the largest is %s)", bytesize.Format(e.Largest))
	}
	b.WriteString(".")
	if len(e.Loaded) > 0 {
		var parts []string
		for _, l := range e.Loaded {
			parts = append(parts, fmt.Sprintf("%s (%s)", l.Model, bytesize.Format(l.Memory)))
		}
		const most = 6
		if len(parts) > most {
			parts = append(parts[:most], fmt.Sprintf("%d more", len(parts)-most))
		}
		fmt.Fprintf(&b, " Loaded: %s.", strings.Join(parts, ", "))
	}
	switch {
	case e.Unload != "":
		fmt.Fprintf(&b, " Unload %s to free memory.", e.Unload)
	case e.Busy:
		b.WriteString(" Unload models to free memory.")
	default:
		fmt.Fprintf(&b, " %s does not fit these nodes with a context of %d tokens a slot; add a node, use fewer slots or a smaller context, or choose a smaller quantization.", e.Model, e.Context)
	}
	return b.String()
}

// passedOver lists the nodes that are not considered, and why, shortly.
func (t *table) passedOver() string {
	const most = 4
	var parts []string
	for i, p := range t.out {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(t.out)-most))
			break
		}
		parts = append(parts, p.node+": "+p.why)
	}
	return strings.Join(parts, "; ")
}

// refuse says why nothing was found.
func (t *table) refuse(f findings) error {
	r, m := t.request, t.request.Model
	spread := max(r.MinNodes, len(r.Require)) // shards there must be
	way, why := WayPipeline, m.NoPipeline
	most := len(m.Layers)
	if r.Sharding == Tensor {
		way, why, most = WayTensor, m.NoTensor, min(m.Units, maxRanks)
	}
	switch {
	case spread > 1 && why != "" && (r.Sharding != Auto || m.NoTensor != ""):
		return &RefusedError{Model: m.Name, Way: way, Why: why}
	case spread > 1 && r.Sharding != Auto && spread > most:
		return &NotEnoughNodesError{Want: spread, Have: most, Passed: fmt.Sprintf("%s can be split into %d parts this way", m.Name, most)}
	case spread > 1 && spread > max(len(m.Layers), m.Units):
		return &NotEnoughNodesError{Want: spread, Have: len(m.Layers), Passed: fmt.Sprintf("%s has %d layers", m.Name, len(m.Layers))}
	}
	e := t.noMemory()
	if why != "" {
		return &RefusedError{Model: m.Name, Way: way, Why: why, NoMemory: e}
	}
	return e
}

// noMemory works out what is missing and which loaded model to unload.
func (t *table) noMemory() *NoMemoryError {
	p := cost.Piece{First: 0, End: len(t.request.Model.Layers), Units: 1, All: 1, Whole: true}
	e := &NoMemoryError{Model: t.request.Model.Name, Needed: cost.Headroom(t.sums.Memory(p).Total), Context: t.request.Context}
	mine := map[memory]bool{}
	for _, n := range t.nodes {
		for _, d := range n.Devices {
			key := memory{n.Host, d.ID}
			if d.Speed.Usable() && !mine[key] {
				mine[key] = true
				e.Free += t.free[key]
				e.Largest = max(e.Largest, t.free[key])
			}
		}
	}
	hosts := map[string]string{}
	for _, n := range t.cluster.Nodes {
		hosts[n.ID] = n.host()
	}
	by := map[string][]Loaded{} // of memories that could be used
	for _, l := range t.cluster.Loaded {
		if mine[memory{hosts[l.Node], l.Device}] {
			by[l.Model] = append(by[l.Model], l)
		}
	}
	for name, parts := range by {
		sum := Loaded{Model: name}
		for _, l := range parts {
			sum.Memory += l.Memory
		}
		e.Loaded = append(e.Loaded, sum)
	}
	slices.SortFunc(e.Loaded, func(a, b Loaded) int {
		return cmp.Or(cmp.Compare(b.Memory, a.Memory), cmp.Compare(a.Model, b.Model))
	})
	// Would it fit without this model? The smallest that is enough is named.
	fitsWithout := func(models ...Loaded) bool {
		before := t.free
		t.free = map[memory]int64{}
		for key, v := range before {
			t.free[key] = v
		}
		for _, m := range models {
			for _, l := range by[m.Model] {
				t.free[memory{hosts[l.Node], l.Device}] += l.Memory
			}
		}
		found := t.search()
		t.free = before
		return found.best != nil
	}
	if len(e.Loaded) == 0 || !fitsWithout(e.Loaded...) {
		return e
	}
	e.Busy = true
	const most = 6 // searches
	for i := len(e.Loaded) - 1; i >= max(0, len(e.Loaded)-most); i-- {
		if fitsWithout(e.Loaded[i]) {
			e.Unload = e.Loaded[i].Model
			return e
		}
	}
	if len(e.Loaded) > most && fitsWithout(e.Loaded[0]) {
		e.Unload = e.Loaded[0].Model
	}
	return e
}
