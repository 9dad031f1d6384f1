package manage

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
)

// The fields that clients rely on, with their JSON types. More may be added;
// none of these may go or change.
var (
	overviewFields = fields("number node_count total_ram_gb available_ram_gb used_ram_gb ram_used_percent loaded_model_count active_task_count active_download_count timestamp" +
		"; array nodes models tasks downloads; string master_node_id; number tokens_per_second")
	healthFields = fields("boolean healthy; number node_count uptime_seconds timestamp state_index generations_resumed generations_lost; string master_node_id state_hash")
	nodeFields   = fields("string node_id friendly_name chip os_version status" +
		"; number ram_total_gb ram_available_gb ram_used_gb ram_used_percent disk_total_gb disk_available_gb gpu_usage_percent cpu_p_usage_percent cpu_e_usage_percent temperature_c power_watts seconds_since_seen" +
		"; array ip_addresses connection_types loaded_models roles accelerators unmeasured; boolean has_thunderbolt rdma_enabled is_master is_candidate draining; string version; number uptime_seconds reserved_memory_gb")
	modelFields = fields("string instance_id model_id model_name sharding instance_type status; array nodes node_names; number storage_size_gb predicted_tokens_per_second measured_tokens_per_second" +
		"; object runner_statuses; boolean ready; string way progress; number tokens_per_second context_length slots running_requests waiting_requests memory_gb progress_percent; array shards")
	taskFields     = fields("string task_id task_type status model_id instance_id node_id; number age_seconds")
	downloadFields = fields("string node_id node_name model_id status error; number downloaded_gb total_gb progress_percent speed_mb_s eta_seconds")
	statusFields   = fields("string model_id status progress instance_id error; boolean found ready; array nodes; number progress_percent replicas ready_replicas")
	loadFields     = fields("string message command_id model_id instance_id explanation; object placement; number estimated_memory_gb predicted_tokens_per_second copies context_length slots; array alternatives; boolean dry_run")
	swapFields     = fields("string message unload_command_id load_command_id unloaded_model loaded_model; number freed_memory_gb estimated_load_memory_gb copies predicted_tokens_per_second; string instance_id explanation; object placement; boolean dry_run")
	unloadFields   = fields("string message command_id model_id instance_id; number freed_memory_gb copies; array instance_ids")
)

// fields reads "type name name; type name".
func fields(text string) map[string]string {
	out := map[string]string{}
	for group := range strings.SplitSeq(text, ";") {
		words := strings.Fields(group)
		for _, w := range words[1:] {
			out[w] = words[0]
		}
	}
	return out
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case float64:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}

// at walks "nodes.0" into an answer.
func at(t *testing.T, v any, path string) map[string]any {
	t.Helper()
	for step := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '.' }) {
		if list, ok := v.([]any); ok {
			if len(list) == 0 {
				t.Fatalf("%s is empty", path)
			}
			v = list[0]
			continue
		}
		v = v.(map[string]any)[step]
	}
	return v.(map[string]any)
}

// Every field, its type, and the status of every endpoint.
func TestContract(t *testing.T) {
	h := serve(t, newFake())
	for _, tt := range []struct {
		method, path, body string
		part               string // "": the whole answer
		fields             map[string]string
	}{
		{"GET", "/v1/cluster", "", "", overviewFields},
		{"GET", "/v1/cluster", "", "nodes.0", nodeFields},
		{"GET", "/v1/cluster", "", "models.0", modelFields},
		{"GET", "/v1/cluster", "", "tasks.0", taskFields},
		{"GET", "/v1/cluster", "", "downloads.0", downloadFields},
		{"GET", "/v1/cluster/health", "", "", healthFields},
		{"GET", "/v1/cluster/nodes", "", "", fields("number node_count timestamp; array nodes")},
		{"GET", "/v1/cluster/nodes", "", "nodes.0", nodeFields},
		{"GET", "/v1/cluster/nodes/n1", "", "", nodeFields},
		{"GET", "/v1/cluster/nodes/STUDIO", "", "", nodeFields},
		{"GET", "/v1/cluster/models", "", "", fields("array loaded downloading; number timestamp")},
		{"GET", "/v1/cluster/models", "", "loaded.0", modelFields},
		{"GET", "/v1/cluster/models", "", "downloading.0", downloadFields},
		{"GET", "/v1/cluster/models/org/Ready-GGUF/status", "", "", statusFields},
		{"GET", "/v1/cluster/models/ready-gguf/status", "", "", statusFields},
		{"GET", "/v1/cluster/models/org%2FReady-GGUF/status", "", "", statusFields},
		{"GET", "/v1/cluster/models/unheard-of/status", "", "", statusFields},
		{"POST", "/v1/cluster/models/load", `{"model_id":"org/new-gguf"}`, "", loadFields},
		{"POST", "/v1/cluster/models/load", `{"model_id":"m","min_nodes":1,"preferred_sharding":"auto","node_ids":["Mini"],"context_length":100,"slots":2,"dry_run":true,"replicas":2}`, "", loadFields},
		{"POST", "/v1/cluster/models/swap", `{"unload_model_id":"ready-gguf","load_model_id":"m","min_nodes":1,"preferred_sharding":"tensor","drain_seconds":0}`, "", swapFields},
		{"DELETE", "/v1/cluster/models/org/ready-gguf", "", "", unloadFields},
		{"DELETE", "/v1/cluster/models/Ready-GGUF?drain_seconds=5", "", "", unloadFields},
		{"POST", "/v1/cluster/master", `{"node_id":"mini"}`, "", fields("string message command_id master_node_id previous_master_node_id")},
		{"GET", "/v1/cluster/keys", "", "", fields("array keys; number timestamp")},
		{"POST", "/v1/cluster/keys", `{"name":"ci","role":"chat"}`, "", fields("string message command_id secret; object key; number copies")},
		{"POST", "/v1/cluster/keys", `{"name":"ci","role":"chat","expires_seconds":60,"requests_per_minute":5,"concurrent":2}`, "key", fields("string name role created_by; number created_at expires_at requests_per_minute concurrent; boolean expired")},
		{"DELETE", "/v1/cluster/keys/ci", "", "", fields("string message command_id name; number copies")},
		{"GET", "/v1/cluster/audit", "", "", fields("array audit; number timestamp")},
		{"POST", "/v1/cluster/nodes/mini/drain", "", "", fields("string message command_id node_id; boolean draining; array moving; number copies")},
		{"POST", "/v1/cluster/nodes/mini/resume", "", "", fields("string message command_id node_id; boolean draining; array moving; number copies")},
	} {
		t.Run(tt.method+" "+tt.path+" "+tt.part, func(t *testing.T) {
			w := call(h, tt.method, tt.path, tt.body)
			if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("status %d, content type %q: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
			}
			var body any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			got := at(t, body, tt.part)
			for _, name := range slices.Sorted(maps.Keys(tt.fields)) {
				v, ok := got[name]
				if !ok || typeName(v) != tt.fields[name] {
					t.Errorf("field %s is %s (there: %v), want %s", name, typeName(v), ok, tt.fields[name])
				}
			}
			if strings.Contains(w.Body.String(), "null") {
				t.Errorf("there is a null: %s", w.Body)
			}
		})
	}
}

// What the values are, in short.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		method, path, body string
		want               string // fields of the answer
	}{
		{"GET", "/node_id", "", `"n1"`},
		{"GET", "/v1/cluster", "", "node_count=2 total_ram_gb=128 available_ram_gb=100 used_ram_gb=28 ram_used_percent=21.9 loaded_model_count=1 active_task_count=1 active_download_count=1 master_node_id=n1 timestamp=1.70000000025e+09"},
		{"GET", "/v1/cluster/health", "", "healthy=true node_count=2 master_node_id=n1 uptime_seconds=60"},
		{"GET", "/v1/cluster/models/READY-gguf/status", "", "model_id=org/Ready-GGUF found=true status=running ready=true progress=running 1 request nodes=[studio] instance_id=i1 error="},
		{"GET", "/v1/cluster/models/m/status", "", "model_id=m found=true status=downloading ready=false progress=fetching 1.0/4.0 GB (25%) nodes=[Mini]"},
		{"GET", "/v1/cluster/models/nope/status", "", "model_id=nope found=false status=not_loaded ready=false"},
		{"POST", "/v1/cluster/models/load", `{"model_id":"org/NEW-gguf","replicas":1}`, "message=loading org/New-GGUF on Mini, studio; the context was lowered command_id=made-up model_id=org/New-GGUF instance_id=i2 " +
			"placement=map[n1:stage 1/2, layers 0-0 n2:stage 2/2, layers 1-1] estimated_memory_gb=14 predicted_tokens_per_second=38.2 explanation=it fits no single node context_length=4096 slots=2 dry_run=false copies=2"},
		{"POST", "/v1/cluster/models/load", `{"model_id":"m","dry_run":true}`, "message=would load m on Mini, studio; the context was lowered instance_id= dry_run=true copies=0"},
		{"POST", "/v1/cluster/models/swap", `{"unload_model_id":"ready-gguf","load_model_id":"m"}`, "message=swapping org/Ready-GGUF for m on Mini, studio unload_command_id=made-up load_command_id=made-up unloaded_model=org/Ready-GGUF loaded_model=m freed_memory_gb=20 estimated_load_memory_gb=14 copies=2"},
		{"POST", "/v1/cluster/models/swap", `{"unload_model_id":"ready-gguf","load_model_id":"m","dry_run":true}`, "message=would swap org/Ready-GGUF for m on Mini, studio instance_id= copies=0 dry_run=true"},
		{"DELETE", "/v1/cluster/models/ready-gguf", "", "message=unloading org/Ready-GGUF model_id=org/Ready-GGUF instance_id=i1 freed_memory_gb=20 copies=2"},
		{"POST", "/v1/cluster/master", `{"node_id":"n2"}`, "message=Mini is the master now master_node_id=n2 previous_master_node_id=n1"},
		{"POST", "/v1/cluster/master", `{"node_id":"studio"}`, "message=studio is the master already master_node_id=n1"},
		{"POST", "/v1/cluster/nodes/studio/drain", "", "message=studio is being drained; moving Ready-GGUF node_id=n1 draining=true moving=[Ready-GGUF] copies=2"},
		{"POST", "/v1/cluster/nodes/studio/resume", "", "message=studio takes new work draining=false moving=[]"},
	} {
		t.Run(tt.method+" "+tt.path+" "+tt.body, func(t *testing.T) {
			w := call(serve(t, newFake()), tt.method, tt.path, tt.body)
			if strings.HasPrefix(tt.want, `"`) {
				if w.Code != 200 || strings.TrimSpace(w.Body.String()) != tt.want {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				return
			}
			var body map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != 200 {
				t.Fatalf("%d %s: %v", w.Code, w.Body, err)
			}
			// Read the wanted names off the text, then write it anew.
			var got []string
			for _, name := range names(tt.want) {
				got = append(got, fmt.Sprintf("%s=%v", name, body[name]))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// names lists the "name=" of a text; values hold no equals sign.
func names(text string) []string {
	var out []string
	parts := strings.Split(text, "=")
	for _, p := range parts[:len(parts)-1] {
		words := strings.Fields(p)
		out = append(out, words[len(words)-1])
	}
	return out
}

// The tables above hold every field of the answers, so that one which is added
// is added there too.
func TestContractIsComplete(t *testing.T) {
	for _, c := range []struct {
		of     any
		fields map[string]string
	}{
		{api.Overview{}, overviewFields}, {api.Health{}, healthFields}, {api.Node{}, nodeFields}, {api.Model{}, modelFields}, {api.Task{}, taskFields}, {api.Download{}, downloadFields},
		{api.ModelStatus{}, statusFields}, {api.LoadAnswer{}, loadFields}, {api.SwapAnswer{}, swapFields}, {api.UnloadAnswer{}, unloadFields},
	} {
		kind := reflect.TypeOf(c.of)
		for i := range kind.NumField() {
			f := kind.Field(i)
			name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
			want, ok := c.fields[name]
			if option == "omitempty" {
				continue
			}
			got := map[reflect.Kind]string{reflect.Bool: "boolean", reflect.String: "string", reflect.Slice: "array", reflect.Map: "object"}[f.Type.Kind()]
			if got == "" && slices.Contains([]reflect.Kind{reflect.Int, reflect.Uint64, reflect.Float64}, f.Type.Kind()) {
				got = "number"
			}
			if !ok || got != want {
				t.Errorf("%s.%s is %q, in the table %q", kind.Name(), name, got, want)
			}
			if unit, isGB := strings.CutSuffix(name, "_gb"); isGB && (unit == "" || f.Type.Kind() != reflect.Float64) {
				t.Errorf("%s.%s: GB are floats", kind.Name(), name)
			}
		}
	}
}
