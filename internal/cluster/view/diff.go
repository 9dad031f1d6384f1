package view

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// Diff lists what changed from one view to the next, without ids: the master,
// then nodes, models, downloads and tasks, in the order of their keys, and who
// gave commands. What
// time alone changes (ages) is no change.
func Diff(old, next *View) []api.Event {
	var out []api.Event
	if old.in.Master != next.in.Master {
		master := string(next.in.Master)
		out = append(out, api.Event{Type: api.EventMaster, Change: api.ChangeChanged, MasterNodeID: &master})
	}
	out = append(out, changes(old.nodes, next.nodes, kind[api.Node]{
		name: api.EventNode, key: func(n api.Node) string { return n.NodeID }, still: stillNode, calm: calmNode,
		put: func(e *api.Event, n api.Node) { e.Node = &n },
	})...)
	out = append(out, changes(old.models, next.models, kind[api.Model]{
		name: api.EventModel, key: modelKey, still: func(m api.Model) api.Model { return m }, calm: calmModel,
		put: func(e *api.Event, m api.Model) { e.Model = &m },
	})...)
	out = append(out, changes(old.downloads, next.downloads, kind[api.Download]{
		name: api.EventDownload, key: func(d api.Download) string { return d.NodeID + " " + d.ModelID },
		still: func(d api.Download) api.Download { return d }, calm: calmDownload,
		put: func(e *api.Event, d api.Download) {
			if e.Change == api.ChangeRemoved && next.has(ids.Node(d.NodeID), d.ModelID) {
				d.Status, d.DownloadedGB, d.ProgressPercent, d.ETASeconds = api.DownloadCompleted, d.TotalGB, 100, 0
			}
			e.Download = &d
		},
	})...)
	out = append(out, changes(old.tasks, next.tasks, kind[api.Task]{
		name: api.EventTask, key: func(t api.Task) string { return t.NodeID + " " + t.TaskID },
		still: func(t api.Task) api.Task { t.AgeSeconds = 0; return t }, calm: func(t api.Task) api.Task { return t },
		put: func(e *api.Event, t api.Task) { e.Task = &t },
	})...)
	out = append(out, newAudits(old, next)...)
	for i := range out {
		out[i].Timestamp = next.Timestamp()
	}
	return out
}

// kind says how things of a type are compared.
type kind[T any] struct {
	name string
	// key tells them apart, but for those of one model that have no place, and for
	// the parts of one request: these are told apart by their order.
	key func(T) string
	// still drops what time alone changes, calm what is only measured.
	still, calm func(T) T
	put         func(*api.Event, T)
}

func changes[T any](old, next []T, k kind[T]) []api.Event {
	var out []api.Event
	event := func(change string, x T, measured bool) {
		e := api.Event{Type: k.name, Change: change, Measured: measured}
		k.put(&e, x)
		out = append(out, e)
	}
	before, oldOrder := k.index(old)
	after, order := k.index(next)
	for _, key := range order {
		x := after[key]
		y, ok := before[key]
		switch {
		case !ok:
			event(api.ChangeAdded, x, false)
		case !reflect.DeepEqual(k.calm(k.still(x)), k.calm(k.still(y))):
			event(api.ChangeChanged, x, false)
		case !reflect.DeepEqual(k.still(x), k.still(y)):
			event(api.ChangeChanged, x, true)
		}
	}
	for _, key := range oldOrder {
		if _, ok := after[key]; !ok {
			event(api.ChangeRemoved, before[key], false)
		}
	}
	return out
}

// index finds things by their keys; order is theirs in the list.
func (k kind[T]) index(list []T) (byKey map[string]T, order []string) {
	byKey = make(map[string]T, len(list))
	count := map[string]int{}
	for _, x := range list {
		key := k.key(x)
		count[key]++
		if n := count[key]; n > 1 {
			key = fmt.Sprintf("%s\x00%d", key, n) // ids have no such character
		}
		byKey[key] = x
		order = append(order, key)
	}
	return byKey, order
}

// modelKey is the instance, or for what has no place the model's name.
func modelKey(m api.Model) string {
	if m.InstanceID != "" {
		return "instance " + m.InstanceID
	}
	return "model " + m.ModelID
}

func stillNode(n api.Node) api.Node {
	n.SecondsSinceSeen, n.UptimeSeconds = 0, 0
	return n
}

func calmNode(n api.Node) api.Node {
	n.RAMAvailableGB, n.RAMUsedGB, n.RAMUsedPercent, n.DiskAvailableGB = 0, 0, 0, 0
	n.GPUUsagePercent, n.CPUPUsagePercent, n.CPUEUsagePercent, n.TemperatureC, n.PowerWatts = 0, 0, 0, 0, 0
	n.Unmeasured = nil
	n.Accelerators = slices.Clone(n.Accelerators)
	for i := range n.Accelerators {
		n.Accelerators[i].MemoryAvailableGB = 0
	}
	return n
}

func calmModel(m api.Model) api.Model {
	m.MeasuredTokensPerSecond, m.TokensPerSecond = 0, 0
	return m
}

func calmDownload(d api.Download) api.Download {
	d.SpeedMBs, d.ETASeconds = 0, 0
	return d
}

// has tells that a node has what it needs of a model: all files, or its shard.
func (v *View) has(id ids.Node, model string) bool {
	if slices.Contains(v.in.State.Models[model].Holders, id) {
		return true
	}
	for _, i := range v.in.State.Instances {
		if i.Model == model && slices.ContainsFunc(i.Shards, func(s cluster.Shard) bool {
			return s.Node == id && !s.Phase.Ended() && !s.Phase.Before(cluster.Starting)
		}) {
			return true
		}
	}
	return false
}
