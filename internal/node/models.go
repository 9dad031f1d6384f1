package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/worker"
)

// alone shows this node to the management API as a cluster of one, and loads
// and unloads its models.
type alone struct{ node *Node }

func (a *alone) id() ids.Node { return ids.Node(a.node.id) }

func (a *alone) instanceID(name string) string { return a.node.id + "/" + name }

// Changes tells nothing: who follows sees changes when it looks.
func (a *alone) Changes() <-chan struct{} { return nil }

// Snapshot implements manage.Cluster.
func (a *alone) Snapshot(ctx context.Context) (view.Inputs, error) {
	n := a.node
	facts, err := hostinfo.Read(ctx)
	if err != nil {
		return view.Inputs{}, err
	}
	now := time.Now()
	memory := placement.Device{Total: int64(facts.MemoryTotal)}
	vitals := cluster.Vitals{
		At: now, Uptime: now.Sub(n.begun).Seconds(), Chip: facts.Chip, OS: facts.System,
		Devices:  []cluster.DeviceVitals{{Kind: "cpu", Total: memory.Total, Available: int64(facts.MemoryAvailable)}},
		Refusals: n.refusals.List(),
	}
	if space, err := hostinfo.Disk(ctx, n.opts.Home.Dir()); err == nil {
		vitals.Disk = &cluster.Space{Total: int64(space.Total), Free: int64(space.Free)}
	}
	s := cluster.State{
		At: now, Models: map[string]cluster.Model{}, Wanted: map[string]cluster.Wanted{}, Instances: map[string]cluster.Instance{},
		Nodes: map[ids.Node]cluster.Node{a.id(): {
			ID: a.id(), Name: n.name, Worker: true, Candidate: true, API: true, Version: n.opts.Version, Devices: []placement.Device{memory}, Online: true, Since: n.begun,
		}},
	}
	entries, err := n.library.List()
	if err != nil {
		n.log.Debug("some models cannot be listed", "err", err)
	}
	for _, e := range entries {
		s.Models[e.Name] = cluster.Model{Name: e.Name, Files: []cluster.File{{Name: e.Name, Size: e.SizeBytes}}, Holders: []ids.Node{a.id()}}
	}
	for _, m := range n.worker.Models() {
		if _, listed := s.Models[m.Name]; !listed { // it was taken off the list since
			s.Models[m.Name] = cluster.Model{Name: m.Name, Files: []cluster.File{{Name: m.Name, Size: int64(m.Info.Bytes)}}, Holders: []ids.Node{a.id()}}
		}
		i := a.instance(m)
		s.Wanted[i.Wanted] = cluster.Wanted{ID: i.Wanted, Model: m.Name, Context: m.Context, Slots: m.Slots}
		s.Instances[i.ID] = i
		vitals.Instances = append(vitals.Instances, cluster.InstanceVitals{Instance: i.ID, Running: m.Running, Waiting: m.Waiting})
		vitals.Shards = append(vitals.Shards, cluster.ShardVitals{Instance: i.ID, Phase: i.Shards[0].Phase, Progress: m.Progress})
	}
	return view.Inputs{
		Now: now, State: s, Vitals: map[ids.Node]cluster.Vitals{a.id(): vitals}, Live: map[ids.Node]bool{a.id(): true}, Master: a.id(), Uptime: now.Sub(n.begun),
	}, nil
}

// instance describes a model of the worker.
func (a *alone) instance(m worker.ModelState) cluster.Instance {
	shard := cluster.Shard{Node: a.id(), Spec: slice.Spec{End: 1}, Reserve: m.Memory, Incarnation: 1}
	i := cluster.Instance{ID: a.instanceID(m.Name), Wanted: m.Name, Model: m.Name, Way: placement.WayWhole, Context: m.Context, Slots: m.Slots, Placed: m.Since}
	if m.Info.Layers > 0 {
		shard.Spec.End = m.Info.Layers
	}
	switch m.Status {
	case worker.StatusLoading:
		shard.Phase = cluster.Loading
	case worker.StatusRestarting:
		shard.Phase = cluster.Starting
	case worker.StatusFailed:
		shard.Phase, shard.Error = cluster.Failed, m.Error
	case worker.StatusUnloading:
		shard.Phase, i.Releasing = cluster.Ready, "unloaded"
	default:
		shard.Phase = cluster.Ready
	}
	i.Shards = []cluster.Shard{shard}
	return i
}

// placeable refuses what takes more than one node.
func placeable(l command.Load) error {
	switch {
	case l.MinNodes > 1:
		return &placement.NotEnoughNodesError{Want: l.MinNodes, Have: 1}
	case l.Replicas > 1:
		return manage.Refused(command.Unplaceable, fmt.Sprintf("%d replicas are wanted and this node holds one of each model: it runs without a cluster (--local-shards, or inside 'skein run'); start it without, or leave replicas out", l.Replicas))
	case l.Sharding == placement.Tensor:
		return manage.Refused(command.NotEnoughNodes, "tensor sharding needs at least two nodes and there is 1; leave preferred_sharding out")
	}
	return nil
}

// loaded is what is told of a model that is loaded, or would be.
func (a *alone) loaded(s worker.ModelState) manage.Loaded {
	return manage.Loaded{
		Instances: []string{a.instanceID(s.Name)}, Context: s.Context, Slots: s.Slots, Warning: s.Warning, Copies: 1,
		Plans: []placement.Plan{{Way: placement.WayWhole, Stages: 1, Ranks: 1, Shards: []placement.Shard{{Node: a.node.id, Spec: slice.Spec{End: 1}, Reserve: s.Memory}}}},
	}
}

// Load begins to load a model.
func (a *alone) Load(ctx context.Context, _ string, l command.Load, dryRun bool) (manage.Loaded, error) {
	if err := placeable(l); err != nil {
		return manage.Loaded{}, err
	}
	load := a.node.worker.Load
	if dryRun {
		load = a.node.worker.Plan
	}
	s, started, err := load(ctx, l.Model, worker.Spec{Context: l.Context, Slots: l.Slots})
	if err != nil {
		return manage.Loaded{}, err
	}
	if !started {
		return manage.Loaded{}, manage.Refused(command.AlreadyLoaded, fmt.Sprintf("%s is %s already; unload it first to load it with other settings", s.Name, s.Status))
	}
	return a.loaded(s), nil
}

// Unload decides at once and frees the model in the background, when its open
// generations are done.
func (a *alone) Unload(_ context.Context, _, model string, drain time.Duration) (manage.Unloaded, error) {
	for _, s := range a.node.worker.Models() {
		if s.Name != model {
			continue
		}
		a.node.background.Go(func() {
			// Stop ends it: the worker closes every model then.
			if _, err := a.node.worker.Unload(context.Background(), model, drain); err != nil {
				a.node.log.Warn("model not unloaded", "model", model, "err", err)
			}
		})
		return manage.Unloaded{Instances: []string{a.instanceID(model)}, Freed: s.Memory, Copies: 1}, nil
	}
	return manage.Unloaded{}, manage.Refused(command.NotLoaded, model+" is not loaded; 'skein models' lists what is")
}

// Swap decides at once, and goes on in the background.
func (a *alone) Swap(ctx context.Context, id string, s manage.Swap, dryRun bool) (manage.Swapped, error) {
	if err := placeable(s.Load); err != nil {
		return manage.Swapped{}, err
	}
	for _, m := range a.node.worker.Models() {
		if m.Name == s.Load.Model && m.Status != worker.StatusFailed {
			return manage.Swapped{}, manage.Refused(command.AlreadyLoaded, fmt.Sprintf("%s is %s already; unload %s alone", m.Name, m.Status, s.Unload))
		}
	}
	w, err := a.node.worker.Swap(ctx, s.Unload, s.Load.Model, worker.Spec{Context: s.Load.Context, Slots: s.Load.Slots}, s.Drain)
	var refused *generation.Error
	if errors.As(err, &refused) && refused.Kind == generation.KindModelNotFound {
		return manage.Swapped{}, manage.Refused(command.NotLoaded, refused.Message)
	}
	if err != nil {
		return manage.Swapped{}, err
	}
	out := manage.Swapped{Loaded: a.loaded(w.Next), UnloadID: id, LoadID: id, Freed: w.Freed}
	if dryRun {
		w.Drop()
		return out, nil
	}
	a.node.background.Go(func() {
		// Stop ends it: the worker closes every model then.
		if err := w.Do(context.Background()); err != nil {
			a.node.log.Warn("swap undone", "err", err)
		}
	})
	return out, nil
}

// Promote is for the others of a cluster.
func (a *alone) Promote(context.Context, string, ids.Node) error {
	return manage.Refused(command.Conflict, "this node is alone, and so the master already")
}

// Drain has nowhere to move anything, and resume nothing to undo.
func (a *alone) Drain(_ context.Context, _ string, _ ids.Node, resume bool) (int, error) {
	if resume {
		return 1, nil
	}
	return 0, manage.Refused(command.Conflict, "this node runs without a cluster, so there is no other to move its models to; unload them ('skein models unload NAME'), or stop it")
}

// AddKey has no state to keep a key in.
func (a *alone) AddKey(context.Context, string, cluster.Key) (int, error) { return 0, errNoKeys }

// RevokeKey is the same.
func (a *alone) RevokeKey(context.Context, string, string) (int, error) { return 0, errNoKeys }

var errNoKeys = manage.Refused(command.Conflict, "this node runs without a cluster, whose state keeps keys: give it keys of its own when it starts (--api-key, --named-key)")
