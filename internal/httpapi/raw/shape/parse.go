package shape

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// Error is about a field that a client sent.
type Error struct {
	Field   string // "instance.shardAssignments"
	Message string
}

func (e *Error) Error() string { return e.Message }

func wrong(field, format string, args ...any) *Error {
	return &Error{field, field + ": " + fmt.Sprintf(format, args...)}
}

// Object is a JSON object whose fields have camelCase or snake_case names, as
// exo takes both.
type Object map[string]json.RawMessage

// ParseObject reads an object; field is its name in messages.
func ParseObject(field string, b []byte) (Object, error) {
	var o Object
	if err := json.Unmarshal(b, &o); err != nil || o == nil {
		return nil, wrong(field, "it must be an object")
	}
	return o, nil
}

// Raw gives a field by its name in either style; nil: it is not there, or null.
// Messages have the name that is given, so it is that of the route's contract.
func (o Object) Raw(name string) json.RawMessage {
	for _, n := range []string{name, Snake(name), camel(name)} {
		if b, ok := o[n]; ok && string(b) != "null" {
			return b
		}
	}
	return nil
}

// Snake is a camelCase name in snake_case.
func Snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// camel is a snake_case name in camelCase.
func camel(name string) string {
	var b strings.Builder
	up := false
	for _, r := range name {
		if r == '_' {
			up = true
			continue
		}
		if up {
			r = unicode.ToUpper(r)
		}
		b.WriteRune(r)
		up = false
	}
	return b.String()
}

// Into decodes a field; where it is missing, into stays as it is. kind says
// what it must be.
func (o Object) Into(within, name, kind string, into any) (given bool, err error) {
	b := o.Raw(name)
	if b == nil {
		return false, nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return false, wrong(join(within, name), "it must be %s", kind)
	}
	return true, nil
}

// Need is Into for a field that must be there.
func (o Object) Need(within, name, kind string, into any) error {
	given, err := o.Into(within, name, kind, into)
	if err == nil && !given {
		err = wrong(join(within, name), "it is missing")
	}
	return err
}

func join(within, name string) string {
	if within == "" {
		return name
	}
	return within + "." + name
}

// tagged takes a union apart.
func tagged(field string, b json.RawMessage, tags ...string) (tag string, o Object, err error) {
	union, err := ParseObject(field, b)
	if err != nil {
		return "", nil, err
	}
	if len(union) == 1 {
		for _, t := range tags {
			if inner, ok := union[t]; ok {
				o, err = ParseObject(field+"."+t, inner)
				return t, o, err
			}
		}
	}
	return "", nil, wrong(field, "it must be an object with one of the keys %s alone, not %s", strings.Join(tags, ", "), strings.Join(slices.Sorted(maps.Keys(union)), ", "))
}

// maxID bounds ids that clients choose.
const maxID = 128

// ValidID tells whether a client may name an instance so: it stands in paths.
func ValidID(id string) bool {
	return id != "" && len(id) <= maxID && strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}) < 0
}

// JacclError is the answer to who wants RDMA between Macs.
const JacclError = "MlxJaccl is RDMA between Macs by MLX, which this cluster does not have; use MlxRing"

// ParseInstance reads an instance as a client sends it, mostly a preview's. Its
// shards have their node, device and spec; whether a model has such layers and
// the nodes room is for placement to say. Errors are *Error.
func ParseInstance(field string, b json.RawMessage) (cluster.Instance, error) {
	var out cluster.Instance
	tag, o, err := tagged(field, b, RingInstance, JacclInstance)
	if err != nil {
		return out, err
	}
	if tag == JacclInstance {
		return out, &Error{field, JacclError}
	}
	field = join(field, tag)
	var assignments, runners json.RawMessage
	var nodes map[string]string
	if err := o.Need(field, "instanceId", "a string", &out.ID); err != nil {
		return out, err
	}
	if !ValidID(out.ID) {
		return out, wrong(field+".instanceId", "it must have 1 to %d letters, digits, dots, dashes or underscores", maxID)
	}
	if err := o.Need(field, "shardAssignments", "an object", &assignments); err != nil {
		return out, err
	}
	field += ".shardAssignments"
	a, err := ParseObject(field, assignments)
	if err != nil {
		return out, err
	}
	if err := a.Need(field, "modelId", "a string", &out.Model); err != nil {
		return out, err
	}
	if err := a.Need(field, "nodeToRunner", "an object of strings", &nodes); err != nil {
		return out, err
	}
	if err := a.Need(field, "runnerToShard", "an object", &runners); err != nil {
		return out, err
	}
	shards, err := ParseObject(field+".runnerToShard", runners)
	if err != nil {
		return out, err
	}
	return out, parseShards(field, &out, nodes, shards)
}

// maxShards bounds an instance.
const maxShards = 4096

// parsed is a shard and its place among all.
type parsed struct {
	Part
	node ids.Node
}

func parseShards(field string, out *cluster.Instance, nodes map[string]string, shards Object) error {
	if len(shards) == 0 || len(shards) != len(nodes) || len(shards) > maxShards {
		return wrong(field, "%d runners on %d nodes: each node holds one, and there is one at least", len(shards), len(nodes))
	}
	var all []parsed
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		raw, ok := shards[nodes[node]]
		if !ok {
			return wrong(field+".nodeToRunner."+node, "there is no runner %q in runnerToShard", nodes[node])
		}
		p, err := ParseShard(field+".runnerToShard."+nodes[node], raw)
		if err != nil {
			return err
		}
		if p.Model != "" && p.Model != out.Model {
			return wrong(field, "a shard is of %s and the instance of %s", p.Model, out.Model)
		}
		all = append(all, parsed{p, ids.Node(node)})
	}
	slices.SortStableFunc(all, func(a, b parsed) int { return cmp.Compare(a.Rank, b.Rank) })
	rank := 0
	for k, p := range all {
		if p.Rank != k || p.World != len(all) {
			return wrong(field, "ranks must be 0 to %d of %d, each once", len(all)-1, len(all))
		}
		if k > 0 && (p.First != all[k-1].First || p.End != all[k-1].End) {
			rank = 0
		}
		spec := slice.Spec{First: p.First, End: p.End}
		if p.Tensor && len(all) > 1 {
			spec.Rank, spec.Parts = rank, p.Parts
			if spec.Parts == nil {
				spec.Parts = make([]int, stage(all, k))
				for i := range spec.Parts {
					spec.Parts[i] = 1
				}
			}
			if len(spec.Parts) != stage(all, k) {
				return wrong(field, "tensorParts has %d entries for %d ranks", len(spec.Parts), stage(all, k))
			}
			if len(spec.Parts) == 1 {
				spec.Parts = nil
			}
		}
		rank++
		out.Shards = append(out.Shards, cluster.Shard{Node: p.node, Device: p.Device, Spec: spec})
	}
	return nil
}

// stage is how many shards have the same layers as shard k.
func stage(all []parsed, k int) int {
	n := 0
	for _, p := range all {
		if p.First == all[k].First && p.End == all[k].End {
			n++
		}
	}
	return n
}

// Part is a shard as a client sends it.
type Part struct {
	Model       string // "": not said
	Tensor      bool
	Rank, World int
	First, End  int
	Parts       []int
	Device      string
}

// ParseShard reads a shard. Errors are *Error.
func ParseShard(field string, b json.RawMessage) (Part, error) {
	var p Part
	tag, o, err := tagged(field, b, PipelineShard, TensorShard)
	if err != nil {
		return p, err
	}
	p.Tensor = tag == TensorShard
	field = join(field, tag)
	var layers int
	for _, f := range []struct {
		name string
		into *int
	}{{"deviceRank", &p.Rank}, {"worldSize", &p.World}, {"startLayer", &p.First}, {"endLayer", &p.End}, {"nLayers", &layers}} {
		if err := o.Need(field, f.name, "a whole number", f.into); err != nil {
			return p, err
		}
	}
	const most = 1 << 20
	if p.First < 0 || p.End <= p.First || p.End > layers || layers > most {
		return p, wrong(field, "layers [%d, %d) of %d are none", p.First, p.End, layers)
	}
	if p.Rank < 0 || p.Rank >= p.World || p.World > maxShards {
		return p, wrong(field, "rank %d of %d is none", p.Rank, p.World)
	}
	if _, err := o.Into(field, "tensorParts", "a list of whole numbers", &p.Parts); err != nil {
		return p, err
	}
	if _, err := o.Into(field, "device", "a string", &p.Device); err != nil {
		return p, err
	}
	var card json.RawMessage
	if given, err := o.Into(field, "modelCard", "an object", &card); err != nil || !given {
		return p, err
	}
	c, err := ParseObject(field+".modelCard", card)
	if err != nil {
		return p, err
	}
	return p, c.Need(field+".modelCard", "modelId", "a string", &p.Model)
}
