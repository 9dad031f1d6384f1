package view

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// known are the nodes of the state, and those that are there.
func (v *View) known() []ids.Node {
	out := make([]ids.Node, 0, len(v.in.State.Nodes))
	for id := range v.in.State.Nodes {
		out = append(out, id)
	}
	for id, live := range v.in.Live {
		if _, already := v.in.State.Nodes[id]; live && !already {
			out = append(out, id)
		}
	}
	return out
}

// listed tells that a node is there, or gone for a short time only.
func (v *View) listed(id ids.Node) bool {
	return v.live(id) || v.in.Now.Sub(v.goneSince(id)) <= StaleFor
}

func (v *View) listNodes() []api.Node {
	on := v.modelsByNode()
	type entry struct {
		sortAs string
		id     ids.Node
	}
	var listed []entry
	for _, id := range v.known() {
		if v.listed(id) {
			listed = append(listed, entry{strings.ToLower(v.name(id)), id})
		}
	}
	slices.SortFunc(listed, func(a, b entry) int { return cmp.Or(cmp.Compare(a.sortAs, b.sortAs), cmp.Compare(a.id, b.id)) })
	out := make([]api.Node, 0, len(listed))
	for _, e := range listed {
		out = append(out, v.node(e.id, on[e.id]))
	}
	return out
}

// modelsByNode gives the short names of what serves on each node, and the
// bytes that all on it was promised.
func (v *View) modelsByNode() map[ids.Node]onNode {
	out := map[ids.Node]onNode{}
	ready := map[string]bool{}
	for _, m := range v.models {
		ready[m.InstanceID] = m.Ready
	}
	for _, id := range slices.Sorted(maps.Keys(v.in.State.Instances)) {
		i := v.in.State.Instances[id]
		for _, s := range i.Shards {
			if s.Phase.Ended() {
				continue
			}
			on := out[s.Node]
			on.reserved += s.Reserve
			if name := short(i.Model); ready[id] && !slices.Contains(on.models, name) {
				on.models = append(on.models, name)
			}
			out[s.Node] = on
		}
	}
	return out
}

type onNode struct {
	models   []string
	reserved int64
}

// node describes one.
func (v *View) node(id ids.Node, on onNode) api.Node {
	n, known := v.in.State.Nodes[id]
	vitals, told := v.in.Vitals[id]
	out := api.Node{
		NodeID: string(id), FriendlyName: v.name(id), Chip: vitals.Chip, OSVersion: vitals.OS,
		IPAddresses: orEmpty(vitals.Addresses), ConnectionTypes: orEmpty(vitals.Connections),
		HasThunderbolt: vitals.Thunderbolt || slices.Contains(vitals.Connections, "thunderbolt"), RDMAEnabled: vitals.RDMA,
		LoadedModels: []string{}, Accelerators: v.accelerators(id), Roles: v.roles(id),
		IsMaster: id == v.in.Master, IsCandidate: n.Candidate, Draining: n.Draining, Version: n.Version,
		ReservedMemoryGB: inGB(on.reserved),
	}
	slices.Sort(on.models)
	switch {
	case v.live(id) && (known || told):
		out.Status, out.LoadedModels = api.NodeOnline, orEmpty(on.models)
		if told {
			since := max(0, v.in.Now.Sub(vitals.At).Seconds())
			out.SecondsSinceSeen, out.UptimeSeconds = round(since), max(0, round(vitals.Uptime+since))
		}
	case v.live(id):
		out.Status = api.NodeUnknown
	default:
		gone := v.in.Now.Sub(v.goneSince(id))
		out.Status, out.SecondsSinceSeen = api.NodeStale, max(0, round(gone.Seconds()))
		out.IsMaster = false
	}
	v.measure(id, &out)
	return out
}

// goneSince is when a node was last there.
func (v *View) goneSince(id ids.Node) time.Time {
	var last time.Time
	for _, t := range []time.Time{v.in.Lost[id], v.in.Vitals[id].At} {
		if t.After(last) {
			last = t
		}
	}
	n := v.in.State.Nodes[id]
	switch {
	case !n.Online && n.Since.After(last):
		return n.Since
	case last.IsZero(): // the members lost it, and nobody wrote down when
		return v.in.State.At
	}
	return last
}

// roles lists what a node does.
func (v *View) roles(id ids.Node) []string {
	n := v.in.State.Nodes[id]
	out := []string{}
	for _, r := range []struct {
		is   bool
		name string
	}{{id == v.in.Master && v.live(id), "master"}, {n.Candidate, "candidate"}, {n.API, "api"}, {n.Worker, "worker"}, {n.Downloads, "downloads"}} {
		if r.is {
			out = append(out, r.name)
		}
	}
	return out
}

// accelerators lists the devices that are more than the processor's memory.
func (v *View) accelerators(id ids.Node) []api.Device {
	out := []api.Device{}
	for _, d := range v.in.Vitals[id].Devices {
		if d.ID == "" && (d.Kind == "" || d.Kind == "cpu") {
			continue
		}
		out = append(out, api.Device{
			ID: d.ID, Name: d.Name, Kind: d.Kind,
			MemoryTotalGB: inGB(d.Total), MemoryAvailableGB: inGB(min(max(d.Available, 0), max(d.Total, 0))),
		})
	}
	return out
}

// measure fills in the numbers, and the names of those that are not measured.
func (v *View) measure(id ids.Node, out *api.Node) {
	vitals, told := v.in.Vitals[id]
	missing := []string{}
	// least is what makes sense: less, or no number, is no measurement.
	set := func(field *float64, name string, value *float64, least float64) {
		if value == nil || !(*value >= least) || math.IsInf(*value, 0) {
			missing = append(missing, name)
			return
		}
		*field = round(*value)
	}
	total, available := v.ram(id)
	out.RAMTotalGB, out.RAMAvailableGB, out.RAMUsedGB, out.RAMUsedPercent = use(total, available)
	if d, ok := vitals.Device(""); !ok || d.Total <= 0 {
		if total == 0 {
			missing = append(missing, "ram_total_gb")
		}
		out.RAMAvailableGB, out.RAMUsedGB, out.RAMUsedPercent = 0, 0, 0
		missing = append(missing, "ram_available_gb", "ram_used_gb", "ram_used_percent")
	}
	if vitals.Disk != nil {
		out.DiskTotalGB, out.DiskAvailableGB = inGB(vitals.Disk.Total), inGB(vitals.Disk.Free)
	} else {
		missing = append(missing, "disk_total_gb", "disk_available_gb")
	}
	set(&out.GPUUsagePercent, "gpu_usage_percent", vitals.GPU, 0)
	set(&out.CPUPUsagePercent, "cpu_p_usage_percent", vitals.FastCores, 0)
	set(&out.CPUEUsagePercent, "cpu_e_usage_percent", vitals.EfficientCores, 0)
	set(&out.TemperatureC, "temperature_c", vitals.Temperature, -100)
	set(&out.PowerWatts, "power_watts", vitals.Power, 0)
	if !told {
		missing = append(missing, "uptime_seconds")
	}
	out.Unmeasured = missing
}

// head is what the head of an instance told.
func (v *View) head(id string) cluster.InstanceVitals { return v.heads[id] }

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return slices.Clone(list)
}
