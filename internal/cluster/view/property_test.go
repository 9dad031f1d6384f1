package view_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// anything draws inputs that need not fit together: old vitals, numbers that
// are none, shards of nodes that nobody knows.
func anything(t *rapid.T) view.Inputs {
	name := rapid.SampledFrom([]string{"a", "A", "org/a", "org/B", "b", "x/y/z", "Z"})
	id := rapid.SampledFrom([]ids.Node{"n1", "n10", "n2", "N1"})
	finite := rapid.Float64() // the state has been JSON, which has no other numbers
	float := rapid.OneOf(finite, rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0, 50}))
	bytesOf := rapid.Int64Range(-1<<40, 1<<42)
	phase := rapid.SampledFrom([]cluster.Phase{cluster.Placed, cluster.Fetching, cluster.Starting, cluster.Loading, cluster.Loaded, cluster.Connected, cluster.Ready, cluster.Failed, cluster.Stopped, cluster.Lost})
	in := view.Inputs{
		Now: now, Vitals: map[ids.Node]cluster.Vitals{}, Live: map[ids.Node]bool{}, Master: rapid.SampledFrom([]ids.Node{"", "n1", "gone"}).Draw(t, "master"),
		State: cluster.State{Nodes: map[ids.Node]cluster.Node{}, Models: map[string]cluster.Model{}, Wanted: map[string]cluster.Wanted{}, Instances: map[string]cluster.Instance{}, Downloads: map[cluster.DownloadKey]cluster.Download{}},
	}
	for _, n := range rapid.SliceOfDistinct(id, rapid.ID).Draw(t, "nodes") {
		in.State.Nodes[n] = cluster.Node{
			ID: n, Name: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "name"), Host: rapid.SampledFrom([]string{"", "h"}).Draw(t, "host"), Online: rapid.Bool().Draw(t, "online"),
			Since: now.Add(-time.Duration(rapid.IntRange(0, 2000).Draw(t, "since")) * time.Second), Devices: []placement.Device{{Total: bytesOf.Draw(t, "total")}},
		}
	}
	for _, n := range rapid.SliceOfDistinct(id, rapid.ID).Draw(t, "live") {
		in.Live[n] = true
	}
	for _, m := range rapid.SliceOfDistinct(name, rapid.ID).Draw(t, "models") {
		in.State.Models[m] = cluster.Model{Name: m, Files: []cluster.File{{Size: bytesOf.Draw(t, "size")}}}
		if rapid.Bool().Draw(t, "wanted") {
			in.State.Wanted["w"+m] = cluster.Wanted{ID: "w" + m, Model: m, Problem: rapid.SampledFrom([]string{"", "no room"}).Draw(t, "problem")}
		}
		if n := rapid.IntRange(0, 3).Draw(t, "shards"); n > 0 {
			i := cluster.Instance{ID: "i" + m, Wanted: "w" + m, Model: m, Predicted: placement.Prediction{Decode: finite.Draw(t, "decode")}, Releasing: rapid.SampledFrom([]string{"", "", "x"}).Draw(t, "releasing")}
			for k := range n {
				i.Shards = append(i.Shards, cluster.Shard{Node: id.Draw(t, "on"), Spec: slice.Spec{First: k, End: k + 1}, Reserve: rapid.Int64Range(0, 1<<40).Draw(t, "reserve"), Phase: phase.Draw(t, "phase")})
			}
			in.State.Instances[i.ID] = i
		}
		if rapid.Bool().Draw(t, "download") {
			n := id.Draw(t, "to")
			in.State.Downloads[cluster.DownloadKey{Node: n, Model: m}] = cluster.Download{Node: n, Model: m, Bytes: bytesOf.Draw(t, "bytes")}
		}
	}
	for _, n := range rapid.SliceOfDistinct(id, rapid.ID).Draw(t, "told") {
		x := float.Draw(t, "x")
		v := cluster.Vitals{At: now.Add(-time.Duration(rapid.IntRange(-5, 900).Draw(t, "at")) * time.Second), Uptime: float.Draw(t, "uptime"), GPU: &x, Power: &x, Temperature: &x, Disk: &cluster.Space{Total: bytesOf.Draw(t, "disk"), Free: bytesOf.Draw(t, "free")}}
		for _, d := range []string{"", "CUDA0"} {
			v.Devices = append(v.Devices, cluster.DeviceVitals{ID: d, Total: bytesOf.Draw(t, "total"), Available: bytesOf.Draw(t, "available")})
		}
		for i := range in.State.Instances {
			v.Instances = append(v.Instances, cluster.InstanceVitals{Instance: i, Running: rapid.IntRange(-1, 3).Draw(t, "running"), Stream: float.Draw(t, "stream"), Now: float.Draw(t, "now")})
			v.Shards = append(v.Shards, cluster.ShardVitals{Instance: i, Shard: rapid.IntRange(-1, 3).Draw(t, "shard"), Phase: phase.Draw(t, "phase"), Progress: float.Draw(t, "progress"), Done: bytesOf.Draw(t, "done"), Total: bytesOf.Draw(t, "of"), Speed: float.Draw(t, "speed")})
		}
		for range rapid.IntRange(0, 3).Draw(t, "tasks") { // parts of one request have one id
			v.Tasks = append(v.Tasks, cluster.Task{ID: "t", Age: float.Draw(t, "age")})
		}
		in.Vitals[n] = v
	}
	return in
}

// Whatever the nodes say, answers hold together: no number is missing, none is
// negative, totals are the sums of their parts, and every name in an answer
// leads back to what it names.
func TestAnswersHoldTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := view.Of(anything(t))
		o := v.Overview()
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatalf("a number is none: %v", err)
		}
		var parsed any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&parsed); err != nil {
			t.Fatal(err)
		}
		walk(t, "overview", parsed)
		near := func(what string, a, b float64) {
			if math.Abs(a-b) > 0.051+1e-9*math.Abs(a) {
				t.Fatalf("%s: %v is not %v", what, a, b)
			}
		}
		near("used memory", o.UsedRAMGB, o.TotalRAMGB-o.AvailableRAMGB)
		online, loaded, active := 0, 0, 0
		var most float64
		for _, n := range o.Nodes {
			if n.Status == api.NodeOnline {
				online++
				most += n.RAMTotalGB
			}
			near("used memory of a node", n.RAMUsedGB+n.RAMAvailableGB, measured(n, "ram_used_gb", n.RAMTotalGB))
			if n.IsMaster != (n.NodeID == o.MasterNodeID && n.Status != api.NodeStale) {
				t.Fatalf("node %s is master: %v, and the master is %s", n.NodeID, n.IsMaster, o.MasterNodeID)
			}
			if got, err := v.Node(n.NodeID); err != nil || got.NodeID != n.NodeID {
				t.Fatalf("node %s is found as %s: %v", n.NodeID, got.NodeID, err)
			}
		}
		for _, m := range o.Models {
			if m.Ready {
				loaded++
			}
			if m.Ready != (m.Status == api.StatusReady || m.Status == api.StatusRunning) || len(m.Nodes) != len(m.NodeNames) || len(m.Nodes) != len(m.RunnerStatuses) {
				t.Fatalf("model %+v", m)
			}
			if m.Status == api.StatusFailed && m.Error == "" || m.ProgressPercent > 100 {
				t.Fatalf("model %+v", m)
			}
			id, err := v.Loaded(m.ModelID)
			if err != nil || id != m.ModelID {
				t.Fatalf("model %s is found as %s: %v", m.ModelID, id, err)
			}
			s, err := v.Status(m.ModelID)
			if err != nil || !s.Found || s.Status == api.StatusNotLoaded {
				t.Fatalf("status of %s: %+v, %v", m.ModelID, s, err)
			}
		}
		for _, d := range o.Downloads {
			if d.Status == api.DownloadPending || d.Status == api.DownloadRunning {
				active++
			}
			if d.DownloadedGB > d.TotalGB || d.ProgressPercent > 100 {
				t.Fatalf("download %+v", d)
			}
		}
		if o.NodeCount != online || o.LoadedModelCount != loaded || o.ActiveDownloadCount != active || o.ActiveTaskCount != len(o.Tasks) {
			t.Fatalf("counts %d %d %d, found %d %d %d", o.NodeCount, o.LoadedModelCount, o.ActiveDownloadCount, online, loaded, active)
		}
		if o.TotalRAMGB > most+0.1*float64(online+1) {
			t.Fatalf("total memory %v is more than the %v of the nodes", o.TotalRAMGB, most)
		}
		if h, err := v.Health(); err != nil || h.StateIndex != v.State().Index || h.Healthy != (o.MasterNodeID != "" && online > 0) || h.Healthy != (h.Problem == "") {
			t.Fatalf("health %+v, %v of %d nodes, master %q", h, err, online, o.MasterNodeID)
		}
	})
}

// measured gives x, or 0 if the node can't measure it.
func measured(n api.Node, field string, x float64) float64 {
	for _, f := range n.Unmeasured {
		if f == field {
			return 0
		}
	}
	return x
}

// walk finds nulls and negative numbers.
func walk(t *rapid.T, at string, v any) {
	switch v := v.(type) {
	case nil:
		t.Fatalf("%s is null", at)
	case json.Number:
		if strings.HasPrefix(v.String(), "-") && !strings.HasSuffix(at, ".temperature_c") {
			t.Fatalf("%s is %s", at, v)
		}
	case map[string]any:
		for k, x := range v {
			walk(t, at+"."+k, x)
		}
	case []any:
		for i, x := range v {
			walk(t, fmt.Sprintf("%s[%d]", at, i), x)
		}
	}
}

func BenchmarkOverview(b *testing.B) {
	in := inputs(b)
	for k := range 1000 {
		id := ids.Node(fmt.Sprintf("node%d", k))
		in.State.Nodes[id] = cluster.Node{ID: id, Name: string(id), Online: true, Worker: true, Devices: []placement.Device{{Total: 64 * gb}}}
		in.Live[id], in.Vitals[id] = true, in.Vitals["aa11"]
	}
	for b.Loop() {
		view.Of(in).Overview()
	}
}
