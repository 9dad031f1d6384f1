// Package view shows the cluster in the words of the management API: what the
// nodes agree on (cluster.State) beside what they told about themselves when
// they were asked (cluster.Vitals), as the answers that clients get.
//
// It owns what each field means and how it is rounded, what the states of
// nodes and models are called, the texts about progress, and how a name that a
// person typed is understood. It is pure: time is an argument, and it imports
// api and the cluster's core alone. A View never changes once made, so it may
// be read from any goroutine.
package view

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// StaleFor is how long a node that is gone is still listed.
const StaleFor = 10 * time.Minute

// Inputs are what a node knows at a moment.
type Inputs struct {
	Now   time.Time
	State cluster.State
	// Vitals are the newest that each node told, also of nodes that are gone
	// since.
	Vitals map[ids.Node]cluster.Vitals
	// Live are the members of the cluster that are alive, this node included.
	Live map[ids.Node]bool
	// Lost is when this node lost sight of those that are not; may be nil.
	Lost map[ids.Node]time.Time
	// Master is the live master; "": there is none, and NoMaster says why and
	// which node or flag would bring one.
	Master   ids.Node
	NoMaster string
	Uptime   time.Duration // of the node that answers
}

// View is the cluster as the API tells it.
type View struct {
	in        Inputs
	nodes     []api.Node
	models    []api.Model
	tasks     []api.Task
	downloads []api.Download
	heads     map[string]cluster.InstanceVitals           // by instance
	shards    map[shardKey]cluster.ShardVitals            // of live nodes
	fetching  map[cluster.DownloadKey]cluster.ShardVitals // summed up
	names     map[ids.Node]string                         // of nodes whose own name another one has too
}

type shardKey struct {
	instance string
	shard    int
}

// Of makes the view of a moment.
func Of(in Inputs) *View {
	v := &View{
		in: in, heads: map[string]cluster.InstanceVitals{}, shards: map[shardKey]cluster.ShardVitals{},
		fetching: map[cluster.DownloadKey]cluster.ShardVitals{},
	}
	for id, vitals := range in.Vitals {
		if !v.live(id) {
			continue
		}
		for _, i := range vitals.Instances {
			v.heads[i.Instance] = i
		}
		for _, s := range vitals.Shards {
			i, ok := in.State.Instances[s.Instance]
			if !ok || s.Shard < 0 || s.Shard >= len(i.Shards) || i.Shards[s.Shard].Node != id {
				continue // of a shard that it lost or that is released
			}
			v.shards[shardKey{s.Instance, s.Shard}] = s
			if i.Shards[s.Shard].Phase == cluster.Fetching {
				key := cluster.DownloadKey{Node: id, Model: i.Model}
				sum := v.fetching[key]
				sum.Done, sum.Total, sum.Speed = sum.Done+s.Done, sum.Total+s.Total, sum.Speed+s.Speed
				v.fetching[key] = sum
			}
		}
	}
	v.names = v.tellApart()
	v.models = v.listModels()
	v.nodes = v.listNodes()
	v.downloads = v.listDownloads()
	v.tasks = v.listTasks()
	return v
}

// live tells that a node is there. The members know sooner than the state.
func (v *View) live(id ids.Node) bool { return v.in.Live[id] }

// Timestamp is the moment in Unix seconds.
func (v *View) Timestamp() float64 { return float64(v.in.Now.UnixMilli()) / 1000 }

// State is what the view was made of.
func (v *View) State() cluster.State { return v.in.State }

// Master is the live master, "" without one, and then why there is none.
func (v *View) Master() (id ids.Node, problem string) {
	if v.in.Master != "" {
		return v.in.Master, ""
	}
	return "", cmp.Or(v.in.NoMaster, "the cluster has no master; start a node without --no-master and --no-api")
}

// Overview answers GET /v1/cluster.
func (v *View) Overview() api.Overview {
	o := api.Overview{
		NodeCount: v.online(), Nodes: v.nodes, Models: v.models, Tasks: v.tasks, Downloads: v.downloads,
		ActiveTaskCount: len(v.tasks), MasterNodeID: string(v.in.Master), Timestamp: v.Timestamp(),
	}
	total, available := v.memory()
	o.TotalRAMGB, o.AvailableRAMGB, o.UsedRAMGB, o.RAMUsedPercent = use(total, available)
	for _, m := range v.models {
		if m.Ready {
			o.LoadedModelCount++
		}
		o.TokensPerSecond += m.TokensPerSecond
	}
	o.TokensPerSecond = round(o.TokensPerSecond)
	for _, d := range v.downloads {
		if d.Status == api.DownloadPending || d.Status == api.DownloadRunning {
			o.ActiveDownloadCount++
		}
	}
	return o
}

// Health answers GET /v1/cluster/health.
func (v *View) Health() (api.Health, error) {
	h := api.Health{NodeCount: v.online(), MasterNodeID: string(v.in.Master), UptimeSeconds: round(v.in.Uptime.Seconds()), Timestamp: v.Timestamp(), StateIndex: v.in.State.Index}
	var err error
	if h.StateHash, err = v.in.State.Hash(); err != nil {
		return h, err
	}
	for _, x := range v.in.Vitals {
		h.GenerationsResumed += int(max(0, x.Resumed))
		h.GenerationsLost += int(max(0, x.Lost))
	}
	h.Warnings = v.warnings()
	_, h.Problem = v.Master()
	if why := v.in.Vitals[v.in.Master].LogProblem; h.Problem == "" && why != "" && v.live(v.in.Master) {
		h.Problem = fmt.Sprintf("commands are refused, since the master %s can't write them to its disk, and no other node can lead: %s", v.name(v.in.Master), why)
	}
	if h.Problem == "" && h.NodeCount == 0 {
		h.Problem = "no node is online"
	}
	h.Healthy = h.Problem == ""
	return h, nil
}

// warnings are what somebody should mend though the cluster works.
func (v *View) warnings() []string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(v.in.Vitals)) {
		if why := v.in.Vitals[id].LogProblem; why != "" && v.live(id) {
			out = append(out, fmt.Sprintf("node %s can't write the cluster's log, and neither leads nor holds new commands until it can: %s", v.name(id), why))
		}
	}
	return out
}

// Nodes answers GET /v1/cluster/nodes.
func (v *View) Nodes() api.NodeList {
	return api.NodeList{NodeCount: v.online(), Nodes: v.nodes, Timestamp: v.Timestamp()}
}

// Models answers GET /v1/cluster/models.
func (v *View) Models() api.ClusterModels {
	return api.ClusterModels{Loaded: v.models, Downloading: v.downloads, Timestamp: v.Timestamp()}
}

func (v *View) online() int {
	n := 0
	for _, node := range v.nodes {
		if node.Status == api.NodeOnline {
			n++
		}
	}
	return n
}

// memory sums up the memory of the machines with live nodes, bytes. Nodes of
// one machine share it, so it counts once: the least that one of them tells.
func (v *View) memory() (total, available int64) {
	type machine struct{ total, available int64 }
	machines := map[string]machine{}
	for _, n := range v.nodes {
		if n.Status != api.NodeOnline {
			continue
		}
		id := ids.Node(n.NodeID)
		host := cmp.Or(v.in.State.Nodes[id].Host, n.NodeID)
		t, a := v.ram(id)
		if old, ok := machines[host]; ok {
			t, a = min(t, old.total), min(a, old.available)
		}
		machines[host] = machine{t, a}
	}
	for _, m := range machines {
		total, available = total+m.total, available+m.available
	}
	return total, available
}

// ram is the machine's own memory as a node tells it, bytes.
func (v *View) ram(id ids.Node) (total, available int64) {
	if d, ok := v.in.Vitals[id].Device(""); ok && d.Total > 0 {
		return d.Total, min(max(d.Available, 0), d.Total)
	}
	for _, d := range v.in.State.Nodes[id].Devices {
		if d.ID == "" {
			return max(d.Total, 0), 0
		}
	}
	return 0, 0
}

// use gives what memory fields say of bytes; they add up.
func use(total, available int64) (totalGB, availableGB, usedGB, percent float64) {
	totalGB, availableGB = inGB(total), inGB(available)
	usedGB = round(totalGB - availableGB)
	if total > 0 {
		percent = round(100 * float64(total-available) / float64(total))
	}
	return totalGB, availableGB, usedGB, percent
}

// percentOf is done of total in percent, 0 to 100.
func percentOf(done, total int64) float64 {
	if total <= 0 {
		return 0
	}
	return round(100 * float64(min(max(done, 0), total)) / float64(total))
}

func (v *View) listTasks() []api.Task {
	out := []api.Task{}
	for _, id := range slices.Sorted(maps.Keys(v.in.Vitals)) {
		if !v.live(id) {
			continue
		}
		vitals := v.in.Vitals[id]
		passed := v.in.Now.Sub(vitals.At).Seconds()
		for _, t := range vitals.Tasks {
			out = append(out, api.Task{
				TaskID: t.ID, TaskType: t.Type, Status: t.Status, ModelID: t.Model, InstanceID: t.Instance, NodeID: string(id),
				AgeSeconds: max(0, round(t.Age+max(0, passed))),
			})
		}
	}
	return out
}

func (v *View) listDownloads() []api.Download {
	keys := map[cluster.DownloadKey]bool{}
	for key := range v.in.State.Downloads {
		keys[key] = true
	}
	for key := range v.fetching {
		keys[key] = true
	}
	out := []api.Download{}
	for _, key := range slices.SortedFunc(maps.Keys(keys), func(a, b cluster.DownloadKey) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Node, b.Node))
	}) {
		out = append(out, v.download(key))
	}
	return out
}

func (v *View) download(key cluster.DownloadKey) api.Download {
	told := v.in.State.Downloads[key]
	now := v.fetching[key]
	if v.live(key.Node) {
		for _, d := range v.in.Vitals[key.Node].Downloads {
			if d.Model == key.Model {
				now = cluster.ShardVitals{Done: d.Done, Total: d.Total, Speed: d.Speed}
			}
		}
	}
	total := now.Total
	if total <= 0 {
		total = max(told.Bytes, 0)
	}
	done := min(max(now.Done, 0), total)
	d := api.Download{
		NodeID: string(key.Node), NodeName: v.name(key.Node), ModelID: key.Model, Status: api.DownloadPending,
		DownloadedGB: inGB(done), TotalGB: inGB(total), ProgressPercent: percentOf(done, total),
		SpeedMBs: max(0, round(now.Speed/(1<<20))), Error: told.Error,
	}
	switch {
	case told.Error != "":
		d.Status, d.SpeedMBs = api.DownloadFailed, 0
	case done > 0 || now.Speed > 0:
		d.Status = api.DownloadRunning
		if now.Speed > 0 {
			d.ETASeconds = round(float64(total-done) / now.Speed)
		}
	}
	return d
}

// name is what people call a node: no two that are listed have the same.
func (v *View) name(id ids.Node) string {
	return cmp.Or(v.names[id], v.in.State.Nodes[id].Name, string(id))
}

// round gives one decimal, and 0 for what is no number.
func round(x float64) float64 {
	x = math.Round(x*10) / 10
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x + 0 // -0 becomes 0
}

// inGB is how the API tells bytes; nonsense is 0.
func inGB(bytes int64) float64 { return bytesize.ToGB(max(bytes, 0)) }
