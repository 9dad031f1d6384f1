package shape

import (
	"cmp"
	"slices"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/ids"
)

// mesh is up to how many nodes the topology has a line between any two. In a
// larger cluster, where all of them would be millions, only those to and from
// the node that answers are listed.
const mesh = 64

// topology lists the live nodes, the one that answers first. Members of a
// cluster all reach each other.
func (s *State) topology() any {
	nodes := make([]string, len(s.live))
	connections := map[string]map[string][]Edge{}
	edge := func(from, to ids.Node) {
		if s.in.State.Nodes[to].Address == "" {
			return // it has just come, or talks to nobody
		}
		if connections[string(from)] == nil {
			connections[string(from)] = map[string][]Edge{}
		}
		connections[string(from)][string(to)] = []Edge{edgeTo(s.in.State.Nodes[to].Address)}
	}
	for i, from := range s.live {
		nodes[i] = string(from)
		for k, to := range s.live {
			if i != k && (len(s.live) <= mesh || i == 0 || k == 0) {
				edge(from, to)
			}
		}
	}
	return struct {
		Nodes       []string                     `json:"nodes"`
		Connections map[string]map[string][]Edge `json:"connections"`
	}{nodes, connections}
}

// each makes a section with an entry for each live node that has one.
func each[T any](s *State, of func(ids.Node, cluster.Vitals) (T, bool)) any {
	out := map[string]T{}
	for _, id := range s.live {
		if v, ok := of(id, s.in.Vitals[id]); ok {
			out[string(id)] = v
		}
	}
	return out
}

func (s *State) identities() any {
	type identity struct {
		ModelID string `json:"modelId"`
		ChipID  string `json:"chipId"`
		Name    string `json:"friendlyName"`
		OS      string `json:"osVersion"`
		Build   string `json:"osBuildVersion"`
	}
	name := view.Names(s.in)
	return each(s, func(id ids.Node, v cluster.Vitals) (identity, bool) {
		return identity{
			ModelID: "Unknown Model", ChipID: cmp.Or(v.Chip, "Unknown Chip"), Name: name(id),
			OS: cmp.Or(v.OS, "Unknown"), Build: "Unknown",
		}, true
	})
}

// memory tells nothing of swap space, which is not measured: 0.
func (s *State) memory() any {
	type memory struct {
		Total         Memory `json:"ramTotal"`
		Available     Memory `json:"ramAvailable"`
		SwapTotal     Memory `json:"swapTotal"`
		SwapAvailable Memory `json:"swapAvailable"`
	}
	return each(s, func(_ ids.Node, v cluster.Vitals) (memory, bool) {
		d, ok := v.Device("")
		total := max(d.Total, 0)
		return memory{Total: Memory{total}, Available: Memory{min(max(d.Available, 0), total)}}, ok && total > 0
	})
}

func (s *State) disk() any {
	type disk struct {
		Total     Memory `json:"total"`
		Available Memory `json:"available"`
	}
	return each(s, func(_ ids.Node, v cluster.Vitals) (disk, bool) {
		if v.Disk == nil {
			return disk{}, false
		}
		return disk{Memory{v.Disk.Total}, Memory{v.Disk.Free}}, true
	})
}

// system has the nodes that measure something of it; what they don't is 0. Uses
// are fractions, as exo has them.
func (s *State) system() any {
	type system struct {
		GPU         float64 `json:"gpuUsage"`
		Temperature float64 `json:"temp"`
		Power       float64 `json:"sysPower"`
		Fast        float64 `json:"pcpuUsage"`
		Efficient   float64 `json:"ecpuUsage"`
	}
	return each(s, func(_ ids.Node, v cluster.Vitals) (system, bool) {
		told := false
		value := func(x *float64, scale float64) float64 {
			if x == nil || !(*x >= -300) || *x > 1e9 { // also what is no number
				return 0
			}
			told = true
			return *x * scale
		}
		out := system{GPU: value(v.GPU, 0.01), Temperature: value(v.Temperature, 1), Power: value(v.Power, 1), Fast: value(v.FastCores, 0.01), Efficient: value(v.EfficientCores, 0.01)}
		return out, told
	})
}

// network knows addresses, and not the names of the interfaces that have them.
func (s *State) network() any {
	type networkInterface struct {
		Name    string `json:"name"`
		Address string `json:"ipAddress"`
		Type    string `json:"interfaceType"`
	}
	type network struct {
		Interfaces []networkInterface `json:"interfaces"`
	}
	return each(s, func(_ ids.Node, v cluster.Vitals) (network, bool) {
		kind := "unknown"
		if len(v.Connections) == 1 && slices.Contains([]string{"ethernet", "wifi", "thunderbolt"}, v.Connections[0]) {
			kind = v.Connections[0]
		}
		out := network{Interfaces: []networkInterface{}}
		for _, a := range v.Addresses {
			out.Interfaces = append(out.Interfaces, networkInterface{Address: a, Type: kind})
		}
		return out, true
	})
}

func (s *State) backends() any {
	return each(s, func(id ids.Node, _ cluster.Vitals) ([]string, bool) {
		return []string{Backend}, s.in.State.Nodes[id].Worker
	})
}
