package shape

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// Instance is a model placed on nodes; its tag is RingInstance.
type Instance struct {
	InstanceID       string            `json:"instanceId"`
	ShardAssignments Assignments       `json:"shardAssignments"`
	HostsByNode      map[string][]Host `json:"hostsByNode"`
	EphemeralPort    int               `json:"ephemeralPort"`
}

// Assignments say who holds what.
type Assignments struct {
	ModelID       string            `json:"modelId"`
	RunnerToShard map[string]Tag    `json:"runnerToShard"`
	NodeToRunner  map[string]string `json:"nodeToRunner"`
}

// Host is where a node is reached by the others of its instance.
type Host struct {
	IP   string `json:"ip"`
	Port int    `json:"port"`
}

// Shard is a part of a model.
type Shard struct {
	ModelCard          json.RawMessage `json:"modelCard"` // encoded once for all shards
	DeviceRank         int             `json:"deviceRank"`
	WorldSize          int             `json:"worldSize"`
	ImmediateException bool            `json:"immediateException"`
	ShouldTimeout      *float64        `json:"shouldTimeout"`
	StartLayer         int             `json:"startLayer"`
	EndLayer           int             `json:"endLayer"`
	Layers             int             `json:"nLayers"`
	// TensorParts are the relative sizes of the ranks where they differ. exo
	// has no such field, nor such ranks.
	TensorParts []int `json:"tensorParts,omitempty"`
	// Device is the accelerator's, where the shard is not in the host's own
	// memory. exo has no such field.
	Device string `json:"device,omitempty"`
}

// RunnerID names what holds a shard. It is made of the instance's id, so that
// a preview names the runners that its instance will have.
func RunnerID(instance string, shard int) string { return instance + "-" + strconv.Itoa(shard) }

// InstanceOf shows an instance of the cluster.
func InstanceOf(s cluster.State, i cluster.Instance) Tag {
	return newCards(s).instance(i)
}

// cards are those of a state's models, encoded once.
type cards struct {
	state cluster.State
	known map[string]json.RawMessage
}

func newCards(s cluster.State) *cards { return &cards{s, map[string]json.RawMessage{}} }

func (c *cards) of(model string) json.RawMessage {
	if b, ok := c.known[model]; ok {
		return b
	}
	m := c.state.Models[model]
	m.Name = model
	b, err := json.Marshal(CardOf(m))
	if err != nil {
		b = json.RawMessage("null") // strings and numbers: they can be written
	}
	c.known[model] = b
	return b
}

// whole is the shard that is all of a model.
func (c *cards) whole(model string) Tag {
	n := len(c.state.Models[model].Profile.Layers)
	return Tag{PipelineShard: Shard{ModelCard: c.of(model), WorldSize: 1, EndLayer: n, Layers: n}}
}

func (c *cards) shard(i cluster.Instance, k int) Tag {
	spec := i.Shards[k].Spec
	out := Shard{
		ModelCard: c.of(i.Model), DeviceRank: k, WorldSize: len(i.Shards), StartLayer: spec.First, EndLayer: spec.End,
		Layers: max(len(c.state.Models[i.Model].Profile.Layers), i.Shards[len(i.Shards)-1].Spec.End), Device: i.Shards[k].Device,
	}
	if spec.Ranks() == 1 {
		return Tag{PipelineShard: out}
	}
	if slices.Max(spec.Parts) != slices.Min(spec.Parts) {
		out.TensorParts = spec.Parts
	}
	return Tag{TensorShard: out}
}

func (c *cards) instance(i cluster.Instance) Tag {
	out := Instance{
		InstanceID:       i.ID,
		ShardAssignments: Assignments{ModelID: i.Model, RunnerToShard: map[string]Tag{}, NodeToRunner: map[string]string{}},
		HostsByNode:      map[string][]Host{},
	}
	at := make([]Host, len(i.Shards))
	for k, s := range i.Shards {
		id := RunnerID(i.ID, k)
		out.ShardAssignments.RunnerToShard[id] = c.shard(i, k)
		out.ShardAssignments.NodeToRunner[string(s.Node)] = id
		at[k] = hostOf(s.Link)
		if at[k].IP == "" {
			at[k].IP = hostOf(c.state.Nodes[s.Node].Address).IP
		}
		if k == i.Head {
			out.EphemeralPort = at[k].Port
		}
	}
	for k, s := range i.Shards {
		hosts := slices.Clone(at)
		hosts[k].IP = "0.0.0.0"
		out.HostsByNode[string(s.Node)] = hosts
	}
	return Tag{RingInstance: out}
}

// hostOf reads host:port; an empty one, or one without a port, has port 0.
func hostOf(address string) Host {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return Host{IP: address}
	}
	port, err := strconv.Atoi(address[i+1:])
	if err != nil {
		port = 0
	}
	return Host{IP: strings.Trim(address[:i], "[]"), Port: port}
}

// Edge is a line to a node in the topology.
type Edge struct {
	Sink Multiaddr `json:"sinkMultiaddr"`
}

// Multiaddr is an address as exo writes it, in snake_case.
type Multiaddr struct {
	Address string `json:"address"`
	Type    string `json:"address_type"`
	IP      string `json:"ip_address"`
	Port    int    `json:"port"`
}

func edgeTo(address string) Edge {
	h := hostOf(address)
	kind := "dns"
	if a, err := netip.ParseAddr(h.IP); err == nil {
		kind = "ip4"
		if a.Is6() && !a.Is4In6() {
			kind = "ip6"
		}
	}
	return Edge{Multiaddr{fmt.Sprintf("/%s/%s/tcp/%d", kind, h.IP, h.Port), kind, h.IP, h.Port}}
}

// Planned makes an instance of a plan, for a preview.
func Planned(id, model string, p placement.Plan) cluster.Instance {
	i := cluster.Instance{ID: id, Model: model, Way: p.Way, Head: p.Head}
	for _, s := range p.Shards {
		i.Shards = append(i.Shards, cluster.Shard{Node: ids.Node(s.Node), Device: s.Device, Spec: s.Spec, Reserve: s.Reserve})
	}
	return i
}

// SeatsOf gives an instance's shards as placement wants them.
func SeatsOf(i cluster.Instance) []placement.Seat {
	var out []placement.Seat
	for _, s := range i.Shards {
		out = append(out, placement.Seat{Node: string(s.Node), Device: s.Device, Spec: slice.Spec{First: s.Spec.First, End: s.Spec.End, Rank: s.Spec.Rank, Parts: s.Spec.Parts}})
	}
	return out
}
