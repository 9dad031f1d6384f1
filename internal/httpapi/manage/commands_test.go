package manage

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/ids"
)

// What a client asks for reaches the node with full names and ids.
func TestCommandsAreUnderstood(t *testing.T) {
	f := newFake()
	h := serve(t, f)
	// curl -d sends a form's Content-Type.
	form := []string{"Content-Type", "application/x-www-form-urlencoded", "Idempotency-Key", "key-1"}
	if w := call(h, "POST", "/v1/cluster/models/load", `{"model_id":"ORG/new-gguf","node_ids":["STUDIO","n2"],"min_nodes":2,"preferred_sharding":"tensor","context_length":100,"slots":3,"replicas":2,"dry_run":true}`, form...); w.Code != 200 {
		t.Fatalf("load: %d %s", w.Code, w.Body)
	}
	want := command.Load{Model: "org/New-GGUF", Context: 100, Slots: 3, Sharding: placement.Tensor, MinNodes: 2, Require: []ids.Node{"n1", "n2"}, Replicas: 2}
	if diff := cmp.Diff(want, f.load); diff != "" || keyOf(f.id) != "key-1" || !f.dryRun {
		t.Errorf("load as %q, dry run %v (-want +got):\n%s", f.id, f.dryRun, diff)
	}
	if w := call(h, "POST", "/v1/cluster/models/swap/", `{"unload_model_id":"READY-gguf","load_model_id":"m","drain_seconds":1.5,"slots":1}`); w.Code != 200 {
		t.Fatalf("swap: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff(Swap{Unload: "org/Ready-GGUF", Load: command.Load{Model: "m", Slots: 1, Sharding: placement.Auto}, Drain: 1500 * time.Millisecond}, f.swap); diff != "" {
		t.Errorf("swap (-want +got):\n%s", diff)
	}
	call(h, "POST", "/v1/cluster/models/swap", `{"unload_model_id":"READY-gguf","load_model_id":"m"}`)
	if f.swap.Drain != 30*time.Second {
		t.Errorf("a swap drains for %v", f.swap.Drain)
	}
	for path, drain := range map[string]time.Duration{"": 30 * time.Second, "?drain_seconds=0": 0, "/?drain_seconds=2.5": 2500 * time.Millisecond} {
		f.model = ""
		if w := call(h, "DELETE", "/v1/cluster/models/org/Ready-GGUF"+path, ""); w.Code != 200 || f.model != "org/Ready-GGUF" || f.drain != drain {
			t.Errorf("unload%s: %d %s, model %q, drain %v", path, w.Code, w.Body, f.model, f.drain)
		}
	}
	if w := call(h, "POST", "/v1/cluster/nodes/mini/drain/", ""); w.Code != 200 || f.node != "n2" || f.resume {
		t.Errorf("drain: %d %s, node %q", w.Code, w.Body, f.node)
	}
	if w := call(h, "POST", "/v1/cluster/nodes/mini/resume", ""); w.Code != 200 || !f.resume || keyOf(f.id) != "made-up" {
		t.Errorf("resume: %d %s", w.Code, w.Body)
	}
	if w := call(h, "POST", "/v1/cluster/master", `{"node_id":"mini"}`); w.Code != 200 || f.node != "n2" {
		t.Errorf("promote: %d %s", w.Code, w.Body)
	}
}

// A command that comes again is answered again, though the model is gone by
// then, or loaded.
func TestCommandComesAgain(t *testing.T) {
	f := newFake()
	h := serve(t, f)
	key := []string{"Idempotency-Key", "k"}
	did := map[string]cluster.CommandOutcome{}
	ask := []func(key ...string) *httptest.ResponseRecorder{
		func(key ...string) *httptest.ResponseRecorder {
			return call(h, "DELETE", "/v1/cluster/models/Ready-GGUF", "", key...)
		},
		func(key ...string) *httptest.ResponseRecorder {
			return call(h, "POST", "/v1/cluster/models/swap", `{"unload_model_id":"Ready-GGUF","load_model_id":"m"}`, key...)
		},
	}
	for k, do := range ask {
		if w := do("Idempotency-Key", fmt.Sprint("k", k)); w.Code != 200 {
			t.Fatalf("%d: %d %s", k, w.Code, w.Body)
		}
		did[f.id] = cluster.CommandOutcome{Index: 3}
	}
	f.change(func(in *view.Inputs) {
		in.State.Commands = did
		in.State.Wanted, in.State.Instances = nil, nil
	})
	for k, do := range ask {
		if w := do("Idempotency-Key", fmt.Sprint("k", k)); w.Code != 200 {
			t.Errorf("again %d: %d %s", k, w.Code, w.Body)
		}
	}
	// The same key for something else is a mistake, whatever else it is.
	for name, other := range map[string]*httptest.ResponseRecorder{
		"another model":   call(h, "DELETE", "/v1/cluster/models/m", "", "Idempotency-Key", "k0"),
		"another drain":   call(h, "DELETE", "/v1/cluster/models/Ready-GGUF?drain_seconds=1", "", "Idempotency-Key", "k0"),
		"another command": call(h, "POST", "/v1/cluster/models/load", `{"model_id":"m"}`, "Idempotency-Key", "k0"),
		"another body":    call(h, "POST", "/v1/cluster/models/swap", `{"unload_model_id":"Ready-GGUF","load_model_id":"m","slots":2}`, "Idempotency-Key", "k1"),
	} {
		if other.Code != 422 || !strings.Contains(other.Body.String(), `"code":"key_reused"`) || !strings.Contains(other.Body.String(), `"param":"Idempotency-Key"`) {
			t.Errorf("%s: %d %s", name, other.Code, other.Body)
		}
	}
	f = newFake()
	f.again = true
	w := call(serve(t, f), "POST", "/v1/cluster/models/load", `{"model_id":"ready-gguf"}`, key...)
	var out api.LoadAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.CommandID != "k" || out.InstanceID != "i1" || out.Placement["n1"] != "whole" || out.EstimatedMemoryGB != 20 {
		t.Errorf("load: %d %s, %v", w.Code, w.Body, err)
	}
}

// What a node has applied may lag behind what another one was just answered, so
// only the master says that nothing is loaded.
func TestUnloadAsksTheMaster(t *testing.T) {
	f := newFake()
	if w := call(serve(t, f), "DELETE", "/v1/cluster/models/M", ""); w.Code != 200 || f.model != "m" {
		t.Errorf("status %d of model %q: %s", w.Code, f.model, w.Body)
	}
}

// Each failure has its code, names its field and says what to do.
func TestErrors(t *testing.T) {
	retry := api.NewError(503, api.CodeUnavailable, "", "starting; ask again")
	retry.RetryAfter = 3
	noMemory := &placement.NoMemoryError{Model: "m", Needed: 45 * gb, Free: 30 * gb, Loaded: []placement.Loaded{{Model: "Qwen3-30B", Memory: 20 * gb}}, Unload: "Qwen3-30B", Busy: true}
	const load, swap = "/v1/cluster/models/load", "/v1/cluster/models/swap"
	const body, swapBody = `{"model_id":"m"}`, `{"unload_model_id":"ready-gguf","load_model_id":"m"}`
	refusal := func(code string) error { return Refused(code, "no: "+code) }
	for _, tt := range []struct {
		name               string
		err                error // of reads
		refuse             error // of commands
		method, path, body string
		status             int
		code, param, text  string
	}{
		{"no JSON", nil, nil, "POST", load, `{"model_id":`, 400, "invalid_body", "", "JSON"},
		{"no body", nil, nil, "POST", load, ``, 400, "invalid_body", "", "body"},
		{"a list", nil, nil, "POST", load, `[1]`, 422, "invalid_value", "", "object"},
		{"field missing", nil, nil, "POST", load, `{}`, 422, "invalid_value", "model_id", "model_id"},
		{"field empty", nil, nil, "POST", load, `{"model_id":""}`, 422, "invalid_value", "model_id", "model_id"},
		{"wrong type", nil, nil, "POST", load, `{"model_id":"m","min_nodes":"two"}`, 422, "invalid_value", "min_nodes", "integer"},
		{"null", nil, nil, "POST", load, `{"model_id":null}`, 422, "invalid_value", "model_id", "string"},
		{"negative", nil, nil, "POST", load, `{"model_id":"m","slots":-1}`, 422, "invalid_value", "slots", "0"},
		{"too many replicas", nil, nil, "POST", load, `{"model_id":"m","replicas":65}`, 422, "invalid_value", "replicas", "64"},
		{"unknown word", nil, nil, "POST", load, `{"model_id":"m","preferred_sharding":"ring"}`, 422, "invalid_value", "preferred_sharding", "auto, pipeline, tensor"},
		{"unknown field", nil, nil, "POST", load, `{"model_id":"m","slot":1}`, 422, "invalid_value", "slot", "slot"},
		{"key with a blank", nil, nil, "POST", load + "?key", body, 422, "invalid_value", "Idempotency-Key", "printable ASCII"},
		{"unknown model", nil, nil, "POST", load, `{"model_id":"zzz"}`, 404, "model_not_found", "model_id", "there are: m, org/New-GGUF"},
		{"ambiguous model", nil, nil, "POST", load, `{"model_id":"new-gguf"}`, 409, "ambiguous_model", "model_id", "org/New-GGUF, other/New-GGUF"},
		{"unknown node", nil, nil, "POST", load, `{"model_id":"m","node_ids":["zzz"]}`, 404, "node_not_found", "node_ids", "n1 (studio)"},
		{"ambiguous node", nil, nil, "POST", load, `{"model_id":"m","node_ids":["n"]}`, 409, "ambiguous_node", "node_ids", "n1 (studio)"},
		{"no memory", nil, fmt.Errorf("place m: %w", noMemory), "POST", load, body, 507, "insufficient_memory", "",
			"Need 45.0 GB, have 30.0 GB. Loaded: Qwen3-30B (20.0 GB). Unload Qwen3-30B to free memory."},
		{"no memory, by the master", nil, Refused(command.NoMemory, "Need 1 GB"), "POST", load, body, 507, "insufficient_memory", "", "Need 1 GB"},
		{"can't be split, nor fit whole", nil, &placement.RefusedError{Model: "m", Way: placement.WayTensor, Why: "odd heads", NoMemory: noMemory}, "POST", load, body, 507, "insufficient_memory", "", "odd heads"},
		{"can't be split", nil, &placement.RefusedError{Model: "m", Way: placement.WayTensor, Why: "odd heads"}, "POST", load, body, 409, "not_placeable", "preferred_sharding", "odd heads"},
		{"too few nodes", nil, &placement.NotEnoughNodesError{Want: 5, Have: 2}, "POST", load, body, 409, "not_enough_nodes", "min_nodes", "5 nodes are wanted and 2"},
		{"too few nodes, by the master", nil, refusal(command.NotEnoughNodes), "POST", load, body, 409, "not_enough_nodes", "min_nodes", "no"},
		{"a node that can't", nil, &placement.NodeError{Node: "n2", Why: "it is drained"}, "POST", load, body, 409, "not_placeable", "node_ids", "drained"},
		{"nonsense", nil, &placement.InvalidError{Message: "context 9 is odd"}, "POST", load, body, 422, "invalid_value", "", "odd"},
		{"loaded already", nil, refusal(command.AlreadyLoaded), "POST", load, body, 409, "model_already_loaded", "model_id", "no"},
		{"a plan of yesterday", nil, refusal(command.StalePlan), "POST", load, body, 409, "conflict", "model_id", "no"},
		{"a refusal from the future", nil, refusal("quota"), "POST", load, body, 409, "conflict", "model_id", "no: quota"},
		{"nobody has the files", nil, refusal(command.NoFiles), "POST", load, body, 409, "not_placeable", "model_id", "no"},
		{"unconfirmed", nil, Unconfirmed("k", errors.New("not confirmed in time")), "POST", load, body, 503, "unconfirmed", "", "Idempotency-Key: k"},
		{"no disk has room", nil, Unwritable("make room on the disk of /home"), "POST", load, body, 503, "unwritable", "", "make room"},
		{"the master is gone meanwhile", nil, NoMaster("start one without --no-master"), "POST", load, body, 503, "no_master", "", "--no-master"},
		{"busy engine", nil, &generation.Error{Kind: generation.KindNoMemory, Message: "need 2 GB"}, "POST", load, body, 507, "insufficient_memory", "", "need 2 GB"},

		{"swap of what is not loaded", nil, refusal(command.NotLoaded), "POST", swap, `{"unload_model_id":"m","load_model_id":"org/New-GGUF"}`, 404, "model_not_loaded", "unload_model_id", "no: not_loaded"},
		{"swap of what there is not", nil, nil, "POST", swap, `{"unload_model_id":"zzz","load_model_id":"m"}`, 404, "model_not_found", "unload_model_id", "there are"},
		{"swap for what there is not", nil, nil, "POST", swap, `{"unload_model_id":"ready-gguf","load_model_id":"zzz"}`, 404, "model_not_found", "load_model_id", "there are"},
		{"swap for itself", nil, nil, "POST", swap, `{"unload_model_id":"ready-gguf","load_model_id":"org/Ready-GGUF"}`, 422, "invalid_value", "load_model_id", "both mean org/Ready-GGUF"},
		{"swap without memory", nil, noMemory, "POST", swap, swapBody, 507, "insufficient_memory", "", "Need 45.0 GB"},
		{"swap to what is loaded", nil, refusal(command.AlreadyLoaded), "POST", swap, swapBody, 409, "model_already_loaded", "load_model_id", "no"},
		{"swap of what is being swapped", nil, refusal(command.Conflict), "POST", swap, swapBody, 409, "conflict", "load_model_id", "no"},
		{"swap without files", nil, refusal(command.NoFiles), "POST", swap, swapBody, 409, "not_placeable", "load_model_id", "no"},
		{"swap over too few nodes", nil, refusal(command.NotEnoughNodes), "POST", swap, swapBody, 409, "not_enough_nodes", "min_nodes", "no"},
		{"swap unconfirmed", nil, Unconfirmed("k~0123456789ab", errors.New("not confirmed in time")), "POST", swap, swapBody, 503, "unconfirmed", "", "Idempotency-Key: k, which"},
		{"swap with a field missing", nil, nil, "POST", swap, `{"load_model_id":"m"}`, 422, "invalid_value", "unload_model_id", "unload_model_id"},
		{"swap drains too long", nil, nil, "POST", swap, `{"unload_model_id":"a","load_model_id":"m","drain_seconds":1e9}`, 422, "invalid_value", "drain_seconds", "86400"},

		{"unload of what is not loaded", nil, refusal(command.NotLoaded), "DELETE", "/v1/cluster/models/m", ``, 404, "model_not_loaded", "name", "no"},
		{"unload of what there is not", nil, nil, "DELETE", "/v1/cluster/models/org/zzz", ``, 404, "model_not_found", "name", "there are"},
		{"unload drains twice", nil, nil, "DELETE", "/v1/cluster/models/ready-gguf?drain_seconds=&drain_seconds=1", ``, 422, "invalid_value", "drain_seconds", "give it once"},
		{"unload drains nothing", nil, nil, "DELETE", "/v1/cluster/models/ready-gguf?drain_seconds=", ``, 422, "invalid_value", "drain_seconds", "leave it out"},
		{"unload drains nonsense", nil, nil, "DELETE", "/v1/cluster/models/ready-gguf?drain_seconds=x", ``, 422, "invalid_value", "drain_seconds", "invalid float"},
		{"unload refused", nil, refusal(command.NotLoaded), "DELETE", "/v1/cluster/models/ready-gguf", ``, 404, "model_not_loaded", "name", "no"},

		{"no such node", nil, nil, "GET", "/v1/cluster/nodes/zzz", ``, 404, "node_not_found", "id", "n1 (studio)"},
		{"one of two nodes", nil, nil, "GET", "/v1/cluster/nodes/n", ``, 409, "ambiguous_node", "id", "n2 (Mini)"},
		{"drain of no node", nil, nil, "POST", "/v1/cluster/nodes/zzz/drain", ``, 404, "node_not_found", "id", "there are"},
		{"drain refused", nil, refusal(command.UnknownNode), "POST", "/v1/cluster/nodes/n1/drain", ``, 404, "node_not_found", "id", "no"},
		{"promote no node", nil, nil, "POST", "/v1/cluster/master", `{"node_id":"zzz"}`, 404, "node_not_found", "node_id", "there are"},
		{"promote refused", nil, refusal(command.Conflict), "POST", "/v1/cluster/master", `{"node_id":"mini"}`, 409, "conflict", "node_id", "no"},
		{"status of one of two", nil, nil, "GET", "/v1/cluster/models/new-gguf/status", ``, 409, "ambiguous_model", "name", "give the full name"},
		{"a model alone is no page", nil, nil, "GET", "/v1/cluster/models/org/m", ``, 405, "method_not_allowed", "", "use DELETE; did you mean /v1/cluster/models/org/m/status?"},

		{"read fails", retry, nil, "GET", "/v1/cluster/models", ``, 503, "unavailable", "", "ask again"},
		{"secret", errors.New("secret path"), nil, "GET", "/v1/cluster", ``, 500, "internal_error", "", "log"},
		{"library wants none", nil, nil, "POST", "/v1/cluster/library", `{"paths":[]}`, 422, "invalid_value", "paths", "paths"},
		{"library, bad query", nil, nil, "GET", "/v1/cluster/library/m?slots=many", ``, 422, "invalid_value", "slots", "slots"},
		{"library refuses", api.NewError(404, api.CodeModelNotFound, "name", "no m; there is n"), nil, "GET", "/v1/cluster/library/m", ``, 404, "model_not_found", "name", "there is n"},
		{"events of a kind", nil, nil, "GET", "/v1/cluster/events?types=node,x", ``, 422, "invalid_value", "types", "download"},
		{"events measured", nil, nil, "GET", "/v1/cluster/events?measurements=x", ``, 422, "invalid_value", "measurements", "true or false"},
		{"events without a state", retry, nil, "GET", "/v1/cluster/events", ``, 503, "unavailable", "", "ask again"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			f.err, f.refuse = tt.err, tt.refuse
			var header []string
			if path, ok := strings.CutSuffix(tt.path, "?key"); ok {
				tt.path, header = path, []string{"Idempotency-Key", "a b"}
			}
			w := call(serve(t, f), tt.method, tt.path, tt.body, header...)
			var body api.ErrorResponse
			d := json.NewDecoder(w.Body)
			d.DisallowUnknownFields()
			if err := d.Decode(&body); err != nil {
				t.Fatalf("not the shape of an error: %v", err)
			}
			e := body.Error
			if w.Code != tt.status || e.ErrorCode() != tt.code || !strings.Contains(e.Message, tt.text) || strings.Contains(e.Message, "secret") {
				t.Errorf("%d %s %q; want %d %s %q", w.Code, e.ErrorCode(), e.Message, tt.status, tt.code, tt.text)
			}
			param := ""
			if e.Param != nil {
				param = *e.Param
			}
			if param != tt.param {
				t.Errorf("param is %q, want %q (%s)", param, tt.param, e.Message)
			}
			kind := api.TypeInvalidRequest
			if tt.status >= 500 {
				kind = api.TypeServer
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/json" || e.Type != kind {
				t.Errorf("content type %q, type %q", ct, e.Type)
			}
			if again := w.Header().Get("Retry-After"); (again != "") != (tt.status == 503) {
				t.Errorf("Retry-After is %q", again)
			}
		})
	}
}

// Without a master reads go on and commands say which flag keeps it so.
func TestNoMaster(t *testing.T) {
	f := newFake()
	f.in.Master, f.in.NoMaster = "", "every live node runs with --no-master; start one without"
	h := serve(t, f)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/cluster/models/load", `{"model_id":"m"}`}, {"DELETE", "/v1/cluster/models/ready-gguf", ""},
		{"POST", "/v1/cluster/models/swap", `{"unload_model_id":"ready-gguf","load_model_id":"m"}`}, {"POST", "/v1/cluster/nodes/n1/drain", ""},
	} {
		w := call(h, c.method, c.path, c.body)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "--no-master") || !strings.Contains(w.Body.String(), `"no_master"`) || f.id != "" {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	w := call(h, "GET", "/v1/cluster/health", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"healthy":false`) || !strings.Contains(w.Body.String(), `"master_node_id":""`) {
		t.Errorf("health: %d %s", w.Code, w.Body)
	}
	for _, path := range []string{"/v1/cluster", "/v1/cluster/nodes", "/v1/cluster/models", "/node_id"} {
		if w := call(h, "GET", path, ""); w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	// To promote a node is the way out.
	if w := call(h, "POST", "/v1/cluster/master", `{"node_id":"mini"}`); w.Code != 200 || f.node != "n2" {
		t.Errorf("promote: %d %s", w.Code, w.Body)
	}
	// Not every node can be.
	f.change(func(in *view.Inputs) {
		n := in.State.Nodes["n2"]
		n.Candidate = false
		in.State.Nodes["n2"] = n
		delete(in.Live, "n1")
	})
	for node, text := range map[string]string{"mini": "--no-api", "studio": "is stale"} {
		if w := call(h, "POST", "/v1/cluster/master", `{"node_id":"`+node+`"}`); w.Code != 409 || !strings.Contains(w.Body.String(), text) {
			t.Errorf("promote %s: %d %s", node, w.Code, w.Body)
		}
	}
}

// Who drains the only node that could take the models is not told that they move.
func TestDrainWithNowhereToGo(t *testing.T) {
	f := newFake()
	h := serve(t, f)
	drain := func() string { return call(h, "POST", "/v1/cluster/nodes/studio/drain", "").Body.String() }
	if got := drain(); !strings.Contains(got, "moving Ready-GGUF") {
		t.Errorf("with another node: %s", got)
	}
	for what, change := range map[string]func(*cluster.Node){
		"drained": func(n *cluster.Node) { n.Draining = true }, "no worker": func(n *cluster.Node) { n.Worker = false },
	} {
		f := newFake()
		f.change(func(in *view.Inputs) {
			n := in.State.Nodes["n2"]
			change(&n)
			in.State.Nodes["n2"] = n
		})
		h = serve(t, f)
		if got := drain(); !strings.Contains(got, "Ready-GGUF stay where they are until another node") {
			t.Errorf("%s: %s", what, got)
		}
	}
}
