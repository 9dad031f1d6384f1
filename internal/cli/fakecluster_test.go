package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/ids"
)

const gb = int64(1) << 30

// fakeCluster is a cluster whose models go their way by themselves: once
// somebody follows, each look at it brings those that are loading a step
// further, until they are ready. One named "broken" fails, one named "endless"
// stops half way.
type fakeCluster struct {
	mu      sync.Mutex
	in      view.Inputs   // guarded by mu; maps in it are replaced, not changed
	steps   int           // guarded by mu; of what is loading
	watched bool          // guarded by mu; somebody follows since the last load
	changed chan struct{} // guarded by mu
}

// newFakeCluster makes one of a single node, or of three, with models loaded.
func newFakeCluster(three bool, loaded, known []string) *fakeCluster {
	f := &fakeCluster{changed: make(chan struct{})}
	at := time.Unix(1764000000, 0)
	percent := 8.0
	add := func(id ids.Node, name string, available int64) {
		f.in.State.Nodes = with(f.in.State.Nodes, id, cluster.Node{ID: id, Name: name, Worker: true, Candidate: true, API: true, Online: true, Version: "test", Since: at, Devices: []placement.Device{{Total: 64 * gb}}})
		f.in.Live = with(f.in.Live, id, true)
		f.in.Vitals = with(f.in.Vitals, id, cluster.Vitals{At: at, Chip: "Some Chip", OS: "some os 1", FastCores: &percent, Addresses: []string{"192.168.1.2"}, Connections: []string{"ethernet"}, Devices: []cluster.DeviceVitals{{Total: 64 * gb, Available: available}}})
	}
	f.in.Master, f.in.Uptime, f.in.Now = "n1", 3*time.Hour, at
	add("n1", "here", 40*gb)
	if three {
		add("n2", "studio", 60*gb)
		add("ab33", "attic", 64*gb)
		f.in.Live = with(f.in.Live, "ab33", false)
		f.in.Lost = map[ids.Node]time.Time{"ab33": at.Add(-3 * time.Minute)}
		f.in.Vitals = with(f.in.Vitals, "ab33", cluster.Vitals{At: at.Add(-4 * time.Minute), Devices: []cluster.DeviceVitals{{Total: 64 * gb}}})
	}
	for _, m := range append(known, loaded...) {
		f.know(m)
	}
	for k, m := range loaded {
		f.place(fmt.Sprintf("%d", k+1), m, cluster.Ready)
	}
	return f
}

func with[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	out := maps.Clone(m)
	if out == nil {
		out = map[K]V{}
	}
	out[k] = v
	return out
}

func (f *fakeCluster) know(model string) {
	f.in.State.Models = with(f.in.State.Models, model, cluster.Model{Name: model, Files: []cluster.File{{Name: "f", Size: gb}}, Holders: []ids.Node{"n1"}})
}

// place puts a model on a node, or in two stages on two.
func (f *fakeCluster) place(id, model string, phase cluster.Phase) cluster.Instance {
	i := cluster.Instance{ID: id, Wanted: "w" + id, Model: model, Way: placement.WayWhole, Context: 256, Slots: 4, Predicted: placement.Prediction{Decode: 38.2}}
	i.Shards = []cluster.Shard{{Node: "n1", Spec: slice.Spec{End: 12}, Reserve: gb / 10, Phase: phase, Incarnation: 1}}
	if _, two := f.in.State.Nodes["n2"]; two {
		i.Way, i.Head = placement.WayPipeline, 1
		i.Shards = append(i.Shards, cluster.Shard{Node: "n2", Spec: slice.Spec{First: 12, End: 24}, Reserve: gb / 10, Phase: phase, Incarnation: 1})
	}
	f.in.State.Instances = with(f.in.State.Instances, id, i)
	f.in.State.Wanted = with(f.in.State.Wanted, i.Wanted, cluster.Wanted{ID: i.Wanted, Model: model, Context: 256, Slots: 4})
	return i
}

// step brings what is loading a step further, with mu held.
func (f *fakeCluster) step() {
	moved := false
	for id, i := range f.in.State.Instances {
		s := i.Shards[0]
		if !f.watched || s.Phase != cluster.Fetching && s.Phase != cluster.Loading {
			continue
		}
		f.steps++
		progress := float64(f.steps%4) / 4
		next, failure := s.Phase, ""
		switch {
		case f.steps%4 != 0:
		case s.Phase == cluster.Fetching:
			next = cluster.Loading
		case i.Model == "endless":
			return
		case i.Model == "broken":
			next, failure = cluster.Failed, "its weights\x1b[31m are broken"
		default:
			next = cluster.Ready
		}
		moved = true
		var shards []cluster.Shard
		for k, x := range i.Shards {
			x.Phase, x.Error = next, failure
			shards = append(shards, x)
			v := f.in.Vitals[x.Node]
			v.Shards = []cluster.ShardVitals{{Instance: id, Shard: k, Phase: next, Progress: progress, Done: int64(progress * float64(4*gb)), Total: 4 * gb, Speed: 1 << 28}}
			f.in.Vitals = with(f.in.Vitals, x.Node, v)
		}
		i.Shards = shards
		f.in.State.Instances = with(f.in.State.Instances, id, i)
	}
	if moved {
		f.tell()
	}
}

// follower is the answer to one who follows.
type follower struct {
	http.ResponseWriter
	f *fakeCluster
}

// Write notes that the follower has the snapshot, and so sees all that follows.
func (w follower) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	if bytes.Contains(b, []byte("event: snapshot")) {
		w.f.mu.Lock()
		defer w.f.mu.Unlock()
		w.f.watched = true
		w.f.tell()
	}
	return n, err
}

func (w follower) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (f *fakeCluster) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeCluster) Snapshot(context.Context) (view.Inputs, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.in
	f.step()
	return out, nil
}

func (f *fakeCluster) Changes() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// plan is where the fake puts a model.
func plan(i cluster.Instance) placement.Plan {
	p := placement.Plan{Way: i.Way, Head: i.Head, Predicted: i.Predicted, Explanation: "it is the fastest way", Alternatives: []placement.Alternative{{Way: placement.WayTensor, Why: "odd heads"}}}
	for _, s := range i.Shards {
		p.Shards = append(p.Shards, placement.Shard{Node: string(s.Node), Spec: s.Spec, Reserve: s.Reserve})
	}
	return p
}

func (f *fakeCluster) Load(_ context.Context, _ string, l command.Load, dryRun bool) (manage.Loaded, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Contains(l.Model, "huge") {
		return manage.Loaded{}, &placement.NoMemoryError{Model: l.Model, Needed: 450 * gb, Free: 30 * gb, Loaded: []placement.Loaded{{Model: "m1", Memory: 20 * gb}}, Unload: "m1"}
	}
	for _, i := range f.in.State.Instances {
		if i.Model == l.Model && l.Replicas < 2 {
			return manage.Loaded{}, manage.Refused(command.AlreadyLoaded, l.Model+" is loaded already")
		}
	}
	if l.MinNodes > len(f.in.State.Nodes) {
		return manage.Loaded{}, &placement.NotEnoughNodesError{Want: l.MinNodes, Have: len(f.in.State.Nodes)}
	}
	before := f.in
	id := fmt.Sprintf("new%d", len(f.in.State.Instances))
	out := manage.Loaded{Plans: []placement.Plan{plan(f.place(id, l.Model, cluster.Fetching))}, Context: 256, Slots: 4, Copies: len(f.in.State.Nodes)}
	if dryRun {
		f.in = before
		return out, nil
	}
	out.Instances = []string{id}
	f.watched, f.steps = false, 0
	f.tell()
	return out, nil
}

func (f *fakeCluster) remove(model string) (out manage.Unloaded) {
	for id, i := range f.in.State.Instances {
		if i.Model == model {
			out.Instances, out.Freed = append(out.Instances, id), out.Freed+i.Shards[0].Reserve
			instances, wanted := maps.Clone(f.in.State.Instances), maps.Clone(f.in.State.Wanted)
			delete(instances, id)
			delete(wanted, i.Wanted)
			f.in.State.Instances, f.in.State.Wanted = instances, wanted
		}
	}
	return out
}

func (f *fakeCluster) Unload(_ context.Context, _, model string, _ time.Duration) (manage.Unloaded, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.tell()
	if err := f.loaded(model); err != nil {
		return manage.Unloaded{}, err
	}
	return f.remove(model), nil
}

// loaded refuses what is not, as the master says it. The caller holds mu.
func (f *fakeCluster) loaded(model string) error {
	var all []string
	for _, i := range f.in.State.Instances {
		if i.Model == model {
			return nil
		}
		all = append(all, i.Model)
	}
	return manage.Refused(command.NotLoaded, model+" is not loaded; loaded are: "+strings.Join(all, ", "))
}

func (f *fakeCluster) Swap(ctx context.Context, id string, s manage.Swap, dryRun bool) (manage.Swapped, error) {
	f.mu.Lock()
	err := f.loaded(s.Unload)
	f.mu.Unlock()
	if err != nil {
		return manage.Swapped{}, err
	}
	loaded, err := f.Load(ctx, id, s.Load, dryRun)
	if err != nil || dryRun {
		return manage.Swapped{Loaded: loaded}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.tell()
	return manage.Swapped{Loaded: loaded, Freed: f.remove(s.Unload).Freed}, nil
}

func (f *fakeCluster) Promote(_ context.Context, _ string, node ids.Node) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.in.Master = node
	f.tell()
	return nil
}

func (f *fakeCluster) Drain(_ context.Context, _ string, node ids.Node, resume bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.in.State.Nodes[node]
	n.Draining = !resume
	f.in.State.Nodes = with(f.in.State.Nodes, node, n)
	f.tell()
	return 2, nil
}

func (f *fakeCluster) AddKey(_ context.Context, _ string, k cluster.Key) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := cluster.Event{Index: f.in.State.Index + 1, By: "local", At: f.in.Now, Change: cluster.KeyAdded{Key: k}}
	if err := f.in.State.Admit(e); err != nil {
		return 0, manage.Refused(command.Conflict, err.Error())
	}
	f.in.State.Keys = with(f.in.State.Keys, k.Name, f.in.State.Apply(e).Keys[k.Name])
	return 1, nil
}

func (f *fakeCluster) RevokeKey(_ context.Context, _, name string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.in.State.Keys[name]; !ok {
		return 0, manage.Refused(command.UnknownKey, "there is no key "+name)
	}
	keys := maps.Clone(f.in.State.Keys)
	delete(keys, name)
	f.in.State.Keys = keys
	return 1, nil
}
