package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/worker"
)

// unloadDrain is how long open generations of a model that is unloaded may go
// on.
const unloadDrain = 30 * time.Second

// models tells the management API what is loaded, and loads and unloads.
type models struct{ node *Node }

// Loaded lists the models of this node.
func (m *models) Loaded(context.Context) ([]api.Model, error) {
	var out []api.Model
	for _, s := range m.node.worker.Models() {
		out = append(out, m.describe(s))
	}
	return out, nil
}

// Downloading is empty: a node alone fetches nothing.
func (m *models) Downloading(context.Context) ([]api.Download, error) { return nil, nil }

func (m *models) describe(s worker.ModelState) api.Model {
	status := apiStatus(s.Status)
	return api.Model{
		InstanceID: m.instanceID(s.Name), ModelID: s.Name, ModelName: s.Name,
		Sharding: api.ShardingPipeline, InstanceType: api.InstanceType,
		Nodes: []string{m.node.id}, NodeNames: []string{m.node.name},
		StorageSizeGB:  bytesize.ToGB(int64(s.Info.Bytes)),
		RunnerStatuses: map[string]string{m.node.id: string(s.Status)},
		Ready:          s.Ready(), Status: status,
		ContextLength: s.Context, Slots: s.Slots, MemoryGB: bytesize.ToGB(s.Memory), Error: s.Error,
	}
}

// apiStatus maps the worker's finer states onto the contract's.
func apiStatus(s worker.Status) string {
	switch s {
	case worker.StatusRestarting:
		return api.StatusLoading
	case worker.StatusUnloading:
		return api.StatusRunning
	}
	return string(s)
}

func (m *models) instanceID(name string) string { return m.node.id + "/" + name }

// Load begins to load a model.
func (m *models) Load(ctx context.Context, req api.LoadRequest) (api.LoadAnswer, error) {
	if req.MinNodes > 1 {
		return api.LoadAnswer{}, api.NewError(409, "not_enough_nodes", "min_nodes", fmt.Sprintf("min_nodes is %d and there is 1 node; start more, or leave min_nodes out", req.MinNodes))
	}
	if req.Sharding == api.ShardingTensor {
		return api.LoadAnswer{}, api.NewError(409, "not_enough_nodes", "preferred_sharding", "tensor sharding needs at least two nodes and there is 1; leave preferred_sharding out")
	}
	s, started, err := m.node.worker.Load(ctx, req.ModelID, worker.Spec{Context: req.ContextLength, Slots: req.Slots})
	if err != nil {
		return api.LoadAnswer{}, err
	}
	if !started {
		return api.LoadAnswer{}, api.NewError(409, api.CodeModelLoaded, "model_id", fmt.Sprintf("%s is %s already; unload it first to load it with other settings", s.Name, s.Status))
	}
	message := "loading " + s.Name
	if s.Warning != "" {
		message += "; " + s.Warning // a lowered context, most of all
	}
	return api.LoadAnswer{
		Message: message, CommandID: rand.Text(), ModelID: s.Name, InstanceID: m.instanceID(s.Name),
		Placement: map[string]string{m.node.id: "whole"}, EstimatedMemoryGB: bytesize.ToGB(s.Memory),
	}, nil
}

// Unload decides at once and frees the model in the background, when its open
// generations are done.
func (m *models) Unload(_ context.Context, name string) (api.UnloadAnswer, error) {
	e, err := m.node.files.Resolve(name)
	if err != nil {
		return api.UnloadAnswer{}, err
	}
	var state *worker.ModelState
	for _, s := range m.node.worker.Models() {
		if s.Name == e.Name {
			state = &s
		}
	}
	if state == nil {
		return api.UnloadAnswer{}, api.NewError(404, api.CodeModelNotFound, "name", e.Name+" is not loaded; 'skein models' lists what is")
	}
	m.node.background.Go(func() {
		// Stop ends it: the worker closes every model then.
		if _, err := m.node.worker.Unload(context.Background(), e.Name, unloadDrain); err != nil {
			m.node.log.Warn("model not unloaded", "model", e.Name, "err", err)
		}
	})
	return api.UnloadAnswer{
		Message: "unloading " + e.Name, CommandID: rand.Text(), ModelID: e.Name, InstanceID: m.instanceID(e.Name),
		FreedMemoryGB: bytesize.ToGB(state.Memory),
	}, nil
}
