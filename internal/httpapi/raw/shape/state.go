package shape

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/ids"
)

// State is the cluster in exo's shape, each section made when it is asked for.
type State struct {
	in    view.Inputs
	cards *cards
	live  []ids.Node // sorted
	heads map[string]cluster.InstanceVitals
	parts map[part]cluster.ShardVitals
}

// part names a shard.
type part struct {
	instance string
	shard    int
}

// StateOf shows what a node knows. self is the node that answers.
func StateOf(in view.Inputs, self ids.Node) *State {
	s := &State{in: in, cards: newCards(in.State), heads: map[string]cluster.InstanceVitals{}, parts: map[part]cluster.ShardVitals{}}
	for id, live := range in.Live {
		if live {
			s.live = append(s.live, id)
		}
	}
	slices.Sort(s.live)
	// The node that answers is the first, as clients that want any take it.
	if i := slices.Index(s.live, self); i > 0 {
		s.live = slices.Insert(slices.Delete(s.live, i, i+1), 0, self)
	}
	for _, id := range s.live {
		v := in.Vitals[id]
		for _, i := range v.Instances {
			s.heads[i.Instance] = i
		}
		for _, x := range v.Shards {
			if i, ok := in.State.Instances[x.Instance]; ok && x.Shard >= 0 && x.Shard < len(i.Shards) && i.Shards[x.Shard].Node == id {
				s.parts[part{x.Instance, x.Shard}] = x
			}
		}
	}
	return s
}

// sections are the state's fields, in exo's order.
var sections = []struct {
	name string
	make func(*State) any
}{
	{"instances", (*State).instances},
	{"runners", (*State).runners},
	{"downloads", (*State).downloads},
	{"tasks", (*State).tasks},
	{"lastSeen", (*State).lastSeen},
	{"topology", (*State).topology},
	{"lastEventAppliedIdx", func(s *State) any { return s.in.State.Index }},
	{"nodeIdentities", (*State).identities},
	{"nodeMemory", (*State).memory},
	{"nodeDisk", (*State).disk},
	{"nodeSystem", (*State).system},
	{"nodeNetwork", (*State).network},
	// What only Macs with MLX have.
	{"nodeThunderbolt", nothing},
	{"nodeThunderboltBridge", nothing},
	{"nodeRdmaCtl", nothing},
	{"nodeBackends", (*State).backends},
	{"thunderboltBridgeCycles", func(*State) any { return []string{} }},
	{"instanceLinks", nothing},
	{"prefillServerPorts", nothing},
	{"customModelCards", nothing},
}

func nothing(*State) any { return struct{}{} }

// MarshalJSON writes all of it.
func (s *State) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, x := range sections {
		lead := byte(',')
		if i == 0 {
			lead = '{'
		}
		b.WriteByte(lead)
		fmt.Fprintf(&b, "%q:", x.name)
		v, err := json.Marshal(x.make(s))
		if err != nil {
			return nil, fmt.Errorf("write the state's %s: %w", x.name, err)
		}
		b.Write(v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// At finds the value at a path of keys and of indices of lists; ok is false if
// there is none. Only the section that the path begins with is made.
func (s *State) At(path []string) (value any, ok bool, err error) {
	if len(path) == 0 {
		return s, true, nil
	}
	i := slices.IndexFunc(sections, func(x struct {
		name string
		make func(*State) any
	}) bool {
		return x.name == path[0]
	})
	if i < 0 {
		return nil, false, nil
	}
	value = sections[i].make(s)
	if len(path) == 1 {
		return value, true, nil
	}
	b, err := json.Marshal(value)
	if err != nil {
		return nil, false, fmt.Errorf("write the state's %s: %w", path[0], err)
	}
	return walk(b, path[1:])
}

// walk goes down a path in JSON.
func walk(b json.RawMessage, path []string) (any, bool, error) {
	for _, key := range path {
		switch b[0] {
		case '{':
			var o map[string]json.RawMessage
			if err := json.Unmarshal(b, &o); err != nil {
				return nil, false, err
			}
			next, ok := o[key]
			if !ok {
				return nil, false, nil
			}
			b = next
		case '[':
			var list []json.RawMessage
			if err := json.Unmarshal(b, &list); err != nil {
				return nil, false, err
			}
			var n int
			if err := json.Unmarshal([]byte(key), &n); err != nil || n < 0 || n >= len(list) {
				return nil, false, nil
			}
			b = list[n]
		default:
			return nil, false, nil
		}
	}
	return b, true, nil
}

// Instances are those that are not being stopped: for exo's clients, what was
// deleted is gone.
func Instances(s cluster.State) []cluster.Instance {
	var out []cluster.Instance
	for _, id := range slices.Sorted(maps.Keys(s.Instances)) {
		if i := s.Instances[id]; i.Releasing == "" {
			out = append(out, i)
		}
	}
	return out
}

func (s *State) instances() any {
	out := map[string]Tag{}
	for _, i := range Instances(s.in.State) {
		out[i.ID] = s.cards.instance(i)
	}
	return out
}

func (s *State) runners() any {
	out := map[string]Tag{}
	for _, i := range Instances(s.in.State) {
		running := s.heads[i.ID].Running > 0
		for k := range i.Shards {
			if tag := s.runner(i, k, running); tag != nil {
				out[RunnerID(i.ID, k)] = tag
			}
		}
	}
	return out
}

// runner says how a shard is in exo's words; nil: it is gone.
func (s *State) runner(i cluster.Instance, k int, running bool) Tag {
	x := i.Shards[k]
	none := struct{}{}
	switch x.Phase {
	case cluster.Loading:
		layers := x.Spec.End - x.Spec.First
		done := 0.0
		if now := s.parts[part{i.ID, k}]; now.Phase == cluster.Loading {
			done = min(max(now.Progress, 0), 1)
		}
		return Tag{"RunnerLoading": map[string]int{"layersLoaded": int(done * float64(layers)), "totalLayers": layers}}
	case cluster.Loaded:
		return Tag{"RunnerLoaded": none}
	case cluster.Connected:
		return Tag{"RunnerWarmingUp": none}
	case cluster.Ready:
		if running {
			return Tag{"RunnerRunning": none}
		}
		return Tag{"RunnerReady": map[string]any{"prefillServerPort": nil}}
	case cluster.Failed, cluster.Lost:
		return Tag{"RunnerFailed": map[string]any{"errorMessage": cmp.Or(x.Error, string(x.Phase)), "diagnostics": []string{}}}
	case cluster.Stopped:
		return nil
	}
	return Tag{"RunnerIdle": none}
}

// download is what the tags of a download have in common.
type download struct {
	NodeID         string `json:"nodeId"`
	ShardMetadata  Tag    `json:"shardMetadata"`
	ModelDirectory string `json:"modelDirectory"` // not known of other nodes: empty
}

// progress is how far a download is.
type progress struct {
	Total      Memory         `json:"total"`
	Downloaded Memory         `json:"downloaded"`
	ThisTime   Memory         `json:"downloadedThisSession"`
	Completed  int            `json:"completedFiles"`
	Files      int            `json:"totalFiles"`
	Speed      float64        `json:"speed"` // bytes/s
	ETA        int64          `json:"etaMs"`
	Each       map[string]any `json:"files"` // not told apart: empty
}

// downloads lists for each live node what it has and what it fetches. A model
// that it has nothing of is not listed.
func (s *State) downloads() any {
	models := slices.Sorted(maps.Keys(s.in.State.Models))
	out := map[string][]Tag{}
	held := map[ids.Node][]string{}
	for _, name := range models {
		for _, id := range s.in.State.Models[name].Holders {
			held[id] = append(held[id], name)
		}
	}
	for _, id := range s.live {
		list := []Tag{}
		has := map[string]bool{}
		for _, name := range held[id] {
			has[name] = true
			list = append(list, s.completed(id, name))
		}
		for _, d := range s.fetching(id) {
			if !has[d.Model] {
				has[d.Model] = true
				list = append(list, s.ongoing(id, d))
			}
		}
		for _, key := range slices.SortedFunc(maps.Keys(s.in.State.Downloads), func(a, b cluster.DownloadKey) int { return strings.Compare(a.Model, b.Model) }) {
			if d := s.in.State.Downloads[key]; key.Node == id && d.Error != "" && !has[key.Model] {
				list = append(list, Tag{"DownloadFailed": struct {
					download
					ErrorMessage string `json:"errorMessage"`
				}{s.download(id, key.Model), d.Error}})
			}
		}
		out[string(id)] = list
	}
	return out
}

func (s *State) download(id ids.Node, model string) download {
	return download{NodeID: string(id), ShardMetadata: s.cards.whole(model)}
}

func (s *State) completed(id ids.Node, model string) Tag {
	return Tag{"DownloadCompleted": struct {
		download
		Total Memory `json:"total"`
		// What somebody put there is not ours to delete.
		ReadOnly bool `json:"readOnly"`
	}{s.download(id, model), Memory{Size(s.in.State.Models[model])}, !slices.Contains(s.in.Vitals[id].Fetched, model)}}
}

// fetching sums up what a node fetches, whole models and shards of them.
func (s *State) fetching(id ids.Node) []cluster.DownloadVitals {
	sums := map[string]cluster.DownloadVitals{}
	v := s.in.Vitals[id]
	for _, x := range v.Shards {
		if now, ok := s.parts[part{x.Instance, x.Shard}]; ok && now.Phase == cluster.Fetching {
			d := sums[s.in.State.Instances[x.Instance].Model]
			d.Done, d.Total, d.Speed = d.Done+x.Done, d.Total+x.Total, d.Speed+x.Speed
			sums[s.in.State.Instances[x.Instance].Model] = d
		}
	}
	for _, d := range v.Downloads { // these count shards too
		sums[d.Model] = d
	}
	var out []cluster.DownloadVitals
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		d := sums[name]
		d.Model = name
		out = append(out, d)
	}
	return out
}

func (s *State) ongoing(id ids.Node, d cluster.DownloadVitals) Tag {
	total := max(d.Total, 0)
	if total == 0 {
		total = Size(s.in.State.Models[d.Model])
	}
	done := min(max(d.Done, 0), total)
	p := progress{Total: Memory{total}, Downloaded: Memory{done}, ThisTime: Memory{done}, Files: len(s.in.State.Models[d.Model].Files), Speed: max(d.Speed, 0), Each: map[string]any{}}
	if d.Speed >= 1 {
		p.ETA = int64(float64(total-done) / d.Speed * 1000)
	}
	return Tag{"DownloadOngoing": struct {
		download
		Progress progress `json:"downloadProgress"`
	}{s.download(id, d.Model), p}}
}

// tasks are the open requests. Their prompts are nobody else's business.
func (s *State) tasks() any {
	type params struct {
		Model string   `json:"model"`
		Input []string `json:"input"` // always empty
	}
	type generation struct {
		TaskID       string  `json:"taskId"`
		Status       string  `json:"taskStatus"`
		InstanceID   string  `json:"instanceId"`
		CommandID    string  `json:"commandId"`
		Params       params  `json:"taskParams"`
		ErrorType    *string `json:"errorType"`
		ErrorMessage *string `json:"errorMessage"`
	}
	out := map[string]Tag{}
	for _, id := range s.live {
		for _, t := range s.in.Vitals[id].Tasks {
			g := generation{TaskID: t.ID, Status: "Running", InstanceID: t.Instance, CommandID: t.ID, Params: params{t.Model, []string{}}}
			if t.Status == "waiting" {
				g.Status = "Pending"
			}
			out[t.ID] = Tag{"TextGeneration": g}
		}
	}
	return out
}

func (s *State) lastSeen() any {
	out := map[string]string{}
	for _, id := range s.live {
		at := s.in.Vitals[id].At
		if at.IsZero() {
			at = s.in.State.Nodes[id].Since
		}
		out[string(id)] = at.UTC().Format(time.RFC3339Nano)
	}
	return out
}
