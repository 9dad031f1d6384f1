package route

import (
	"testing"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/generation/prefix"
	"github.com/skein-run/skein/internal/ids"
)

func prompt(n int, base int32) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = base + int32(i)
	}
	return out
}

// two replicas, i1 on a and i2 on b; change alters them.
func state(change func(map[string]cluster.Instance)) cluster.State {
	instances := map[string]cluster.Instance{}
	for id, node := range map[string]ids.Node{"i1": "a", "i2": "b"} {
		instances[id] = cluster.Instance{ID: id, Model: "m", Slots: 4, Shards: []cluster.Shard{{Node: node, Phase: cluster.Ready, Incarnation: 1}}}
	}
	if change != nil {
		change(instances)
	}
	return cluster.State{Instances: instances, Nodes: map[ids.Node]cluster.Node{"a": {ID: "a", Online: true}, "b": {ID: "b", Online: true}}}
}

func vitals(node, instance string, running, waiting int, cached []int32) map[ids.Node]cluster.Vitals {
	v := cluster.InstanceVitals{Instance: instance, Running: running, Waiting: waiting, Chunk: 4, Prefixes: prefix.Chain(cached, 4)}
	return map[ids.Node]cluster.Vitals{ids.Node(node): {Instances: []cluster.InstanceVitals{v}}}
}

func edit(id string, f func(*cluster.Instance)) func(map[string]cluster.Instance) {
	return func(m map[string]cluster.Instance) {
		i := m[id]
		f(&i)
		m[id] = i
	}
}

func TestChoose(t *testing.T) {
	long := prompt(40, 100)
	for name, tc := range map[string]struct {
		state  cluster.State
		vitals map[ids.Node]cluster.Vitals
		open   map[string]int
		req    Request
		want   string
	}{
		"equal: by name":           {state(nil), nil, nil, Request{Model: "m"}, "i1"},
		"less busy here":           {state(nil), nil, map[string]int{"i1": 2}, Request{Model: "m"}, "i2"},
		"less busy there":          {state(nil), vitals("a", "i1", 3, 0, nil), nil, Request{Model: "m"}, "i2"},
		"cached beats busy":        {state(nil), vitals("b", "i2", 3, 0, long), nil, Request{Model: "m", Prompt: long}, "i2"},
		"a queue beats cached":     {state(nil), vitals("b", "i2", 4, 1, long), nil, Request{Model: "m", Prompt: long}, "i1"},
		"another prompt is cached": {state(nil), vitals("b", "i2", 1, 0, prompt(40, 7)), nil, Request{Model: "m", Prompt: long}, "i1"},
		"no such model":            {state(nil), nil, nil, Request{Model: "x"}, ""},
		"lost":                     {state(nil), nil, nil, Request{Model: "m", Lost: "i1@1"}, "i2"},
		"lost, and begun anew":     {state(edit("i1", func(i *cluster.Instance) { i.Shards[0].Incarnation = 2 })), nil, nil, Request{Model: "m", Lost: "i1@1"}, "i1"},
		"releasing":                {state(edit("i1", func(i *cluster.Instance) { i.Releasing = "unloaded" })), nil, nil, Request{Model: "m"}, "i2"},
		"not ready yet":            {state(edit("i1", func(i *cluster.Instance) { i.Shards[0].Phase = cluster.Loading })), nil, nil, Request{Model: "m"}, "i2"},
		"head is away": {func() cluster.State {
			s := state(nil)
			s.Nodes["a"] = cluster.Node{ID: "a"}
			return s
		}(), nil, nil, Request{Model: "m"}, "i2"},
	} {
		t.Run(name, func(t *testing.T) {
			c, ok := Choose(tc.state, tc.vitals, tc.open, tc.req)
			if ok != (tc.want != "") || c.Instance != tc.want {
				t.Errorf("%+v %v, want %s", c, ok, tc.want)
			}
		})
	}
}
