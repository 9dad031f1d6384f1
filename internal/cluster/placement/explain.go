package placement

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cluster/placement/apportion"
	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

// alternatives lists what else was considered, in a fixed order.
func (f findings) alternatives(t *table) []Alternative {
	m := t.request.Model
	out := []Alternative{}
	add := func(way Way, c *candidate, why string) {
		switch {
		case c != nil && c == f.best:
		case c != nil:
			out = append(out, Alternative{Way: way, Nodes: c.nodes(), Predicted: c.predicted})
		case why != "":
			out = append(out, Alternative{Way: way, Why: why})
		}
	}
	p := cost.Piece{First: 0, End: len(m.Layers), Units: 1, All: 1, Whole: true}
	need := cost.Headroom(t.sums.Memory(p).Total)
	why := fmt.Sprintf("no node has %s free", bytesize.Format(need))
	if t.request.MinNodes > 1 || len(t.request.Require) > 1 {
		why = "more than one node is asked for"
	}
	add(WayWhole, f.whole, why)
	if len(t.nodes) > 1 {
		why = m.NoPipeline
		if why == "" {
			why = "no split fits the nodes"
		}
		add(WayPipeline, f.pipeline, why)
		switch {
		case m.NoTensor != "":
			why = m.NoTensor
		case m.Units < 2:
			why = "it has one KV head only"
		default:
			why = "no number of ranks fits the nodes"
		}
		add(WayTensor, f.tensor, why)
		add(WayMixed, f.mixed, "")
	}
	if len(f.holders) > 1 {
		a, b := f.holders[0], f.holders[1]
		one, other := t.alone(a), t.alone(b)
		one.Aggregate += other.Aggregate
		one.Prefill += other.Prefill
		out = append(out, Alternative{Way: WayReplicas, Nodes: []string{a.node, b.node}, Predicted: one})
	}
	return out
}

// alone predicts the whole model on one seat.
func (t *table) alone(s *seat) Prediction {
	g := single(s)
	g.first, g.end, g.whole = 0, len(t.request.Model.Layers), true
	return t.predict([]*stage{g})
}

// explain says in words why the plan is as it is.
func (t *table) explain(f findings) string {
	best := f.best
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	name, p := t.request.Model.Name, best.predicted
	switch best.way {
	case WayWhole:
		say("%s fits %s whole, and one stream is fastest there: %s tokens/s.", name, best.nodes()[0], rate(p.Decode))
	case WayPipeline:
		say("%s goes over %d nodes as a pipeline of %s layers: %s tokens/s for one stream%s.",
			name, len(best.stages), layerCounts(best.stages), rate(p.Decode), t.together(p))
	case WayTensor:
		say("%s goes over %d nodes as tensor ranks, each layer shared %s: %s tokens/s for one stream%s.",
			name, best.shards(), unitCounts(best.stages[0]), rate(p.Decode), t.together(p))
	default:
		say("%s goes over %d nodes as %d stages of %d ranks: %s tokens/s for one stream%s.",
			name, best.shards(), len(best.stages), len(best.stages[0].seats), rate(p.Decode), t.together(p))
	}
	if s := t.request.Sharding; s != Auto && best.way == WayWhole {
		why := t.request.Model.NoTensor
		if s == Pipeline {
			why = t.request.Model.NoPipeline
		}
		if why == "" {
			why = "no split fits the nodes there are"
		}
		say(" It is not split as %s: %s.", s, why)
	}
	for _, a := range f.alternatives(t) {
		switch {
		case a.Why != "":
			say(" As %s: no, %s.", article(a.Way), strings.TrimSuffix(a.Why, "."))
		case a.Way == WayReplicas:
			say(" Two replicas, on %s and %s, would give %s with all slots of both busy.", a.Nodes[0], a.Nodes[1], rate(a.Predicted.Aggregate))
		default:
			say(" As %s on %d: %s for one stream%s.", article(a.Way), len(a.Nodes), rate(a.Predicted.Decode), t.together(a.Predicted))
		}
	}
	if len(t.out) > 0 {
		say(" Not used: %s.", t.passedOver())
	}
	return b.String()
}

// together tells of all slots, if there are several.
func (t *table) together(p Prediction) string {
	if t.request.Slots < 2 {
		return ""
	}
	return fmt.Sprintf(", %s with %d at once", rate(p.Aggregate), t.request.Slots)
}

func article(w Way) string {
	switch w {
	case WayWhole:
		return "a whole"
	case WayPipeline:
		return "a pipeline"
	case WayTensor:
		return "tensor ranks"
	}
	return "stages of ranks"
}

// rate prints tokens/s with three digits or fewer.
func rate(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func layerCounts(stages []*stage) string {
	var parts []string
	for _, g := range stages {
		parts = append(parts, fmt.Sprint(g.end-g.first))
	}
	const most = 8
	if len(parts) > most {
		parts = append(parts[:most], "...")
	}
	return strings.Join(parts, "+")
}

func unitCounts(g *stage) string {
	var parts []string
	for _, u := range apportion.Reduced(g.units) {
		parts = append(parts, fmt.Sprint(u))
	}
	return strings.Join(parts, ":")
}
