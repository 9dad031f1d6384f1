package view_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

var update = flag.Bool("update", false, "rewrite the golden files of testdata")

var now = time.Unix(1764000000, 250_000_000).UTC()

const gb = int64(1) << 30

func number(x float64) *float64 { return &x }

// inputs are a cluster of two machines, the second with two nodes, and a node
// that died three minutes ago; with a model in each state.
func inputs(t testing.TB) view.Inputs {
	node := func(id, name, host string) cluster.Node {
		return cluster.Node{
			ID: ids.Node(id), Name: name, Host: host, Worker: true, Candidate: true, API: true, Downloads: true, Version: "0.6.0",
			Devices: []placement.Device{{Total: 64 * gb}}, Online: true, Since: now.Add(-time.Hour),
		}
	}
	n1, n2, n3, n4 := node("aa11", "studio", "h1"), node("ab22", "Mini", "h2"), node("cc33", "mini-2", "h2"), node("dd44", "attic", "h4")
	n4.Online, n4.Since = false, now.Add(-3*time.Minute)
	n3.Draining = true
	model := func(name string, size int64) cluster.Model {
		return cluster.Model{Name: name, Files: []cluster.File{{Name: "f.gguf", Size: size}}, Profile: placement.Model{Name: name, Layers: make([]placement.Layer, 48)}, Holders: []ids.Node{"aa11"}}
	}
	shard := func(id ids.Node, first, end int, phase cluster.Phase) cluster.Shard {
		s := cluster.Shard{Node: id, Spec: slice.Spec{First: first, End: end}, Reserve: 5 * gb, Phase: phase}
		if !phase.Before(cluster.Starting) {
			s.Incarnation = 1
		}
		return s
	}
	instance := func(id, model string, way placement.Way, shards ...cluster.Shard) cluster.Instance {
		return cluster.Instance{
			ID: id, Wanted: "w-" + id, Model: model, Way: way, Context: 8192, Slots: 4, Shards: shards, Head: len(shards) - 1,
			Predicted: placement.Prediction{Decode: 38.23}, Placed: now.Add(-time.Minute),
		}
	}
	failed := shard("aa11", 0, 48, cluster.Failed)
	failed.Error = "the library knows no architecture xyz"
	leaving := instance("i6", "org/Leaving-GGUF", placement.WayWhole, shard("aa11", 0, 48, cluster.Ready))
	leaving.Releasing = "unloaded"
	s := cluster.State{
		Index: 40, At: now.Add(-time.Minute), Session: ids.Session{Master: "aa11", Clock: 3},
		Nodes: map[ids.Node]cluster.Node{"aa11": n1, "ab22": n2, "cc33": n3, "dd44": n4},
		Models: map[string]cluster.Model{
			"org/Ready-GGUF": model("org/Ready-GGUF", 18*gb), "other/ready-gguf": model("other/ready-gguf", gb),
			"org/Split-GGUF": model("org/Split-GGUF", 30*gb), "Fetching": model("Fetching", 4*gb), "Broken": model("Broken", gb),
			"Homeless": model("Homeless", gb), "org/Leaving-GGUF": model("org/Leaving-GGUF", gb), "Idle": model("Idle", gb),
		},
		Wanted: map[string]cluster.Wanted{"w-none": {ID: "w-none", Model: "Homeless", Context: 4096, Slots: 1, Problem: "Need 45.0 GB, have 30.0 GB."}},
		Instances: map[string]cluster.Instance{
			"i1": instance("i1", "org/Ready-GGUF", placement.WayWhole, shard("aa11", 0, 48, cluster.Ready)),
			"i2": instance("i2", "org/Split-GGUF", placement.WayPipeline, shard("aa11", 0, 24, cluster.Loaded), shard("ab22", 24, 48, cluster.Loading)),
			"i3": instance("i3", "Fetching", placement.WayWhole, shard("cc33", 0, 48, cluster.Fetching)),
			"i5": instance("i5", "Broken", placement.WayWhole, failed),
			"i6": leaving,
		},
		Downloads: map[cluster.DownloadKey]cluster.Download{
			{Node: "ab22", Model: "Idle"}: {Node: "ab22", Model: "Idle", From: "aa11", Bytes: gb, Since: now.Add(-time.Second), Error: "no space left on the disk"},
		},
	}
	for _, i := range s.Instances {
		if i.Releasing == "" {
			s.Wanted[i.Wanted] = cluster.Wanted{ID: i.Wanted, Model: i.Model, Context: 8192, Slots: 4}
		}
	}
	if err := cluster.Check(s); err != nil {
		t.Fatal(err)
	}
	memory := func(available int64) []cluster.DeviceVitals {
		return []cluster.DeviceVitals{{Kind: "cpu", Total: 64 * gb, Available: available}}
	}
	return view.Inputs{
		Now: now, State: s, Master: "aa11", Uptime: time.Hour,
		Live: map[ids.Node]bool{"aa11": true, "ab22": true, "cc33": true},
		Vitals: map[ids.Node]cluster.Vitals{
			"aa11": {
				At: now.Add(-400 * time.Millisecond), Uptime: 3600, Chip: "Some Chip", OS: "debian 12",
				Devices: append(memory(40*gb), cluster.DeviceVitals{ID: "CUDA0", Name: "A card", Kind: "cuda", Total: 24 * gb, Available: 20 * gb}),
				Disk:    &cluster.Space{Total: 900 * gb, Free: 500 * gb}, FastCores: number(12.34), GPU: number(50), Temperature: number(44.95),
				Addresses: []string{"192.168.1.20"}, Connections: []string{"ethernet", "thunderbolt"},
				Instances: []cluster.InstanceVitals{{Instance: "i1", Running: 2, Waiting: 1, Stream: 36.91, Now: 73.12}},
				Tasks:     []cluster.Task{{ID: "t1", Type: "chat", Status: "running", Model: "org/Ready-GGUF", Instance: "i1", Age: 1.1}},
			},
			"ab22": {
				At: now, Uptime: 10, Devices: memory(30 * gb), Resumed: 2, Lost: 1,
				Shards: []cluster.ShardVitals{{Instance: "i2", Shard: 1, Phase: cluster.Loading, Progress: 0.5}},
			},
			"cc33": {
				At: now, Uptime: 10, Devices: memory(31 * gb),
				Shards: []cluster.ShardVitals{{Instance: "i3", Phase: cluster.Fetching, Done: 3 * gb, Total: 4 * gb, Speed: 512 << 20}},
			},
			"dd44": {At: now.Add(-3 * time.Minute), Devices: memory(gb)},
		},
	}
}

// TestHashingIsSaid: who waits for a model that its node is still reading sees
// how far that is.
func TestHashingIsSaid(t *testing.T) {
	in := inputs(t)
	m := in.State.Models["Fetching"]
	m.Holders = []ids.Node{"ab22"}
	in.State.Models["Fetching"] = m
	x := in.Vitals["cc33"]
	x.Shards = nil
	in.Vitals["cc33"] = x
	say := func() string {
		t.Helper()
		s, err := view.Of(in).Status("Fetching")
		if err != nil {
			t.Fatal(err)
		}
		return s.Progress
	}
	if got := say(); got != "waiting until the files of Fetching are hashed" {
		t.Error(got)
	}
	x = in.Vitals["ab22"]
	x.Hashing = &cluster.HashVitals{Model: "Fetching", Done: gb, Total: 4 * gb}
	in.Vitals["ab22"] = x
	if got := say(); got != "waiting until Mini has read the files of Fetching for their hashes: 25%" {
		t.Error(got)
	}
	m.Files[0].SHA256 = "00"
	if got := say(); got != "fetching" {
		t.Error(got)
	}
}

func TestGolden(t *testing.T) {
	v := view.Of(inputs(t))
	must := func(x any, err error) any {
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	nobody := view.Of(view.Inputs{Now: now})
	for name, got := range map[string]any{
		"overview":          v.Overview(),
		"health":            must(v.Health()),
		"nodes":             v.Nodes(),
		"node":              must(v.Node("studio")),
		"models":            v.Models(),
		"status-running":    must(v.Status("org/Ready-GGUF")),
		"status-loading":    must(v.Status("split-gguf")),
		"status-fetching":   must(v.Status("fetching")),
		"status-failed":     must(v.Status("broken")),
		"status-waiting":    must(v.Status("homeless")),
		"status-stopping":   must(v.Status("leaving-gguf")),
		"status-download":   must(v.Status("IDLE")),
		"status-unknown":    must(v.Status("nothing")),
		"overview-of-none":  nobody.Overview(),
		"health-of-none":    must(nobody.Health()),
		"status-not-loaded": must(view.Of(without(inputs(t), "Idle")).Status("Idle")),
	} {
		t.Run(name, func(t *testing.T) {
			b, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, '\n')
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(golden, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(b)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if strings.Contains(string(b), "null") {
				t.Error("there is a null in it")
			}
		})
	}
}

// without drops the downloads of a model.
func without(in view.Inputs, model string) view.Inputs {
	downloads := map[cluster.DownloadKey]cluster.Download{}
	for key, d := range in.State.Downloads {
		if key.Model != model {
			downloads[key] = d
		}
	}
	in.State.Downloads = downloads
	return in
}

// Each is one fact of the contract.
func TestFacts(t *testing.T) {
	in := inputs(t)
	o := view.Of(in).Overview()
	// 64 of the first machine, 64 of the second, whose two nodes share it; the
	// dead one does not count.
	if o.TotalRAMGB != 128 || o.AvailableRAMGB != 70 || o.UsedRAMGB != 58 || o.RAMUsedPercent != 45.3 {
		t.Errorf("memory %v %v %v %v", o.TotalRAMGB, o.AvailableRAMGB, o.UsedRAMGB, o.RAMUsedPercent)
	}
	if o.NodeCount != 3 || len(o.Nodes) != 4 || o.LoadedModelCount != 1 || o.ActiveTaskCount != 1 || o.ActiveDownloadCount != 1 {
		t.Errorf("%d nodes, %d listed, %d models, %d tasks, %d downloads", o.NodeCount, len(o.Nodes), o.LoadedModelCount, o.ActiveTaskCount, o.ActiveDownloadCount)
	}
	status := func(in view.Inputs, id string) string {
		n, err := view.Of(in).Node(id)
		if err != nil {
			return "none"
		}
		return n.Status
	}
	if got := status(in, "dd44"); got != api.NodeStale {
		t.Errorf("a dead node is %s", got)
	}
	in.Now = now.Add(view.StaleFor - 3*time.Minute + time.Second)
	if got := status(in, "dd44"); got != "none" {
		t.Errorf("a node dead for long is %s", got)
	}
	in = inputs(t)
	// Without a master nobody writes down that a node is gone.
	in.Live = map[ids.Node]bool{"ab22": true, "ee55": true}
	in.Lost = map[ids.Node]time.Time{"aa11": now.Add(-time.Second)}
	in.Master, in.NoMaster = "", "start one without --no-master"
	if got := status(in, "aa11"); got != api.NodeStale {
		t.Errorf("a node that the members lost is %s", got)
	}
	if got := status(in, "ee55"); got != api.NodeUnknown {
		t.Errorf("a member that is not in the state is %s", got)
	}
	if h, err := view.Of(in).Health(); err != nil || h.Healthy || h.Problem != "start one without --no-master" || h.NodeCount != 1 {
		t.Errorf("health without a master: %+v, %v", h, err)
	}
	// A log that can't be written is a warning; the master's, that commands are refused.
	in = inputs(t)
	v := in.Vitals["ab22"]
	v.LogProblem = "no space left on device"
	in.Vitals["ab22"] = v
	in.Master = "aa11"
	if h, err := view.Of(in).Health(); err != nil || !h.Healthy || len(h.Warnings) != 1 || !strings.Contains(h.Warnings[0], "node Mini can't write") {
		t.Errorf("health with a full disk: %+v, %v", h, err)
	}
	in.Master = "ab22"
	if h, err := view.Of(in).Health(); err != nil || h.Healthy || !strings.Contains(h.Problem, "no space left") {
		t.Errorf("health with the master's disk full: %+v, %v", h, err)
	}
	delete(in.Live, "ab22") // what it told last is of the past
	if h, err := view.Of(in).Health(); err != nil || len(h.Warnings) != 0 {
		t.Errorf("health without the node with a full disk: %+v, %v", h, err)
	}
	// How long ago that was: what is known best counts.
	in = inputs(t)
	delete(in.Live, "aa11")
	since := func(in view.Inputs) float64 {
		n, err := view.Of(in).Node("aa11")
		if err != nil {
			t.Fatal(err)
		}
		return n.SecondsSinceSeen
	}
	if got := since(in); got != 0.4 { // it told something then
		t.Errorf("gone for %v s by its vitals", got)
	}
	v = in.Vitals["aa11"]
	v.At = in.State.Nodes["aa11"].Since
	in.Vitals["aa11"] = v
	in.Lost = map[ids.Node]time.Time{"aa11": now.Add(-20 * time.Second)}
	if got := since(in); got != 20 {
		t.Errorf("gone for %v s by the members", got)
	}
	delete(in.Vitals, "aa11")
	in.Lost = nil
	if got := since(in); got != 60 { // the state's newest event
		t.Errorf("gone for %v s by the state", got)
	}
	// A replica that is ready counts more than one that is not.
	in = inputs(t)
	second := in.State.Instances["i3"]
	second.ID, second.Model = "i0", "org/Ready-GGUF"
	in.State.Instances["i0"] = second
	if st, err := view.Of(in).Status("org/ready-gguf"); err != nil || st.Status != api.StatusRunning || st.ReadyReplicas != 1 || st.InstanceID != "i1" {
		t.Errorf("two replicas: %+v, %v", st, err)
	}
}

func TestNames(t *testing.T) {
	v := view.Of(inputs(t))
	code := func(err error) string {
		if r, ok := err.(*command.Refusal); ok {
			return r.Code + ": " + r.Message
		}
		return ""
	}
	for _, tt := range []struct {
		find       func(string) (string, error)
		name, want string
		code, text string
	}{
		{v.Model, "org/Ready-GGUF", "org/Ready-GGUF", "", ""},
		{v.Model, "ORG/ready-gguf", "org/Ready-GGUF", "", ""},
		{v.Model, "Split-gguf", "org/Split-GGUF", "", ""},
		{v.Model, "ready-gguf", "", command.Ambiguous, "org/Ready-GGUF, other/ready-gguf"},
		{v.Model, "nope", "", command.UnknownModel, "there are: Broken, Fetching"},
		{v.Model, "", "", command.UnknownModel, ""},
		{v.Loaded, "READY-gguf", "org/Ready-GGUF", "", ""}, // only one of the two is loaded
		{v.Loaded, "homeless", "Homeless", "", ""},
		{v.Loaded, "idle", "", command.NotLoaded, "loaded are: Broken, Fetching"},
		{v.Loaded, "nope", "", command.UnknownModel, "there are"},
		{view.Of(view.Inputs{}).Loaded, "nope", "", command.UnknownModel, "skein models add"},
	} {
		got, err := tt.find(tt.name)
		if got != tt.want || !strings.HasPrefix(code(err), tt.code) || !strings.Contains(code(err), tt.text) || (err == nil) != (tt.code == "") {
			t.Errorf("%q is %q, %v", tt.name, got, err)
		}
	}
	for _, tt := range []struct{ ref, want, code, text string }{
		{"aa11", "aa11", "", ""}, {"AA11", "aa11", "", ""}, {"aa", "aa11", "", ""}, {"STUDIO", "aa11", "", ""}, {"mini", "ab22", "", ""}, {"c", "cc33", "", ""},
		{"a", "", view.AmbiguousNode, "ab22 (Mini), aa11 (studio)"},
		{"zz", "", command.UnknownNode, "aa11 (studio)"},
		{"", "", command.UnknownNode, "there are"},
	} {
		n, err := v.Node(tt.ref)
		if n.NodeID != tt.want || !strings.HasPrefix(code(err), tt.code) || !strings.Contains(code(err), tt.text) || (err == nil) != (tt.code == "") {
			t.Errorf("node %q is %q, %v", tt.ref, n.NodeID, err)
		}
	}
	if got, err := v.Require([]string{"studio", "aa", "cc33"}); err != nil || !cmp.Equal(got, []ids.Node{"aa11", "cc33"}) {
		t.Errorf("required nodes: %v, %v", got, err)
	}
}

func TestRoles(t *testing.T) {
	half := []int{1, 1}
	for _, tt := range []struct {
		specs []slice.Spec
		want  []string
	}{
		{nil, []string{}},
		{[]slice.Spec{{End: 4}}, []string{"whole"}},
		{[]slice.Spec{{End: 2}, {First: 2, End: 4}}, []string{"stage 1/2, layers 0-1", "stage 2/2, layers 2-3"}},
		{[]slice.Spec{{End: 4, Parts: half}, {End: 4, Rank: 1, Parts: half}}, []string{"rank 1/2", "rank 2/2"}},
		{[]slice.Spec{{End: 2, Parts: half}, {End: 2, Rank: 1, Parts: half}, {First: 2, End: 4, Parts: half}, {First: 2, End: 4, Rank: 1, Parts: half}},
			[]string{"stage 1/2, rank 1/2, layers 0-1", "stage 1/2, rank 2/2, layers 0-1", "stage 2/2, rank 1/2, layers 2-3", "stage 2/2, rank 2/2, layers 2-3"}},
	} {
		if diff := cmp.Diff(tt.want, view.Roles(tt.specs)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	p := placement.Plan{Shards: []placement.Shard{{Node: "a", Spec: slice.Spec{End: 2}}, {Node: "a", Spec: slice.Spec{First: 2, End: 4}}}}
	if got := view.Placement(p); got["a"] != "stage 1/2, layers 0-1; stage 2/2, layers 2-3" {
		t.Errorf("two shards on a node: %q", got)
	}
}

// What is told of swaps: what comes and waits, and what did not come.
func TestSwaps(t *testing.T) {
	in := view.Inputs{Now: now, State: cluster.State{
		Models: map[string]cluster.Model{"org/old": {Name: "org/old"}, "new": {Name: "new"}},
		Wanted: map[string]cluster.Wanted{"s": {ID: "s", Model: "new"}},
		Swaps:  map[string]cluster.Swap{"s": {ID: "s", Old: []cluster.Wanted{{ID: "w", Model: "org/old"}}, New: cluster.Wanted{ID: "s", Model: "new"}}},
	}}
	if m, err := view.Of(in).Status("new"); err != nil || m.Status != "loading" || m.Progress != "waiting for old to end" {
		t.Errorf("under way: %+v, %v", m, err)
	}
	failing := in
	failing.State.Instances = map[string]cluster.Instance{"i": {ID: "i", Wanted: "s", Model: "new", Shards: []cluster.Shard{{Node: "n", Phase: cluster.Failed, Error: "it broke"}}}}
	if m, err := view.Of(failing).Status("new"); err != nil || m.Status != "stopping" || m.Progress != "failed, and the swap is being undone: it broke" {
		t.Errorf("failing: %+v, %v", m, err)
	}
	in.State.Wanted = map[string]cluster.Wanted{"w": {ID: "w", Model: "org/old"}}
	w := in.State.Swaps["s"]
	w.Undone = "it is broken"
	in.State.Swaps = map[string]cluster.Swap{"s": w}
	v := view.Of(in)
	if m, err := v.Status("new"); err != nil || m.Status != "failed" || !m.Found || m.Error != "the swap of org/old for it was undone, and org/old is loaded again: it is broken" {
		t.Errorf("undone: %+v, %v", m, err)
	}
	if name, err := v.Loaded("NEW"); err != nil || name != "new" {
		t.Errorf("what did not come can't be taken off the list: %q, %v", name, err)
	}
}

// Nodes of one name, as on one machine, are told apart by the beginning of
// their ids, and are found by what they are called.
func TestNodesOfOneName(t *testing.T) {
	in := inputs(t)
	rename := func(id ids.Node, name string) {
		n := in.State.Nodes[id]
		n.Name = name
		in.State.Nodes[id] = n
	}
	add := func(id ids.Node) {
		n := in.State.Nodes["aa11"]
		n.ID, n.Name = id, "VM"
		in.State.Nodes[id] = n
		in.Live[id] = true
	}
	for _, id := range []ids.Node{"aa11", "ab22"} {
		rename(id, "vm")
	}
	add("cc33k")
	add("cc33l")
	v := view.Of(in)
	for id, want := range map[string]string{"aa11": "vm-aa11", "ab22": "vm-ab22", "cc33k": "VM-cc33k", "cc33l": "VM-cc33l", "cc33": "mini-2", "dd44": "attic"} {
		for _, ref := range []string{id, want, strings.ToUpper(want)} {
			if n, err := v.Node(ref); err != nil || n.NodeID != id || n.FriendlyName != want {
				t.Errorf("%s is %s (%s), %v; want %s (%s)", ref, n.NodeID, n.FriendlyName, err, id, want)
			}
		}
	}
	if got := v.Named("m fits aa11 and ab22"); got != "m fits vm-aa11 and vm-ab22" {
		t.Errorf("named: %q", got)
	}
	if m, err := v.Status("org/Split-GGUF"); err != nil || strings.Join(m.Nodes, " ") != "vm-aa11 vm-ab22" {
		t.Errorf("the model lies on %v, %v", m.Nodes, err)
	}
	if _, err := v.Node("vm"); err == nil || !strings.Contains(err.Error(), "any of: aa11 (vm-aa11), ab22 (vm-ab22), cc33k (VM-cc33k), cc33l (VM-cc33l);") {
		t.Errorf("vm: %v", err)
	}

	// One that is no longer listed takes no name from the others.
	delete(in.Live, "ab22")
	gone := in.State.Nodes["ab22"]
	gone.Online, gone.Since = false, now.Add(-time.Hour)
	in.State.Nodes["ab22"] = gone
	rename("cc33k", "k")
	rename("cc33l", "l")
	vitals := in.Vitals["ab22"]
	vitals.At = now.Add(-time.Hour)
	in.Vitals["ab22"] = vitals
	if n, err := view.Of(in).Node("aa11"); err != nil || n.FriendlyName != "vm" {
		t.Errorf("alone it is %s, %v", n.FriendlyName, err)
	}
}
