package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/api"
)

// Each tool sends the request that it describes.
func TestToolsAsk(t *testing.T) {
	n := newFakeNode(t)
	n.answer = map[string]any{
		"GET /v1/cluster": api.Overview{NodeCount: 3}, "GET /v1/cluster/health": api.Health{Healthy: true},
		"GET /v1/cluster/nodes": api.NodeList{NodeCount: 3}, "GET /v1/cluster/nodes/studio": api.Node{NodeID: "n1"},
		"GET /v1/cluster/models/org/m/status": api.ModelStatus{ModelID: "org/m", Status: "ready"},
		"POST /v1/cluster/models/load":        api.LoadAnswer{ModelID: "m", InstanceID: "i"},
		"POST /v1/cluster/models/swap":        api.SwapAnswer{LoadedModel: "b", InstanceID: "i"},
		"DELETE /v1/cluster/models/m":         api.UnloadAnswer{ModelID: "m", FreedMemoryGB: 1.5},
		"GET /v1/cluster/models":              api.ClusterModels{Loaded: []api.Model{{ModelID: "m", Ready: true}}},
		"GET /v1/cluster/library":             api.LibraryList{Models: []api.LibraryEntry{{Name: "m", SizeGB: 4.5, Architecture: "llama"}}},
		"GET /v1/models":                      map[string]any{"data": []map[string]any{{"id": "m", "context_length": 512}, {"id": "away"}}},
	}
	s := n.session(t, nil)
	for _, c := range []struct{ tool, arguments, asked, told string }{
		{"cluster_overview", `{}`, "GET /v1/cluster", `"node_count":3`},
		{"cluster_health", `{}`, "GET /v1/cluster/health", `"healthy":true`},
		{"list_nodes", `null`, "GET /v1/cluster/nodes", `"node_count":3`},
		{"list_nodes", ``, "GET /v1/cluster/nodes", `"node_count":3`},
		{"get_node", `{"node":"studio"}`, "GET /v1/cluster/nodes/studio", `"node_id":"n1"`},
		{"list_models", `{}`, "GET /v1/cluster/library", `{"model_id":"m","loaded":true,"size_gb":4.5,"architecture":"llama","quantization":"","parameters":0,"context_length":512},{"model_id":"away","loaded":false`},
		{"model_status", `{"model_id":"org/m"}`, "GET /v1/cluster/models/org/m/status", `"status":"ready"`},
		{"plan_load", `{"model_id":"m","min_nodes":2,"preferred_sharding":"tensor","node_ids":["a"],"context_length":512,"slots":null,"replicas":2}`,
			`POST /v1/cluster/models/load {"model_id":"m","min_nodes":2,"preferred_sharding":"tensor","node_ids":["a"],"context_length":512,"dry_run":true,"replicas":2}`, `"instance_id":"i"`},
		{"load_model", `{"model_id":"m","wait_seconds":0}`, `POST /v1/cluster/models/load {"model_id":"m"}`, `"status":"unknown","ready":false`},
		{"plan_swap", `{"unload_model_id":"a","load_model_id":"b"}`, `POST /v1/cluster/models/swap {"unload_model_id":"a","load_model_id":"b","dry_run":true}`, `"loaded_model":"b"`},
		{"swap_models", `{"unload_model_id":"a","load_model_id":"b","drain_seconds":0,"wait_seconds":0,"slots":2}`,
			`POST /v1/cluster/models/swap {"unload_model_id":"a","load_model_id":"b","slots":2,"drain_seconds":0}`, `call model_status with model_id \"b\"`},
		{"unload_model", `{"model_id":"m","drain_seconds":2.5}`, "DELETE /v1/cluster/models/m?drain_seconds=2.5", `"freed_memory_gb":1.5`},
		{"unload_model", `{"model_id":"m"}`, "DELETE /v1/cluster/models/m", `"freed_memory_gb":1.5`},
	} {
		n.asked = nil
		text, r := ask(t, s, c.tool, c.arguments)
		if r.IsError || !slices.Contains(n.asked, c.asked) || !strings.Contains(text, c.told) {
			t.Errorf("%s %s: asked %q, told %s", c.tool, c.arguments, n.asked, text)
		}
		structured, err := json.Marshal(r.StructuredContent)
		if err != nil || !json.Valid(structured) || string(structured) == "null" {
			t.Errorf("%s: structured %s, %v", c.tool, structured, err)
		}
	}
}

// What a tool answers fits the schema that it promises, also when it is empty.
func TestAnswersFitTheirSchemas(t *testing.T) {
	n := newFakeNode(t)
	for _, route := range []string{"GET /v1/cluster", "GET /v1/cluster/health", "GET /v1/cluster/nodes", "GET /v1/cluster/nodes/x", "GET /v1/cluster/models/x/status",
		"GET /v1/cluster/models", "GET /v1/cluster/library", "GET /v1/models", "POST /v1/cluster/models/load", "POST /v1/cluster/models/swap", "DELETE /v1/cluster/models/x"} {
		n.answer[route] = json.RawMessage(`{}`)
	}
	// A node never sends null for a list; these are its least answers.
	n.answer["GET /v1/cluster"] = json.RawMessage(`{"nodes":[],"models":[],"tasks":[],"downloads":[]}`)
	n.answer["GET /v1/cluster/nodes"] = json.RawMessage(`{"nodes":[]}`)
	n.answer["GET /v1/cluster/nodes/x"] = json.RawMessage(`{"ip_addresses":[],"connection_types":[],"loaded_models":[],"roles":[],"accelerators":[],"unmeasured":[],"status":"online"}`)
	n.answer["GET /v1/cluster/models/x/status"] = json.RawMessage(`{"nodes":[],"status":"ready"}`)
	n.answer["GET /v1/cluster/models"] = json.RawMessage(`{"loaded":[],"downloading":[]}`)
	n.answer["POST /v1/cluster/models/load"] = json.RawMessage(`{"placement":{},"alternatives":[]}`)
	n.answer["POST /v1/cluster/models/swap"] = json.RawMessage(`{"placement":{}}`)
	n.answer["DELETE /v1/cluster/models/x"] = json.RawMessage(`{"instance_ids":[]}`)
	n.answer["POST /v1/chat/completions"] = "data: {\"model\":\"x\",\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
	arguments := map[string]string{
		"get_node": `{"node":"x"}`, "model_status": `{"model_id":"x"}`, "plan_load": `{"model_id":"x"}`, "load_model": `{"model_id":"x","wait_seconds":0}`,
		"unload_model": `{"model_id":"x"}`, "plan_swap": `{"unload_model_id":"a","load_model_id":"x"}`, "swap_models": `{"unload_model_id":"a","load_model_id":"x","wait_seconds":0}`,
		"chat": `{"model_id":"x","messages":[{"role":"user","content":"hi"}]}`,
	}
	s := n.session(t, nil)
	list, err := s.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range list.Tools {
		text, r := ask(t, s, tool.Name, arguments[tool.Name])
		if r.IsError {
			t.Errorf("%s: %s", tool.Name, text)
			continue
		}
		var schema jsonschema.Schema
		data, err := json.Marshal(tool.OutputSchema)
		if err == nil {
			err = json.Unmarshal(data, &schema)
		}
		if err != nil {
			t.Fatal(err)
		}
		resolved, err := schema.Resolve(nil)
		if err != nil {
			t.Fatalf("%s: %v", tool.Name, err)
		}
		if err := resolved.Validate(r.StructuredContent); err != nil {
			t.Errorf("%s: %v in %s", tool.Name, err, text)
		}
	}
}

// An error of the API is the answer, with the next step in the words of the
// tools; an argument that does not fit never reaches the node.
func TestErrorsNameTheNextStep(t *testing.T) {
	n := newFakeNode(t)
	n.answer["POST /v1/cluster/models/load"] = refused{api.NewError(507, api.CodeNoMemory, "", "Need 45.0 GB, have 30.0 GB.")}
	busy := api.NewError(503, api.CodeNoMaster, "", "there is no master")
	busy.RetryAfter = 2
	n.answer["DELETE /v1/cluster/models/m"] = refused{busy}
	n.answer["GET /v1/cluster/nodes/x"] = refused{api.NewError(403, "", "", "this key may not")}
	n.answer["GET /v1/cluster"] = refused{api.NewError(500, api.CodeInternal, "", "internal error")}
	s := n.session(t, nil)
	for _, c := range []struct {
		tool, arguments, want string
		sent                  bool
	}{
		{"load_model", `{"model_id":"m"}`, "Need 45.0 GB, have 30.0 GB.\nNext: unload a model that nobody needs (unload_model)", true},
		{"unload_model", `{"model_id":"m"}`, "there is no master\nNext: call cluster_health; an election takes a few seconds, then call again. Reading and chat with loaded models work meanwhile. The node asks for 2 s.", true},
		{"get_node", `{"node":"x"}`, "this key may not\nNext: the key in use may not do this", true},
		{"cluster_overview", `{}`, "internal error\nNext: wait a few seconds", true},
		{"load_model", `{"model":"m"}`, `there is no argument "model"; there are: context_length, min_nodes, model_id, node_ids, preferred_sharding, replicas, slots, wait_seconds`, false},
		{"load_model", `{"model_id":"m","min_nodes":-1,"preferred_sharding":"ring"}`, "min_nodes: ", false},
		{"load_model", `{"model_id":"m","preferred_sharding":"ring"}`, `preferred_sharding: expected value to be one of "auto, pipeline, tensor"`, false},
		{"load_model", `{}`, "expected required property model_id", false},
		{"load_model", `[1]`, "the arguments must be a JSON object", false},
		{"chat", `{"model_id":"m","messages":[]}`, "messages: ", false},
		{"chat", `{"model_id":"m","messages":[{"role":"robot","content":"x"}]}`, "messages[0].role: ", false},
		{"chat", `{"model_id":"m","messages":[{"role":"user","content":"x"}],"temperature":"hot"}`, "temperature: expected number", false},
	} {
		n.asked = nil
		text, r := ask(t, s, c.tool, c.arguments)
		if !r.IsError || !strings.Contains(text, c.want) || len(n.asked) > 0 != c.sent || !strings.Contains(text, "\nNext: ") {
			t.Errorf("%s %s: %v %q, asked %q", c.tool, c.arguments, r.IsError, text, n.asked)
		}
	}
	_, r := ask(t, s, "load_model", `{"model_id":"m"}`)
	if got := fmt.Sprint(r.Meta["skein.run/error"]); got != "map[code:insufficient_memory status:507 type:server_error]" {
		t.Errorf("for programs: %s", got)
	}
	n.Server.CloseClientConnections()
	n.Server.Close()
	if text, r := ask(t, s, "cluster_health", `{}`); !r.IsError || !strings.Contains(text, "no node answers at") || !strings.Contains(text, "skein serve") {
		t.Errorf("without a node: %q", text)
	}
}

// A load is waited for with progress, and time that is up is no error.
func TestLoadWaits(t *testing.T) {
	model := func(status, progress string, percent float64) api.Event {
		m := api.Model{ModelID: "m", ModelName: "m", InstanceID: "i", Status: status, Ready: status == api.StatusReady, Progress: progress, ProgressPercent: percent}
		if status == api.StatusFailed {
			m.Error = "no disk"
		}
		return api.Event{ID: "e.1", Type: api.EventModel, Change: api.ChangeChanged, Model: &m}
	}
	for _, c := range []struct {
		name   string
		stream []api.Event
		wait   string
		want   string
		error  bool
		said   []string
	}{
		{"ready", []api.Event{model("downloading", "1 of 2 GB", 50), model("loading", "layer 1/2", 50), model("loading", "layer 1/2", 50), model("ready", "ready", 100)}, "60",
			`"status":"ready","ready":true,"progress":"ready","next_step":"It can be used: call chat with model_id \"m\"."`, false,
			[]string{"m is downloading: 1 of 2 GB", "m is loading: layer 1/2", "m is ready"}},
		{"late", []api.Event{model("loading", "layer 1/2", 50)}, "0.05", `"next_step":"Not ready after 50ms. It goes on`, false, nil},
		{"failed", []api.Event{model("failed", "", 0)}, "60", "m failed: no disk\nNext: read the reason", true, nil},
	} {
		n := newFakeNode(t)
		n.stream = c.stream
		n.answer["POST /v1/cluster/models/load"] = api.LoadAnswer{ModelID: "m", InstanceID: "i"}
		var mu sync.Mutex
		var said []string
		all := make(chan struct{})
		s := n.session(t, func(message string) {
			mu.Lock()
			defer mu.Unlock()
			if said = append(said, message); len(said) == len(c.said) {
				close(all)
			}
		})
		params := &sdk.CallToolParams{Name: "load_model", Arguments: json.RawMessage(`{"model_id":"m","wait_seconds":` + c.wait + `}`)}
		params.SetProgressToken("p")
		r, err := s.CallTool(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		if text := r.Content[0].(*sdk.TextContent).Text; r.IsError != c.error || !strings.Contains(text, c.want) {
			t.Errorf("%s: %v %s", c.name, r.IsError, text)
		}
		if c.said == nil {
			continue
		}
		<-all // notifications come in their own time
		mu.Lock()
		if !slices.Equal(said, c.said) {
			t.Errorf("%s: said %q", c.name, said)
		}
		mu.Unlock()
	}
}

// An answer is text for those who show it, with its counts beside.
func TestChat(t *testing.T) {
	n := newFakeNode(t)
	n.answer["POST /v1/chat/completions"] = `data: {"model":"org/m","choices":[{"delta":{"reasoning_content":"hm"}}]}

data: {"model":"org/m","choices":[{"delta":{"content":"Hello"},"finish_reason":"length"}]}

data: {"model":"org/m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}

data: [DONE]

`
	s := n.session(t, nil)
	text, r := ask(t, s, "chat", `{"model_id":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}],"max_tokens":3,"temperature":0,"seed":7}`)
	got, err := json.Marshal(r.StructuredContent)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"finish_reason":"length","model_id":"org/m","reasoning":"hm","text":"Hello","usage":{"cached_tokens":4,"completion_tokens":3,"prompt_tokens":7,"reasoning_tokens":1,"total_tokens":10}}`
	if string(got) != want || !strings.HasPrefix(text, "Hello\n[cut off") {
		t.Errorf("%s\n%s", text, got)
	}
	const asked = `POST /v1/chat/completions {"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}],"temperature":0,"seed":7,"max_completion_tokens":3,"stream":true,"stream_options":{"include_usage":true}}`
	if len(n.asked) != 1 || n.asked[0] != asked {
		t.Errorf("asked %q", n.asked)
	}
	n.answer["POST /v1/chat/completions"] = "data: {\"choices\":[{\"delta\":{\"content\":\"He\"}}]}\n\n"
	if text, r := ask(t, s, "chat", `{"model_id":"m","messages":[{"role":"user","content":"Hi"}]}`); !r.IsError || !strings.Contains(text, "broke off") {
		t.Errorf("half an answer: %q", text)
	}
}

// Events are told in sentences, from where the last call ended.
func TestEvents(t *testing.T) {
	master, none := "n2", ""
	n := newFakeNode(t)
	s := n.session(t, nil)
	if text, _ := ask(t, s, "recent_events", `{}`); text != `{"events":[],"last_event_id":"e.0","gap":""}` {
		t.Errorf("first: %s", text)
	}
	n.stream = []api.Event{
		{ID: "e.1", Type: api.EventNode, Change: api.ChangeChanged, Timestamp: 1.5, Node: &api.Node{NodeID: "n1", FriendlyName: "studio", Status: api.NodeStale}},
		{ID: "e.2", Type: api.EventModel, Change: api.ChangeAdded, Model: &api.Model{ModelID: "org/m", ModelName: "m", Status: api.StatusLoading, Progress: "layer 1/2"}},
		{ID: "e.3", Type: api.EventModel, Change: api.ChangeRemoved, Model: &api.Model{ModelID: "org/m", ModelName: "m", InstanceID: "i"}},
		{ID: "e.4", Type: api.EventDownload, Change: api.ChangeChanged, Download: &api.Download{ModelID: "m", NodeName: "studio", Status: api.DownloadFailed, TotalGB: 2, Error: "no disk"}},
		{ID: "e.5", Type: api.EventMaster, MasterNodeID: &none},
		{ID: "e.6", Type: api.EventMaster, MasterNodeID: &master},
		{ID: "e.7", Type: api.EventTask, Change: api.ChangeRemoved, Task: &api.Task{TaskID: "t", TaskType: "chat", ModelID: "m"}},
	}
	text, r := ask(t, s, "recent_events", `{"after":"e.0","wait_seconds":60,"limit":7}`)
	var got events
	if err := json.Unmarshal([]byte(text), &got); err != nil || r.IsError {
		t.Fatalf("%s: %v", text, err)
	}
	var sentences []string
	for _, e := range got.Events {
		sentences = append(sentences, e.Subject+": "+e.Summary)
	}
	want := []string{"n1: node studio is stale", "org/m: m is loading: layer 1/2", "org/m: m is no longer loaded (instance i)",
		"m: m to studio is failed, 0.0 of 2.0 GB: no disk", ": there is no master any more", "n2: the master is n2", "t: chat on m is done"}
	if !slices.Equal(sentences, want) || got.LastEventID != "e.7" {
		t.Errorf("%q, last %s", sentences, got.LastEventID)
	}
	if last := n.asked[len(n.asked)-1]; !strings.Contains(last, "types=node%2Cmodel%2Cdownload%2Cmaster") {
		t.Errorf("asked %s", last)
	}
	n.stream = []api.Event{{ID: "e.9", Type: api.EventSnapshot, Reason: "too old", Cluster: &api.Overview{}}}
	if text, _ := ask(t, s, "recent_events", `{"after":"e.7"}`); text != `{"events":[],"last_event_id":"e.9","gap":"too old"}` {
		t.Errorf("after a gap: %s", text)
	}
}

func TestResources(t *testing.T) {
	n := newFakeNode(t)
	n.answer = map[string]any{
		"GET /v1/cluster": api.Overview{NodeCount: 3}, "GET /v1/cluster/nodes/my studio": api.Node{NodeID: "n1"},
		"GET /v1/cluster/models/org/m/status": api.ModelStatus{ModelID: "org/m", Found: true},
		"GET /v1/cluster/models/x/status":     api.ModelStatus{ModelID: "x", Error: "there is no model x"},
		"GET /v1/cluster/models":              api.ClusterModels{Loaded: []api.Model{{ModelID: "org/m", InstanceID: "i"}, {ModelID: "other"}}},
		"GET /v1/cluster/health":              refused{api.NewError(503, api.CodeUnavailable, "", "the node starts")},
	}
	s := n.session(t, nil)
	list, err := s.ListResources(t.Context(), nil)
	if err != nil || len(list.Resources) != 4 {
		t.Errorf("%+v, %v", list, err)
	}
	templates, err := s.ListResourceTemplates(t.Context(), nil)
	if err != nil || len(templates.ResourceTemplates) != 2 {
		t.Errorf("%+v, %v", templates, err)
	}
	for uri, want := range map[string]string{
		"skein://cluster":           `"node_count":3`,
		"skein://nodes/my%20studio": `"node_id":"n1"`,
		"skein://models/org/m":      `"instances":[{"instance_id":"i"`,
		"skein://models/x":          "error: there is no model x",
		"skein://health":            "error: the node starts",
		"skein://nothing":           "error: Resource not found",
	} {
		got := ""
		if r, err := s.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri}); err != nil {
			got = "error: " + err.Error()
		} else {
			got = r.Contents[0].Text
		}
		if e, isError := strings.CutPrefix(want, "error: "); isError && (!strings.HasPrefix(got, "error: ") || !strings.Contains(got, e)) || !isError && !strings.Contains(got, want) {
			t.Errorf("%s: %s", uri, got)
		}
	}
}
