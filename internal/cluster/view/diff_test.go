package view_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
)

func told(events []api.Event) []string {
	out := []string{}
	for _, e := range events {
		what := ""
		switch e.Type {
		case api.EventNode:
			what = e.Node.NodeID + " " + e.Node.Status
		case api.EventModel:
			what = e.Model.ModelID + " " + e.Model.Status
		case api.EventDownload:
			what = e.Download.ModelID + " " + e.Download.Status
		case api.EventTask:
			what = e.Task.TaskID + " " + e.Task.Status
		case api.EventMaster:
			what = *e.MasterNodeID
		}
		if e.Measured {
			what += " measured"
		}
		out = append(out, fmt.Sprintf("%s %s %s", e.Type, e.Change, what))
	}
	return out
}

func TestDiff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*view.Inputs)
		want   []string
	}{
		{"time alone", func(in *view.Inputs) { in.Now = now.Add(5 * time.Second) }, []string{}},
		{"master", func(in *view.Inputs) { in.Master = "ab22" }, []string{"master changed ab22", "node changed ab22 online", "node changed aa11 online"}},
		{"a node dies", func(in *view.Inputs) { delete(in.Live, "aa11") }, []string{
			"node changed aa11 stale",
			// Its head tells nothing any more; the state will follow.
			"model changed org/Ready-GGUF ready", "task removed t1 running"}},
		{"a request of two parts", func(in *view.Inputs) {
			v := in.Vitals["aa11"]
			v.Tasks = append(slices.Clone(v.Tasks), cluster.Task{ID: "t2", Status: "running"}, cluster.Task{ID: "t2", Status: "waiting"})
			in.Vitals["aa11"] = v
		}, []string{"task added t2 running", "task added t2 waiting"}},
		{"a node is forgotten", func(in *view.Inputs) { delete(in.State.Nodes, "dd44") }, []string{"node removed dd44 stale"}},
		{"a node comes", func(in *view.Inputs) { in.Live["dd44"] = true }, []string{"node changed dd44 online"}},
		{"memory", func(in *view.Inputs) {
			v := in.Vitals["ab22"]
			v.Devices = slices.Clone(v.Devices)
			v.Devices[0].Available = 20 * gb
			in.Vitals["ab22"] = v
		}, []string{"node changed ab22 online measured"}},
		{"speed", func(in *view.Inputs) {
			v := in.Vitals["aa11"]
			v.Instances = []cluster.InstanceVitals{{Instance: "i1", Running: 2, Waiting: 1, Stream: 10, Now: 20}}
			in.Vitals["aa11"] = v
		}, []string{"model changed org/Ready-GGUF running measured"}},
		{"progress", func(in *view.Inputs) {
			v := in.Vitals["cc33"]
			v.Shards = []cluster.ShardVitals{{Instance: "i3", Phase: cluster.Fetching, Done: 7 * gb / 2, Total: 4 * gb, Speed: 512 << 20}}
			in.Vitals["cc33"] = v
		}, []string{"model changed Fetching downloading", "download changed Fetching downloading"}},
		{"fetched", func(in *view.Inputs) {
			i := in.State.Instances["i3"]
			i.Shards = slices.Clone(i.Shards)
			i.Shards[0].Phase, i.Shards[0].Incarnation = cluster.Starting, 1
			in.State.Instances = maps.Clone(in.State.Instances)
			in.State.Instances["i3"] = i
		}, []string{"model changed Fetching loading", "download removed Fetching completed"}},
		{"unloaded", func(in *view.Inputs) { delete(in.State.Instances, "i6") }, []string{"node changed aa11 online", "model removed org/Leaving-GGUF stopping"}},
		{"placed", func(in *view.Inputs) {
			i := in.State.Instances["i3"]
			i.ID, i.Model, i.Wanted = "i7", "Homeless", "w-none"
			in.State.Instances["i7"] = i
		}, []string{"node changed cc33 online", "model added Homeless downloading", "model removed Homeless failed", "download added Homeless pending"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, after := inputs(t), inputs(t)
			tt.change(&after)
			if tt.name == "placed" {
				// Its node tells of it too.
				v := after.Vitals["cc33"]
				v.Shards = append(slices.Clone(v.Shards), cluster.ShardVitals{Instance: "i7", Phase: cluster.Fetching, Total: gb})
				after.Vitals["cc33"] = v
			}
			events := view.Diff(view.Of(before), view.Of(after))
			if diff := cmp.Diff(tt.want, told(events)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			for _, e := range events {
				if e.Timestamp != view.Of(after).Timestamp() {
					t.Errorf("timestamp %v", e.Timestamp)
				}
			}
		})
	}
}

// Whoever applies the events to what was has what is.
func TestDiffIsEnough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := view.Of(anything(t)), view.Of(anything(t))
		if events := view.Diff(a, a); len(events) > 0 {
			t.Fatalf("a view differs from itself: %v", told(events))
		}
		models, nodes := map[string]api.Model{}, map[string]api.Node{}
		for _, m := range a.Overview().Models {
			models[m.InstanceID+"/"+m.ModelID] = m
		}
		for _, n := range a.Overview().Nodes {
			nodes[n.NodeID] = n
		}
		for _, e := range view.Diff(a, b) {
			switch {
			case e.Node != nil && e.Change == api.ChangeRemoved:
				delete(nodes, e.Node.NodeID)
			case e.Node != nil:
				nodes[e.Node.NodeID] = *e.Node
			case e.Model != nil && e.Change == api.ChangeRemoved:
				delete(models, e.Model.InstanceID+"/"+e.Model.ModelID)
			case e.Model != nil:
				models[e.Model.InstanceID+"/"+e.Model.ModelID] = *e.Model
			}
		}
		for _, m := range b.Overview().Models {
			if diff := cmp.Diff(m, models[m.InstanceID+"/"+m.ModelID]); diff != "" {
				t.Fatalf("model -want +got:\n%s", diff)
			}
		}
		if len(models) != len(b.Overview().Models) || len(nodes) != len(b.Overview().Nodes) {
			t.Fatalf("%d models and %d nodes are left", len(models), len(nodes))
		}
		for _, n := range b.Overview().Nodes {
			got := nodes[n.NodeID]
			got.SecondsSinceSeen, got.UptimeSeconds = n.SecondsSinceSeen, n.UptimeSeconds // time changes them
			if diff := cmp.Diff(n, got); diff != "" {
				t.Fatalf("node -want +got:\n%s", diff)
			}
		}
	})
}
