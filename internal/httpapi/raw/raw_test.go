package raw_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/httpapi/raw"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/ids"
)

// ring takes an instance out of its union.
func ring(t *testing.T, b []byte) shape.Instance {
	t.Helper()
	var union map[string]shape.Instance
	if err := json.Unmarshal(b, &union); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	i, ok := union[shape.RingInstance]
	if !ok || len(union) != 1 {
		t.Fatalf("no %s alone: %s", shape.RingInstance, b)
	}
	return i
}

type preview struct {
	Sharding string           `json:"sharding"`
	Meta     string           `json:"instance_meta"`
	Instance json.RawMessage  `json:"instance"`
	Memory   map[string]int64 `json:"memory_delta_by_node"`
	Error    *string          `json:"error"`
}

func previewsOf(t *testing.T, h http.Handler, query string) []preview {
	t.Helper()
	r := call(h, "GET", "/instance/previews?model_id="+smol+query, "")
	var list struct {
		Previews []preview `json:"previews"`
	}
	if err := json.Unmarshal(r.Body.Bytes(), &list); err != nil || r.Code != 200 {
		t.Fatalf("status %d, %v: %s", r.Code, err, r.Body)
	}
	return list.Previews
}

func TestPreviews(t *testing.T) {
	w := newWorld(t, 3)
	h := serve(t, w)
	var got []string
	for _, p := range previewsOf(t, h, "") {
		got = append(got, fmt.Sprintf("%s %s %d", p.Sharding, p.Meta, len(p.Memory)))
		if (p.Error == nil) != (string(p.Instance) != "null") {
			t.Errorf("%s %s has an instance and an error, or neither: %v", p.Sharding, p.Meta, p.Error)
		}
	}
	want := []string{"Pipeline MlxRing 1", "Pipeline MlxRing 2", "Pipeline MlxRing 3", "Pipeline MlxJaccl 0", "Tensor MlxRing 1", "Tensor MlxRing 2", "Tensor MlxRing 3", "Tensor MlxJaccl 0"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("previews (-want +got):\n%s", d)
	}
	for _, p := range previewsOf(t, h, "&node_ids=n2&node_ids=n3") {
		if p.Error != nil {
			continue
		}
		if _, ok := p.Memory["n2"]; !ok || p.Memory["n3"] == 0 {
			t.Errorf("n2 and n3 are required, the preview has %v", p.Memory)
		}
	}
	// Less memory than one node needs: the first reason is kept, once.
	for id := range w.current().Nodes {
		w.edit(id, func(v *cluster.Vitals) {
			v.Devices = []cluster.DeviceVitals{{Total: 24 * gb, Available: 64 << 20}}
		})
	}
	reasons := 0
	for _, p := range previewsOf(t, h, "") {
		if p.Meta == shape.Ring && p.Error != nil {
			reasons++
			if !strings.HasPrefix(*p.Error, "Need ") {
				t.Errorf("got %q", *p.Error)
			}
		}
	}
	if reasons != 2 {
		t.Errorf("%d reasons, want one for each sharding", reasons)
	}
}

// A preview that is sent back makes that instance: its id, nodes and split.
func TestPreviewIsHonoured(t *testing.T) {
	tried := 0
	for _, p := range previewsOf(t, serve(t, newWorld(t, 3)), "") {
		if p.Error != nil {
			continue
		}
		tried++
		want := ring(t, p.Instance)
		snake, err := shape.SnakeCase(p.Instance)
		if err != nil {
			t.Fatal(err)
		}
		for style, instance := range map[string]string{"camelCase": string(p.Instance), "snake_case": string(snake)} {
			w := newWorld(t, 3)
			h := serve(t, w)
			if r := call(h, "POST", "/instance", `{"instance":`+instance+`}`); r.Code != 200 || !strings.Contains(r.Body.String(), "exactly as it was given") {
				t.Fatalf("%s: status %d: %s", style, r.Code, r.Body)
			}
			got := ring(t, call(h, "GET", "/instance/"+want.InstanceID, "").Body.Bytes())
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, %d nodes, %s: the instance differs from its preview:\n%s", p.Sharding, len(p.Memory), style, d)
			}
			for _, s := range w.current().Instances[want.InstanceID].Shards {
				if s.Reserve != p.Memory[string(s.Node)] {
					t.Errorf("%s is promised %d bytes, the preview says %d", s.Node, s.Reserve, p.Memory[string(s.Node)])
				}
			}
			// Once more is fine, and does nothing.
			before := w.current().Index
			if r := call(h, "POST", "/instance", `{"instance":`+instance+`}`); r.Code != 200 || w.current().Index != before || !strings.Contains(r.Body.String(), "nothing was changed") {
				t.Errorf("the same instance again: status %d: %s", r.Code, r.Body)
			}
		}
	}
	if tried != 6 {
		t.Errorf("%d previews were tried, want 6", tried)
	}
}

// An instance that can't be had exactly so is refused, and nothing is placed.
func TestInstanceIsHadExactlyOrNot(t *testing.T) {
	var two string
	for _, p := range previewsOf(t, serve(t, newWorld(t, 3)), "") {
		if p.Sharding == shape.Pipeline && len(p.Memory) == 2 {
			two = string(p.Instance)
		}
	}
	end := ring(t, []byte(two))
	split := 0
	for _, s := range end.ShardAssignments.RunnerToShard {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var x map[string]shape.Shard
		if err := json.Unmarshal(b, &x); err != nil {
			t.Fatal(err)
		}
		if n := x[shape.PipelineShard]; n.DeviceRank == 0 {
			split = n.EndLayer
		}
	}
	for name, c := range map[string]struct {
		old, new string
		status   int
		says     string
	}{
		"a gap":           {fmt.Sprintf(`"startLayer":%d`, split), fmt.Sprintf(`"startLayer":%d`, split+1), 422, "comes next"},
		"other layers":    {`"nLayers":30,"`, `"nLayers":30,"`, 200, ""},
		"too many layers": {`"endLayer":30,"nLayers":30`, `"endLayer":31,"nLayers":31`, 422, "of 30"},
		"two of one rank": {`"deviceRank":1`, `"deviceRank":0`, 422, "each once"},
		"a strange node":  {"n2", "n9", 404, "n9"},
		"a strange model": {smol, "no/such", 404, "there is no model"},
		"a bad id":        {end.InstanceID, "a b", 422, "letters"},
		"a device":        {`"deviceRank":1`, `"device":"CUDA7","deviceRank":1`, 409, "CUDA7"},
		"no runner":       {`"nodeToRunner":{`, `"nodeToRunner":{"n7":"r",`, 422, "runners on"},
		"cfg":             {shape.PipelineShard, "CfgShardMetadata", 422, "CfgShardMetadata"},
		"jaccl":           {shape.RingInstance, shape.JacclInstance, 400, "MlxJaccl"},
	} {
		w := newWorld(t, 3)
		changed := strings.ReplaceAll(two, c.old, c.new)
		r := call(serve(t, w), "POST", "/instance", `{"instance":`+changed+`}`)
		if r.Code != c.status || !strings.Contains(r.Body.String(), c.says) {
			t.Errorf("%s: status %d, want %d with %q: %s", name, r.Code, c.status, c.says, r.Body)
		}
		if n := len(w.current().Instances); c.status != 200 && n > 0 {
			t.Errorf("%s: %d instances were placed", name, n)
		}
	}
	// Not enough memory where it shall go, though elsewhere there is.
	w := newWorld(t, 3)
	for node := range end.ShardAssignments.NodeToRunner {
		w.edit(ids.Node(node), func(v *cluster.Vitals) { v.Devices = []cluster.DeviceVitals{{Total: 24 * gb, Available: 1 << 20}} })
	}
	if r := call(serve(t, w), "POST", "/instance", `{"instance":`+two+`}`); r.Code != 507 {
		t.Errorf("without memory: status %d: %s", r.Code, r.Body)
	}
	// Another one of that id.
	w = newWorld(t, 3)
	h := serve(t, w)
	for _, status := range []int{200, 409} {
		r := call(h, "POST", "/instance", `{"instance":`+two+`}`)
		if r.Code != status {
			t.Errorf("status %d, want %d: %s", r.Code, status, r.Body)
		}
		two = strings.NewReplacer(fmt.Sprintf(`"endLayer":%d`, split), fmt.Sprintf(`"endLayer":%d`, split-1), fmt.Sprintf(`"startLayer":%d`, split), fmt.Sprintf(`"startLayer":%d`, split-1)).Replace(two)
	}
}

// What exo answered with 200 or 500, and what it answered rightly.
func TestErrors(t *testing.T) {
	w := newWorld(t, 3)
	h := serve(t, w)
	big := cluster.Model{Name: "big", Profile: profile(), Files: []cluster.File{{Name: "b", Size: 1 << 40, SHA256: "b"}}, Holders: []ids.Node{"n1"}}
	for i := range big.Profile.Layers {
		big.Profile.Layers[i].Weights.Cut = 1 << 35
	}
	w.must(cluster.ModelKnown{Model: big})
	for _, c := range []struct {
		method, path, body string
		status             int
		code, param        string
	}{
		{"POST", "/place_instance", `{"model_id":"no/such"}`, 404, "model_not_found", "model_id"},
		{"POST", "/place_instance", `{"model_id":"` + smol + `","min_nodes":9}`, 409, "not_enough_nodes", "min_nodes"},
		{"POST", "/place_instance", `{"model_id":"big"}`, 507, "insufficient_memory", ""},
		{"POST", "/place_instance", `{"model_id":"` + smol + `","instance_meta":"MlxJaccl"}`, 400, "unsupported_value", "instance_meta"},
		{"POST", "/place_instance", `{"model_id":"` + smol + `","instance_meta":"Ring"}`, 422, "invalid_value", "instance_meta"},
		{"POST", "/place_instance", `{"model_id":"` + smol + `","sharding":"pipeline"}`, 422, "invalid_value", "sharding"},
		{"POST", "/place_instance", `{"model_id":"` + smol + `","min_nodes":0}`, 422, "invalid_value", "min_nodes"},
		{"POST", "/place_instance", `{"model_id":7}`, 422, "invalid_value", "model_id"},
		{"POST", "/place_instance", `{}`, 422, "invalid_value", "model_id"},
		{"POST", "/place_instance", `[]`, 422, "invalid_value", "the body"},
		{"POST", "/place_instance", `{`, 422, "invalid_json", ""},
		{"POST", "/place_instance", `{"x":"` + strings.Repeat("x", 9<<20) + `"}`, 413, "request_too_large", ""},
		{"POST", "/instance", `{"instance":{}}`, 422, "invalid_value", "instance"},
		{"GET", "/instance/placement", "", 422, "invalid_value", "model_id"},
		{"GET", "/instance/placement?model_id=no/such", "", 404, "model_not_found", "model_id"},
		{"GET", "/instance/placement?model_id=" + smol + "&sharding=Foo", "", 422, "invalid_value", "sharding"},
		{"GET", "/instance/placement?model_id=" + smol + "&min_nodes=9", "", 409, "not_enough_nodes", "min_nodes"},
		{"GET", "/instance/placement?model_id=" + smol + "&min_nodes=x", "", 422, "invalid_value", "min_nodes"},
		{"GET", "/instance/previews?model_id=no/such", "", 404, "model_not_found", "model_id"},
		{"GET", "/instance/previews?model_id=" + smol + "&node_ids=n9", "", 404, "node_not_found", "node_ids"},
		{"GET", "/instance/await?model_id=no/such", "", 404, "model_not_found", "model_id"},
		{"GET", "/instance/await?model_id=" + smol + "&timeout_seconds=301", "", 422, "invalid_value", "timeout_seconds"},
		{"GET", "/instance/await?model_id=" + smol + "&timeout_seconds=NaN", "", 422, "invalid_value", "timeout_seconds"},
		{"GET", "/instance/deadbeef", "", 404, "not_found", ""},
		{"DELETE", "/instance/nope", "", 404, "not_found", ""},
		{"GET", "/state/nope", "", 404, "not_found", ""},
		{"GET", "/state/topology/nodes/3", "", 404, "not_found", ""},
		{"GET", "/state/topology/nodes/-1", "", 404, "not_found", ""},
		{"GET", "/state/lastEventAppliedIdx/x", "", 404, "not_found", ""},
		{"POST", "/v1/cancel/abc", "{}", 404, "not_found", ""},
		{"POST", "/download/start", `{}`, 422, "invalid_value", "targetNodeId"},
		{"POST", "/download/start", `{"targetNodeId":"n1","shardMetadata":{"PipelineShardMetadata":{"deviceRank":0,"worldSize":1,"startLayer":0,"endLayer":1,"nLayers":1}}}`, 422, "invalid_value", "shardMetadata.modelCard.modelId"},
		{"POST", "/download/cancel", `{"targetNodeId":"n9","modelId":"` + smol + `"}`, 404, "node_not_found", "targetNodeId"},
		{"DELETE", "/download/n1/no/such", "", 404, "model_not_found", "model_id"},
		{"POST", "/models/add", `{"model_id":"no/such"}`, 404, "model_not_found", "model_id"},
		{"POST", "/models/add", `{}`, 422, "invalid_value", "model_id"},
		{"DELETE", "/models/custom/no/such", "", 404, "not_found", ""},
		{"GET", "/models/search?limit=0", "", 422, "invalid_value", "limit"},
		{"POST", "/v1/instance-links", `{}`, 404, "not_found", ""},
		{"GET", "/v1/traces/x/stats", "", 404, "not_found", ""},
		{"POST", "/v1/traces/delete", `{}`, 422, "invalid_value", "taskIds"},
		{"POST", "/bench/chat/completions", `{"model":"nix","messages":[{"role":"user","content":"Hi"}]}`, 404, "model_not_found", "model"},
		{"POST", "/bench/chat/completions", `{"model":`, 400, "invalid_json", ""},
		{"POST", "/bench/chat/completions", `{"model":"` + smol + `","messages":[{"role":"user","content":"Hi"}],"n":2}`, 422, "invalid_value", "n"},
		{"POST", "/bench/chat/completions", `{"model":"` + smol + `","messages":[{"role":"user","content":"Hi"}],"use_prefix_cache":1}`, 422, "invalid_value", "use_prefix_cache"},
	} {
		r := call(h, c.method, c.path, c.body)
		var e struct {
			Error struct {
				Message, Type string
				Param, Code   *string
			}
		}
		if err := json.Unmarshal(r.Body.Bytes(), &e); err != nil || e.Error.Message == "" || e.Error.Type == "" || e.Error.Code == nil {
			t.Errorf("%s %.80s %.80s: no error object: %.200s", c.method, c.path, c.body, r.Body)
			continue
		}
		param := ""
		if e.Error.Param != nil {
			param = *e.Error.Param
		}
		if r.Code != c.status || *e.Error.Code != c.code || param != c.param {
			t.Errorf("%s %.80s %.80s: got %d %s %q, want %d %s %q: %s", c.method, c.path, c.body, r.Code, *e.Error.Code, param, c.status, c.code, c.param, e.Error.Message)
		}
	}
	if n := len(w.current().Instances); n > 0 {
		t.Errorf("%d instances were placed", n)
	}
}

// Who deletes an instance and creates the next does not have to wait until its
// memory is given back.
func TestPatience(t *testing.T) { synctest.Test(t, testPatience) }

func testPatience(t *testing.T) {
	w := newWorld(t, 1)
	free := func(bytes int64) {
		w.edit("n1", func(v *cluster.Vitals) { v.Devices = []cluster.DeviceVitals{{Total: 24 * gb, Available: bytes}} })
	}
	free(150 << 20)
	h := serve(t, w, func(o *raw.Options) { o.Patience = time.Minute })
	body := `{"model_id":"` + smol + `"}`
	if r := call(h, "POST", "/place_instance", body); r.Code != 200 {
		t.Fatalf("status %d: %s", r.Code, r.Body)
	}
	// A second one has no room, and nothing is being given back: at once.
	if r := call(h, "POST", "/place_instance", body); r.Code != 507 {
		t.Fatalf("a second one: status %d: %s", r.Code, r.Body)
	}
	w.report(cluster.Ready)
	free(20 << 20)
	id := ""
	for k := range w.current().Instances {
		id = k
	}
	if r := call(h, "DELETE", "/instance/"+id, ""); r.Code != 200 {
		t.Fatalf("status %d: %s", r.Code, r.Body)
	}
	for _, path := range []string{"/instance/" + id, "/state/instances/" + id, "/state/runners/" + id + "-0"} {
		if r := call(h, "GET", path, ""); r.Code != 404 {
			t.Errorf("%s of a deleted instance: status %d", path, r.Code)
		}
	}
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- call(h, "POST", "/place_instance", body) }()
	time.Sleep(3 * time.Second)
	synctest.Wait()
	select {
	case r := <-done:
		t.Fatalf("it did not wait: status %d: %s", r.Code, r.Body)
	default:
	}
	free(150 << 20)
	w.must(cluster.ShardReported{Instance: id, Shard: 0, Incarnation: 1, Phase: cluster.Stopped})
	if r := <-done; r.Code != 200 {
		t.Errorf("once the memory is back: status %d: %s", r.Code, r.Body)
	}
}

func TestAwait(t *testing.T) {
	w := newWorld(t, 2)
	h := serve(t, w)
	if r := call(h, "GET", "/instance/await?model_id="+smol+"&timeout_seconds=0.01", ""); r.Code != 200 || !strings.Contains(r.Body.String(), `data: {"type":"timeout","message":"no instance of `) {
		t.Errorf("status %d: %s", r.Code, r.Body)
	}
	done := make(chan string)
	go func() { done <- call(h, "GET", "/instance/await?model_id="+smol, "").Body.String() }()
	if r := call(h, "POST", "/place_instance", `{"model_id":"`+smol+`","min_nodes":2}`); r.Code != 200 {
		t.Fatalf("status %d: %s", r.Code, r.Body)
	}
	w.report(cluster.Loaded)
	w.report(cluster.Ready)
	got := <-done
	data, ok := strings.CutPrefix(got, ": keep-alive\n\ndata: ")
	var e struct {
		Type     string `json:"type"`
		Instance struct {
			Ring struct {
				ID          string `json:"instance_id"`
				Assignments struct {
					Runners map[string]map[string]struct {
						Card struct {
							Size struct {
								Bytes int64 `json:"in_bytes"`
							} `json:"storage_size"`
						} `json:"model_card"`
						Rank int `json:"device_rank"`
					} `json:"runner_to_shard"`
				} `json:"shard_assignments"`
			} `json:"MlxRingInstance"`
		} `json:"instance"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil || !ok || e.Type != "ready" || e.Instance.Ring.ID == "" || len(e.Instance.Ring.Assignments.Runners) != 2 {
		t.Fatalf("%v: %s", err, got)
	}
	for _, s := range e.Instance.Ring.Assignments.Runners {
		if s[shape.PipelineShard].Card.Size.Bytes != 101e6 {
			t.Errorf("got %+v", s)
		}
	}
}

// A server that stops does not wait for those who wait.
func TestCloseEndsAwait(t *testing.T) {
	w := newWorld(t, 1)
	var d *raw.Dialect
	serve(t, w, func(o *raw.Options) {
		var err error
		if d, err = raw.New(*o); err != nil {
			t.Fatal(err)
		}
	})
	s, err := httpapi.New(httpapi.Options{Address: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Mount(d)
	done := make(chan struct{})
	go func() { defer close(done); call(s.Handler(), "GET", "/instance/await?model_id="+smol, "") }()
	d.Close()
	<-done
}

// What is measured is measured: all tokens, nothing from the cache.
func TestBench(t *testing.T) {
	const chat = `{"model":"` + smol + `","messages":[{"role":"user","content":"Hi"}],"max_tokens":5,"stop":"word","logprobs":true,"enable_thinking":false`
	for _, c := range []struct {
		body    string
		noCache bool
	}{{chat + `}`, true}, {chat + `,"use_prefix_cache":false}`, true}, {chat + `,"use_prefix_cache":true}`, false}, {chat + `,"use_prefix_cache":null,"stream":true}`, true}} {
		w := newWorld(t, 1)
		if r := call(serve(t, w), "POST", "/bench/chat/completions", c.body); r.Code != 200 {
			t.Fatalf("status %d: %s", r.Code, r.Body)
		}
		if len(w.asked) != 1 {
			t.Fatalf("%d requests", len(w.asked))
		}
		if q := w.asked[0]; !q.IgnoreEnd || q.NoCache != c.noCache || q.Stop != nil || q.Logprobs || q.MaxTokens != 5 || q.ID == "" {
			t.Errorf("%s asks for %+v", c.body, q)
		}
	}
	w := newWorld(t, 1)
	w.answer = func(_ generation.Request, emit func(generation.Event) error) error {
		return emit(generation.Event{Reasoning: "Hm.", Text: "Yes", FinishReason: generation.FinishLength, Usage: &generation.Usage{PromptTokens: 41, CompletionTokens: 11, CachedTokens: 1, PrefillSeconds: 0.5, DecodeSeconds: 2}})
	}
	h := serve(t, w)
	r := call(h, "POST", "/bench/chat/completions", chat+`}`)
	for _, want := range []string{`"content":"Yes","reasoning_content":"Hm."`, `"prompt_tps":80,"generation_tps":5,"prompt_tokens":41,"generation_tokens":11,`, `"prefix_cache_hit":"partial"`, `"total_tokens":52`, `"nodes":[]`} {
		if !strings.Contains(r.Body.String(), want) {
			t.Errorf("no %s in %s", want, r.Body)
		}
	}
	// A failure is one, also in the middle of a stream.
	w.answer = func(_ generation.Request, emit func(generation.Event) error) error {
		if err := emit(generation.Event{Text: "Ye"}); err != nil {
			return err
		}
		return &generation.Error{Kind: generation.KindFailed, Message: "the runner died"}
	}
	if r := call(h, "POST", "/bench/chat/completions", chat+`}`); r.Code != 500 || !strings.Contains(r.Body.String(), "the runner died") {
		t.Errorf("status %d: %s", r.Code, r.Body)
	}
	if r := call(h, "POST", "/bench/chat/completions", chat+`,"stream":true}`); !strings.Contains(r.Body.String(), `data: {"error":{"message":"the runner died"`) || strings.Contains(r.Body.String(), "DONE") {
		t.Errorf("status %d: %s", r.Code, r.Body)
	}
}

// Power is summed up over time, apart for the prompt and the answer.
func TestPower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		watts := func(x float64) { w.edit("n1", func(v *cluster.Vitals) { v.Power = &x }) }
		watts(100)
		w.answer = func(_ generation.Request, emit func(generation.Event) error) error {
			time.Sleep(2*time.Second + time.Millisecond)
			watts(300)
			if err := emit(generation.Event{Text: "a"}); err != nil {
				return err
			}
			time.Sleep(4 * time.Second)
			return emit(generation.Event{Text: "b", FinishReason: generation.FinishLength, Usage: &generation.Usage{PromptTokens: 1, CompletionTokens: 2}})
		}
		r := call(serve(t, w, func(o *raw.Options) { o.Now = time.Now }), "POST", "/bench/chat/completions", `{"model":"`+smol+`","messages":[{"role":"user","content":"Hi"}]}`)
		var out struct {
			Power struct {
				Elapsed    float64 `json:"elapsed_seconds"`
				Prefill    float64 `json:"prefill_seconds"`
				Joules     float64 `json:"total_energy_joules"`
				Watts      float64 `json:"total_avg_sys_power_watts"`
				OfPrefill  float64 `json:"prefill_energy_joules"`
				Generation float64 `json:"generation_avg_sys_power_watts"`
				Nodes      []struct {
					ID      string `json:"node_id"`
					Samples int    `json:"samples"`
				} `json:"nodes"`
			} `json:"power_usage"`
		}
		if err := json.Unmarshal(r.Body.Bytes(), &out); err != nil {
			t.Fatalf("%v: %s", err, r.Body)
		}
		// 100 W for 2 s; it rises to 300 W until the next look, 1 s later.
		p := out.Power
		near := func(what string, got, want float64) {
			if got < want-0.5 || got > want+0.5 {
				t.Errorf("%s is %g, want %g", what, got, want)
			}
		}
		near("elapsed", p.Elapsed, 6)
		near("prefill", p.Prefill, 2)
		near("energy of the prompt", p.OfPrefill, 200)
		near("energy", p.Joules, 200+200+900)
		near("power of the answer", p.Generation, 1100.0/4)
		near("power", p.Watts, 1300.0/6)
		if len(p.Nodes) != 1 || p.Nodes[0].ID != "n1" || p.Nodes[0].Samples != 7 {
			t.Errorf("got %+v, want n1 with 7 samples", p.Nodes)
		}
	})
}

func TestErrands(t *testing.T) {
	w := newWorld(t, 2)
	h := serve(t, w)
	shard := func(model string) string {
		return `{"PipelineShardMetadata":{"modelCard":{"modelId":"` + model + `"},"deviceRank":0,"worldSize":1,"startLayer":0,"endLayer":30,"nLayers":30}}`
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "/download/start", `{"targetNodeId":"n2","shardMetadata":` + shard(smol) + `}`, "fetch " + smol + " to n2"},
		{"POST", "/download/start", `{"target_node_id":"node 2","shard_metadata":` + strings.ReplaceAll(shard("SMOL-q4_1"), "modelId", "model_id") + `}`, "fetch " + smol + " to n2"},
		{"POST", "/download/cancel", `{"targetNodeId":"n2","modelId":"` + smol + `"}`, "pause " + smol + " on n2"},
		{"DELETE", "/download/n2/" + smol, "", "discard " + smol + " on n2"},
		{"POST", "/v1/cancel/open", "", "cancel open"},
		{"DELETE", "/models/custom/" + smol, "", "unlist " + smol},
		{"DELETE", "/models/custom/SMOL-q4_1", "", "unlist " + smol},
		{"POST", "/onboarding", "", "finish onboarding"},
	} {
		w.errands = nil
		r := call(h, c.method, c.path, c.body)
		if r.Code != 200 || !slices.Equal(w.errands, []string{c.want}) {
			t.Errorf("%s %s: status %d, asked for %q, want %q: %s", c.method, c.path, r.Code, w.errands, c.want, r.Body)
		}
	}
	w.refuse = &command.Refusal{Code: command.InUse, Message: "it is in use"}
	if r := call(h, "DELETE", "/download/n2/"+smol, ""); r.Code != 409 {
		t.Errorf("status %d: %s", r.Code, r.Body)
	}
	w.refuse = manage.NoMaster("nobody leads")
	if r := call(h, "DELETE", "/download/n2/"+smol, ""); r.Code != 503 || r.Header().Get("Retry-After") == "" {
		t.Errorf("status %d: %s", r.Code, r.Body)
	}
}

// Search finds what the cluster has, and nothing else.
func TestSearch(t *testing.T) {
	w := newWorld(t, 1)
	for _, name := range []string{"org/Qwen3-8B-Q4_K_M", "org/Qwen3-8B-Q8_0", "demo"} {
		w.must(cluster.ModelKnown{Model: cluster.Model{Name: name, Profile: profile(), Files: []cluster.File{{Name: name, Size: 5, SHA256: name}}, Holders: []ids.Node{"n1"}}})
	}
	w.must(cluster.ModelKnown{Model: cluster.Model{Name: "org/Qwen3-lost", Profile: profile(), Files: []cluster.File{{Name: "lost", Size: 5, SHA256: "lost"}}, Holders: []ids.Node{"n1"}}})
	w.must(cluster.FilesMoved{Node: "n1", Model: "org/Qwen3-lost", Gone: true})
	h := serve(t, w)
	for query, want := range map[string]string{
		"?query=qwen": "org/Qwen3-8B-Q4_K_M org/Qwen3-8B-Q8_0", "?query=q8+QWEN": "org/Qwen3-8B-Q8_0", "?query=llama": "",
		"": "demo " + smol + " org/Qwen3-8B-Q4_K_M org/Qwen3-8B-Q8_0", "?limit=1&query=8b": "org/Qwen3-8B-Q4_K_M",
	} {
		var list []struct {
			ID     string   `json:"id"`
			Author *string  `json:"author"`
			Tags   []string `json:"tags"`
		}
		r := call(h, "GET", "/models/search"+query, "")
		if err := json.Unmarshal(r.Body.Bytes(), &list); err != nil || r.Code != 200 {
			t.Fatalf("%s: status %d, %v: %s", query, r.Code, err, r.Body)
		}
		var got []string
		for _, m := range list {
			got = append(got, m.ID)
			if m.Author == nil || m.Tags == nil {
				t.Errorf("%+v is not whole", m)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	if r := call(h, "GET", "/models/custom", ""); strings.TrimSpace(r.Body.String()) != `{"models":[{"model_id":"`+smol+`","node_ids":["n1","n2"]}]}` {
		t.Errorf("custom models: %s", r.Body)
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t, 1)
	var list []map[string]map[string]any
	r := call(serve(t, w), "GET", "/events", "")
	if err := json.Unmarshal(r.Body.Bytes(), &list); err != nil || len(list) != 2 {
		t.Fatalf("%v: %s", err, r.Body)
	}
	if e := list[1]["ModelKnown"]; e["event_id"] != "2" || e["when"] != "2026-11-22T04:20:00Z" || e["model"] == nil {
		t.Errorf("got %v", list[1])
	}
	w.log = nil
	if r := call(serve(t, w), "GET", "/events", ""); strings.TrimSpace(r.Body.String()) != "[]" {
		t.Errorf("got %s", r.Body)
	}
}

// Nodes of one name, such as several on one machine, are told apart, as they
// are in the management API: the dashboard shows nothing but names.
func TestNamesAreTold(t *testing.T) {
	w := newWorld(t, 3)
	for _, id := range []ids.Node{"n1", "n3"} {
		n := w.current().Nodes[id]
		n.Name = "vm"
		w.must(cluster.NodeSeen{Node: n})
	}
	var identities map[string]struct{ FriendlyName string }
	if err := json.Unmarshal(call(serve(t, w), "GET", "/state/nodeIdentities", "").Body.Bytes(), &identities); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"n1": "vm-n1", "n2": "node 2", "n3": "vm-n3"} {
		if got := identities[id].FriendlyName; got != want {
			t.Errorf("%s is %q, want %q", id, got, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := raw.New(raw.Options{}); err == nil {
		t.Error("nothing was given, and nothing said")
	}
}

var errLost = errors.New("lost")

// An error that nobody expected is a 500 without its text.
func TestStrangeErrors(t *testing.T) {
	w := newWorld(t, 1)
	w.refuse = errLost
	if r := call(serve(t, w), "DELETE", "/download/n1/"+smol, ""); r.Code != 500 || strings.Contains(r.Body.String(), "lost") {
		t.Errorf("status %d: %s", r.Code, r.Body)
	}
}
