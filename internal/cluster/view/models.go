package view

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// short is the last part of a model's name.
func short(model string) string { return model[strings.LastIndexByte(model, '/')+1:] }

func (v *View) listModels() []api.Model {
	out := []api.Model{}
	placed := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(v.in.State.Instances)) {
		i := v.in.State.Instances[id]
		if i.Releasing == "" {
			placed[i.Wanted] = true
		}
		out = append(out, v.model(i))
	}
	for _, id := range slices.Sorted(maps.Keys(v.in.State.Wanted)) {
		if !placed[id] {
			out = append(out, v.waiting(v.in.State.Wanted[id]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v.in.State.Swaps)) {
		if w := v.in.State.Swaps[id]; w.Undone != "" {
			out = append(out, v.undone(w))
		}
	}
	slices.SortStableFunc(out, func(a, b api.Model) int {
		return cmp.Or(cmp.Compare(a.ModelID, b.ModelID), cmp.Compare(a.InstanceID, b.InstanceID))
	})
	return out
}

func (v *View) files(model string) int64 {
	var n int64
	for _, f := range v.in.State.Models[model].Files {
		n += f.Size
	}
	return n
}

// undone describes the model of a swap that did not come.
func (v *View) undone(w cluster.Swap) api.Model {
	w.New.Problem = fmt.Sprintf("the swap of %s for it was undone, and %s is loaded again: %s", w.Model(), w.Model(), w.Undone)
	if w.Overlap {
		w.New.Problem = fmt.Sprintf("the swap of %s for it was undone, and %s runs as before: %s", w.Model(), w.Model(), w.Undone)
	}
	return v.waiting(w.New)
}

// waiting describes a model that is wanted and has no place.
func (v *View) waiting(w cluster.Wanted) api.Model {
	w.Problem = v.Named(w.Problem)
	m := api.Model{
		ModelID: w.Model, ModelName: short(w.Model), Sharding: api.ShardingPipeline, InstanceType: api.InstanceType,
		Nodes: []string{}, NodeNames: []string{}, RunnerStatuses: map[string]string{}, Shards: []api.Shard{},
		StorageSizeGB: inGB(v.files(w.Model)), ContextLength: w.Context, Slots: w.Slots,
		Status: api.StatusLoading, Progress: "waiting for a place", Error: w.Problem,
	}
	if w.Sharding == placement.Tensor {
		m.Sharding = api.ShardingTensor
	}
	if swap, ok := v.in.State.SwapOf(w.ID); ok && !swap.Placed {
		m.Progress = "waiting for " + short(swap.Model()) + " to end"
	}
	if w.Problem != "" {
		m.Status, m.Progress = api.StatusFailed, "failed: "+w.Problem
	}
	return m
}

// model describes an instance.
func (v *View) model(i cluster.Instance) api.Model {
	head := v.head(i.ID)
	m := api.Model{
		InstanceID: i.ID, ModelID: i.Model, ModelName: short(i.Model), Sharding: api.ShardingPipeline, InstanceType: api.InstanceType,
		Nodes: []string{}, NodeNames: []string{}, RunnerStatuses: map[string]string{}, Shards: []api.Shard{},
		StorageSizeGB: inGB(v.files(i.Model)), Status: i.Status(), Way: string(i.Way),
		PredictedTokensPerSecond: max(0, round(i.Predicted.Decode)), MeasuredTokensPerSecond: max(0, round(head.Stream)),
		TokensPerSecond: max(0, round(head.Now)), ContextLength: i.Context, Slots: i.Slots,
		RunningRequests: max(0, head.Running), WaitingRequests: max(0, head.Waiting),
	}
	if i.Way == placement.WayTensor || i.Way == placement.WayMixed {
		m.Sharding = api.ShardingTensor
	}
	if m.Status == api.StatusReady && head.Running > 0 {
		m.Status = api.StatusRunning
	}
	m.Ready = m.Status == api.StatusReady || m.Status == api.StatusRunning
	specs := make([]slice.Spec, len(i.Shards))
	for k, s := range i.Shards {
		specs[k] = s.Spec
	}
	roles := Roles(specs)
	worst := map[ids.Node]cluster.Phase{}
	var errs []string
	var memory int64
	for k, s := range i.Shards {
		memory += s.Reserve
		if s.Error != "" {
			errs = append(errs, v.Named(s.Error))
		}
		if old, ok := worst[s.Node]; !ok || s.Phase.Ended() || s.Phase.Before(old) {
			worst[s.Node] = s.Phase
		}
		if !slices.Contains(m.Nodes, string(s.Node)) {
			m.Nodes, m.NodeNames = append(m.Nodes, string(s.Node)), append(m.NodeNames, v.name(s.Node))
		}
		text, percent := v.shardProgress(i, k)
		m.Shards = append(m.Shards, api.Shard{
			NodeID: string(s.Node), NodeName: v.name(s.Node), Device: s.Device, Role: roles[k], Status: string(s.Phase),
			Progress: text, ProgressPercent: percent, MemoryGB: inGB(s.Reserve), Error: v.Named(s.Error),
		})
	}
	for id, phase := range worst {
		m.RunnerStatuses[string(id)] = string(phase)
		if m.Status == api.StatusRunning {
			m.RunnerStatuses[string(id)] = api.StatusRunning
		}
		if i.Releasing != "" && !phase.Ended() {
			m.RunnerStatuses[string(id)] = api.StatusStopping
		}
	}
	m.MemoryGB = inGB(memory)
	if m.Status == api.StatusFailed {
		slices.Sort(errs)
		m.Error = strings.Join(slices.Compact(errs), "; ")
		if problem := v.in.State.Wanted[i.Wanted].Problem; problem != "" {
			m.Error = v.Named(problem)
		}
		m.Error = cmp.Or(m.Error, "a part of it ended")
	}
	m.Progress, m.ProgressPercent = v.progress(i, m)
	if _, ok := v.in.State.SwapOf(i.Wanted); ok && m.Status == api.StatusFailed {
		// The end of it is told by the swap, in a moment.
		m.Status, m.Progress = api.StatusStopping, "failed, and the swap is being undone: "+m.Error
	}
	return m
}

// Roles says of each shard, in order, which part of the model it holds.
func Roles(specs []slice.Spec) []string {
	out := make([]string, len(specs))
	if len(specs) == 0 {
		return out
	}
	ranks := specs[0].Ranks()
	stages := max(1, len(specs)/ranks)
	for k, s := range specs {
		var parts []string
		if stages > 1 {
			parts = append(parts, fmt.Sprintf("stage %d/%d", k/ranks+1, stages))
		}
		if ranks > 1 {
			parts = append(parts, fmt.Sprintf("rank %d/%d", s.Rank+1, ranks))
		}
		if stages > 1 {
			parts = append(parts, fmt.Sprintf("layers %d-%d", s.First, s.End-1))
		}
		out[k] = cmp.Or(strings.Join(parts, ", "), "whole")
	}
	return out
}

// Placement gives the role of each node that a plan uses.
func Placement(p placement.Plan) map[string]string {
	specs := make([]slice.Spec, len(p.Shards))
	for k, s := range p.Shards {
		specs[k] = s.Spec
	}
	out := map[string]string{}
	for k, role := range Roles(specs) {
		id := p.Shards[k].Node
		if have, ok := out[id]; ok {
			role = have + "; " + role
		}
		out[id] = role
	}
	return out
}

// shardProgress says how far one shard is, and in percent.
func (v *View) shardProgress(i cluster.Instance, k int) (string, float64) {
	s := i.Shards[k]
	now := v.shards[shardKey{i.ID, k}]
	if now.Phase != s.Phase {
		now = cluster.ShardVitals{} // it is about another phase
	}
	if i.Releasing != "" && !s.Phase.Ended() {
		return "stopping", 0
	}
	switch s.Phase {
	case cluster.Placed:
		return "waiting", 0
	case cluster.Fetching:
		if m := v.in.State.Models[i.Model]; !m.Hashed() && now.Total == 0 {
			return v.hashing(m), 0
		}
		return fetched(now.Done, now.Total)
	case cluster.Starting:
		return "starting", 0
	case cluster.Loading:
		layers := s.Spec.End - s.Spec.First
		return loading(fraction(now.Progress)*float64(layers), layers)
	case cluster.Loaded:
		return "loaded", 100
	case cluster.Ready:
		return "ready", 100
	case cluster.Failed, cluster.Lost:
		return cmp.Or(s.Error, string(s.Phase)), 0
	}
	return string(s.Phase), 100
}

// hashing says how far the node that has a model is with reading its files:
// before, nobody can fetch them.
func (v *View) hashing(m cluster.Model) string {
	for _, id := range m.Holders {
		if h := v.in.Vitals[id].Hashing; h != nil && h.Model == m.Name && h.Total > 0 {
			percent := percentOf(h.Done, h.Total)
			return fmt.Sprintf("waiting until %s has read the files of %s for their hashes: %.0f%%", v.name(id), short(m.Name), percent)
		}
	}
	return "waiting until the files of " + short(m.Name) + " are hashed"
}

func fetched(done, total int64) (string, float64) {
	if total <= 0 {
		return "fetching", 0
	}
	percent := percentOf(done, total)
	unit, name := float64(bytesize.MB), "MB"
	if total >= bytesize.GB {
		unit, name = float64(bytesize.GB), "GB"
	}
	return fmt.Sprintf("fetching %.1f/%.1f %s (%.0f%%)", float64(min(max(done, 0), total))/unit, float64(total)/unit, name, percent), percent
}

func loading(done float64, layers int) (string, float64) {
	percent := 0.0
	if layers > 0 {
		percent = round(100 * done / float64(layers))
	}
	return fmt.Sprintf("loading layer %d/%d (%.0f%%)", int(done), layers, percent), percent
}

// fraction brings a number to [0, 1]; what is no number is 0.
func fraction(x float64) float64 {
	if x > 0 {
		return min(x, 1)
	}
	return 0
}

// progress says how far an instance is.
func (v *View) progress(i cluster.Instance, m api.Model) (string, float64) {
	switch m.Status {
	case api.StatusReady:
		return "ready", 100
	case api.StatusRunning:
		if m.RunningRequests == 1 {
			return "running 1 request", 100
		}
		return fmt.Sprintf("running %d requests", m.RunningRequests), 100
	case api.StatusFailed:
		return "failed: " + m.Error, 0
	case api.StatusStopping:
		return "stopping: " + v.Named(i.Releasing), 0
	case api.StatusDownloading:
		var done, total int64
		for k, s := range i.Shards {
			if now := v.shards[shardKey{i.ID, k}]; s.Phase == cluster.Fetching && now.Phase == cluster.Fetching {
				done, total = done+now.Done, total+now.Total
			}
		}
		if m := v.in.State.Models[i.Model]; !m.Hashed() && total == 0 {
			return v.hashing(m), 0
		}
		return fetched(done, total)
	}
	return v.loadProgress(i)
}

// loadProgress counts layers that are in memory. Ranks of one stage hold the
// same layers: the slowest counts.
func (v *View) loadProgress(i cluster.Instance) (string, float64) {
	stages := map[int]float64{} // by first layer
	all, begun, loaded := 0, false, true
	for k, s := range i.Shards {
		var part float64
		switch {
		case s.Phase == cluster.Loading:
			begun, loaded = true, false
			if now := v.shards[shardKey{i.ID, k}]; now.Phase == cluster.Loading {
				part = fraction(now.Progress)
			}
		case !s.Phase.Before(cluster.Loaded):
			begun, part = true, 1
		default:
			loaded = false
		}
		if old, ok := stages[s.Spec.First]; !ok || part < old {
			stages[s.Spec.First] = part
		}
		all = max(all, s.Spec.End)
	}
	switch {
	case loaded && len(i.Shards) == 1:
		return "warming up", 100
	case loaded:
		return "connecting its parts", 100
	}
	if !begun {
		return "starting", 0
	}
	done := 0.0
	for k, s := range i.Shards {
		if k == 0 || i.Shards[k-1].Spec.First != s.Spec.First {
			done += stages[s.Spec.First] * float64(s.Spec.End-s.Spec.First)
		}
	}
	return loading(done, all)
}

// Status answers GET /v1/cluster/models/{name}/status. The error is about a
// short name of several models; a name that nobody knows has an answer too.
func (v *View) Status(name string) (api.ModelStatus, error) {
	out := api.ModelStatus{ModelID: name, Status: api.StatusNotLoaded, Progress: "not loaded", Nodes: []string{}}
	id, err := v.Model(name)
	if IsUnknown(err) {
		out.Error = err.Error()
		return out, nil
	}
	if err != nil {
		return out, err
	}
	out.ModelID = id
	for _, w := range v.in.State.Wanted {
		if w.Model == id {
			out.Replicas++
		}
	}
	best := -1
	for k, m := range v.models {
		if m.ModelID != id {
			continue
		}
		if m.Ready {
			out.ReadyReplicas++
		}
		if best < 0 || further(m, v.models[best]) {
			best = k
		}
	}
	if best >= 0 {
		m := v.models[best]
		out.Found, out.Status, out.Ready, out.Nodes, out.InstanceID = true, m.Status, m.Ready, m.NodeNames, m.InstanceID
		out.Progress, out.ProgressPercent, out.Error = m.Progress, m.ProgressPercent, m.Error
		return out, nil
	}
	for _, d := range v.downloads {
		if d.ModelID != id {
			continue
		}
		out.Found, out.Status, out.Error = true, api.StatusDownloading, d.Error
		out.Nodes = append(out.Nodes, d.NodeName)
		out.Progress, out.ProgressPercent = fmt.Sprintf("fetching %.1f/%.1f GB (%.0f%%)", d.DownloadedGB, d.TotalGB, d.ProgressPercent), d.ProgressPercent
		if d.Status == api.DownloadFailed {
			out.Status, out.Progress = api.StatusFailed, "failed: "+d.Error
		}
	}
	return out, nil
}

// further tells that a is more than b.
func further(a, b api.Model) bool {
	order := []string{api.StatusFailed, api.StatusStopping, api.StatusDownloading, api.StatusLoading, api.StatusReady, api.StatusRunning}
	return cmp.Or(cmp.Compare(slices.Index(order, a.Status), slices.Index(order, b.Status)), cmp.Compare(a.ProgressPercent, b.ProgressPercent)) > 0
}
