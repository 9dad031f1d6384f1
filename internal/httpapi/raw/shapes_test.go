package raw_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// testdata/shapes.json has the structure of exo 0.3.70's answers: which keys,
// of which types, in which nesting. Most was taken from a running cluster of one
// to three nodes, some (downloads, runners, tasks, system) from its code. "*"
// stands for keys that are ids, "null" for what was null and may be anything,
// "card" and "shard" for the entries of these names; a list has the merged
// structure of its elements.

// mapped are the fields whose keys are ids.
var mapped = []string{
	"instances", "runners", "downloads", "tasks", "lastSeen", "connections", "nodeIdentities", "nodeMemory", "nodeDisk", "nodeSystem", "nodeNetwork",
	"nodeThunderbolt", "nodeThunderboltBridge", "nodeRdmaCtl", "nodeBackends", "instanceLinks", "prefillServerPorts", "customModelCards",
	"runnerToShard", "nodeToRunner", "hostsByNode", "memory_delta_by_node",
}

// structure reduces a decoded answer.
func structure(v any, ids bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if ids {
				out["*"] = merge(out["*"], structure(v[key], isMap(v[key]) && strings.HasPrefix(key, "n") && nested(v[key])))
				continue
			}
			out[key] = structure(v[key], slices.Contains(mapped, key))
		}
		return out
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		var one any
		for _, x := range v {
			one = merge(one, structure(x, false))
		}
		return []any{one}
	case nil:
		return "null"
	case bool:
		return "bool"
	case float64:
		return "number"
	}
	return "string"
}

func isMap(v any) bool { _, ok := v.(map[string]any); return ok }

// nested tells the second level of the topology's connections: nodes, of
// lists.
func nested(v any) bool {
	for key, x := range v.(map[string]any) {
		if _, list := x.([]any); !list || !strings.HasPrefix(key, "n") || key == "nodes" {
			return false
		}
	}
	return len(v.(map[string]any)) > 0
}

func merge(a, b any) any {
	if a == nil || a == "null" {
		return b
	}
	if b == nil || b == "null" {
		return a
	}
	x, isMap := a.(map[string]any)
	y, same := b.(map[string]any)
	if isMap && same {
		out := maps.Clone(x)
		for k, v := range y {
			out[k] = merge(out[k], v)
		}
		return out
	}
	p, isList := a.([]any)
	q, same := b.([]any)
	if isList && same && len(p) > 0 && len(q) > 0 {
		return []any{merge(p[0], q[0])}
	}
	if isList && same && len(p) == 0 {
		return b
	}
	return a
}

// differ compares structures, the wanted one with exo's.
func differ(path string, want, got any, named map[string]any) (out []string) {
	if name, ok := want.(string); ok && named[name] != nil {
		want = named[name]
	}
	switch want := want.(type) {
	case string:
		if want != "null" && got != any(want) {
			return []string{fmt.Sprintf("%s: exo has a %s, we %v", path, want, got)}
		}
	case []any:
		list, ok := got.([]any)
		switch {
		case !ok || len(want) > 0 && len(list) == 0:
			return []string{fmt.Sprintf("%s: exo has the list %v, we %v", path, want, got)}
		case len(want) > 0:
			return differ(path+"[]", want[0], list[0], named)
		}
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s: exo has an object, we %v", path, got)}
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if _, ok := object[key]; !ok {
				out = append(out, fmt.Sprintf("%s.%s: exo has it, we do not", path, key))
				continue
			}
			out = append(out, differ(path+"."+key, want[key], object[key], named)...)
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			if _, ok := want[key]; !ok && len(want) > 0 {
				out = append(out, fmt.Sprintf("%s.%s: we have it, exo does not", path, key))
			}
		}
	}
	return out
}

func shapes(t testing.TB) map[string]any {
	t.Helper()
	b, err := os.ReadFile("testdata/shapes.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// decode reads an answer, or what a stream says after lead.
func decode(t *testing.T, body []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return v
}

// Each request that was put to exo gets an answer of the same structure.
func TestShapes(t *testing.T) {
	const chat = `{"model":"` + smol + `","messages":[{"role":"user","content":"Hi"}],"max_tokens":3`
	place := func(body string) func(*world) {
		return func(w *world) {
			if r := call(serve(t, w), "POST", "/place_instance", body); r.Code != 200 {
				t.Fatalf("status %d: %s", r.Code, r.Body)
			}
			w.report(cluster.Loaded)
			w.report(cluster.Ready)
		}
	}
	for _, c := range []struct {
		name, method, path, body string
		nodes                    int
		before                   func(*world)
		// but is what differs on purpose; docs/exo-api.md says why.
		but []string
	}{
		{name: "state, three idle nodes", path: "/state", nodes: 3},
		{name: "state, one node that runs a model", path: "/state", nodes: 1, before: place(`{"model_id":"` + smol + `"}`),
			but: []string{".prefillServerPorts.*: exo has it", ".RunnerReady.prefillServerPort: exo has a number, we null"}},
		{name: "state, two nodes that run a model", path: "/state", nodes: 2, before: place(`{"model_id":"` + smol + `","min_nodes":2}`),
			but: []string{".prefillServerPorts.*: exo has it", ".RunnerReady.prefillServerPort: exo has a number, we null"}},
		{name: "topology", path: "/state/topology", nodes: 3},
		{name: "placement", path: "/instance/placement?model_id=" + smol + "&min_nodes=1", nodes: 3},
		{name: "placement, two stages", path: "/instance/placement?model_id=" + smol + "&min_nodes=2&sharding=Pipeline&instance_meta=MlxRing", nodes: 3},
		{name: "placement, three ranks", path: "/instance/placement?model_id=" + smol + "&min_nodes=3&sharding=Tensor", nodes: 3},
		{name: "previews", path: "/instance/previews?model_id=" + smol, nodes: 3, but: []string{".tensorParts: we have it"}},
		{name: "place_instance", method: "POST", path: "/place_instance", body: `{"model_id":"` + smol + `"}`, nodes: 3, but: []string{".instance_id: we have it"}},
		{name: "bench", method: "POST", path: "/bench/chat/completions", body: chat + `}`, nodes: 1},
		{name: "a model that is added", method: "POST", path: "/models/add", body: `{"model_id":"` + smol + `"}`, nodes: 1, but: []string{".loaded: we have it"}},
		{name: "search", path: "/models/search?query=smol", nodes: 1},
		{name: "a custom model that is deleted", method: "DELETE", path: "/models/custom/" + smol, nodes: 1},
		{name: "onboarding", path: "/onboarding", nodes: 1},
		{name: "feature flags", path: "/v1/feature-flags", nodes: 1},
		{name: "instance links", path: "/v1/instance-links", nodes: 1},
		{name: "images", path: "/images", nodes: 1},
		{name: "traces", path: "/v1/traces", nodes: 1},
		{name: "downloads", path: "/state/downloads/n1", nodes: 2, before: func(w *world) {
			for _, name := range []string{"fetched", "broken"} {
				m := cluster.Model{Name: name, Profile: profile(), Files: []cluster.File{{Name: name, Size: 5, SHA256: name}}, Holders: []ids.Node{"n2"}}
				w.must(cluster.ModelKnown{Model: m})
				w.must(cluster.DownloadBegan{Download: cluster.Download{Node: "n1", Model: name, From: "n2", Bytes: 5}})
			}
			w.must(cluster.DownloadEnded{Node: "n1", Model: "broken", Error: "the disk is full"})
			w.edit("n1", func(v *cluster.Vitals) {
				v.Downloads = []cluster.DownloadVitals{{Model: "fetched", Done: 2, Total: 5, Speed: 1}}
			})
		}},
		{name: "tasks", path: "/state/tasks", nodes: 1, before: func(w *world) {
			w.edit("n1", func(v *cluster.Vitals) {
				v.Tasks = []cluster.Task{{ID: "chatcmpl-1", Type: "chat", Status: "running", Model: smol}}
			})
		}},
		{name: "system", path: "/state/nodeSystem", nodes: 1, before: func(w *world) {
			w.edit("n1", func(v *cluster.Vitals) { x := 50.0; v.GPU = &x })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.nodes)
			if c.before != nil {
				c.before(w)
			}
			all := shapes(t)
			method := c.method
			if method == "" {
				method = "GET"
			}
			r := call(serve(t, w), method, c.path, c.body)
			if r.Code != 200 {
				t.Fatalf("status %d: %s", r.Code, r.Body)
			}
			golden(t, c.name, r.Body.Bytes())
			top := slices.Contains([]string{"tasks", "system"}, c.name)
			compare(t, all, c.name, structure(decode(t, r.Body.Bytes()), top), c.but)
		})
	}
}

var update = flag.Bool("update", false, "rewrite the golden files of testdata/answers")

// golden compares an answer with the one that is kept, key by key and value by
// value: what clients read must not change by accident.
func golden(t *testing.T, name string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(body), "", " "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	path := filepath.Join("testdata/answers", strings.NewReplacer(",", "", " ", "_").Replace(name)+".json")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("the answer differs from %s (-want +got); -update rewrites it:\n%s", path, d)
	}
}

// compare fails for each difference that is not expected, and for each
// expected one that is not there.
func compare(t *testing.T, all map[string]any, name string, got any, but []string) {
	t.Helper()
	missing := slices.Clone(but)
	for _, d := range differ("", all[name], got, all) {
		i := slices.IndexFunc(but, func(b string) bool { return strings.Contains(d, b) })
		if i < 0 {
			t.Error(d)
			continue
		}
		missing = slices.DeleteFunc(missing, func(b string) bool { return b == but[i] })
	}
	if len(missing) > 0 {
		t.Errorf("these differences are not there: %q", missing)
	}
}

// The phases of shards, in exo's words.
func TestRunners(t *testing.T) {
	w := newWorld(t, 1)
	h := serve(t, w)
	if r := call(h, "POST", "/place_instance", `{"model_id":"`+smol+`"}`); r.Code != 200 {
		t.Fatalf("status %d: %s", r.Code, r.Body)
	}
	all := map[string]any{}
	look := func(want string) {
		t.Helper()
		v := decode(t, call(h, "GET", "/state/runners", "").Body.Bytes())
		if len(v.(map[string]any)) != 1 {
			t.Fatalf("got %v", v)
		}
		for _, tag := range v.(map[string]any) {
			if _, ok := tag.(map[string]any)[want]; !ok {
				t.Errorf("got %v, want %s", tag, want)
			}
			all = merge(all, structure(map[string]any{"*": tag}, false)).(map[string]any)
		}
	}
	look("RunnerIdle")
	w.report(cluster.Loading)
	id := ""
	for k := range w.current().Instances {
		id = k
	}
	w.edit("n1", func(v *cluster.Vitals) {
		v.Shards = []cluster.ShardVitals{{Instance: id, Phase: cluster.Loading, Progress: 0.51}}
	})
	look("RunnerLoading")
	got := decode(t, call(h, "GET", "/state/runners/"+id+"-0/RunnerLoading/layersLoaded", "").Body.Bytes())
	if got != 15.0 {
		t.Errorf("%v layers are loaded, want 15 of 30", got)
	}
	for _, x := range []struct {
		phase cluster.Phase
		want  string
	}{{cluster.Loaded, "RunnerLoaded"}, {cluster.Connected, "RunnerWarmingUp"}, {cluster.Ready, "RunnerReady"}} {
		w.report(x.phase)
		look(x.want)
	}
	w.edit("n1", func(v *cluster.Vitals) { v.Instances = []cluster.InstanceVitals{{Instance: id, Running: 1}} })
	look("RunnerRunning")
	w.report(cluster.Failed)
	look("RunnerFailed")
	compare(t, shapes(t), "runners", all, nil)
}

// What a stream of /bench says.
func TestBenchStreamShapes(t *testing.T) {
	w := newWorld(t, 1)
	r := call(serve(t, w), "POST", "/bench/chat/completions", `{"model":"`+smol+`","messages":[{"role":"user","content":"Hi"}],"max_tokens":3,"stream":true}`)
	if r.Code != 200 {
		t.Fatalf("status %d: %s", r.Code, r.Body)
	}
	lines := strings.Split(strings.TrimSpace(r.Body.String()), "\n\n")
	if len(lines) != 5 || lines[4] != "data: [DONE]" {
		t.Fatalf("got %q", lines)
	}
	all := shapes(t)
	for i, name := range []string{"stream, a token", "stream, a token", "stream, the last token"} {
		data, ok := strings.CutPrefix(lines[i], "data: ")
		if !ok {
			t.Fatalf("line %d is %q", i, lines[i])
		}
		compare(t, all, name, structure(decode(t, []byte(data)), false), nil)
	}
	figures, ok := strings.CutPrefix(lines[3], ": generation_stats ")
	if !ok {
		t.Fatalf("got %q before the end", lines[3])
	}
	compare(t, all, "stream, figures", structure(decode(t, []byte(figures)), false), nil)
}
