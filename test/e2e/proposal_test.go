//go:build unix

package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// proposal is the API that was proposed for exo at /v1/cluster: each object's
// fields with their types, and no others. A client that was written for it
// reads these, compares and formats them as they are, and knows nothing of what
// Skein added.
var proposal = map[string]map[string]string{
	"overview": {
		"node_count": "number", "total_ram_gb": "number", "available_ram_gb": "number", "used_ram_gb": "number", "ram_used_percent": "number",
		"loaded_model_count": "number", "active_task_count": "number", "active_download_count": "number", "nodes": "node", "models": "model",
		"tasks": "task", "downloads": "download", "master_node_id": "string", "timestamp": "number",
	},
	"health": {"healthy": "bool", "node_count": "number", "master_node_id": "string", "uptime_seconds": "number", "timestamp": "number"},
	"nodes":  {"node_count": "number", "nodes": "node", "timestamp": "number"},
	"node": {
		"node_id": "string", "friendly_name": "string", "chip": "string", "os_version": "string", "ram_total_gb": "number", "ram_available_gb": "number",
		"ram_used_gb": "number", "ram_used_percent": "number", "disk_total_gb": "number", "disk_available_gb": "number", "gpu_usage_percent": "number",
		"cpu_p_usage_percent": "number", "cpu_e_usage_percent": "number", "temperature_c": "number", "power_watts": "number", "ip_addresses": "string[]",
		"connection_types": "string[]", "has_thunderbolt": "bool", "rdma_enabled": "bool", "loaded_models": "string[]", "status": "string", "seconds_since_seen": "number",
	},
	"models": {"loaded": "model", "downloading": "download", "timestamp": "number"},
	"model": {
		"instance_id": "string", "model_id": "string", "model_name": "string", "sharding": "string", "instance_type": "string", "nodes": "string[]",
		"node_names": "string[]", "storage_size_gb": "number", "runner_statuses": "map", "ready": "bool", "status": "string",
	},
	"task": {"task_id": "string", "task_type": "string", "status": "string", "model_id": "string", "instance_id": "string"},
	"download": {
		"node_id": "string", "node_name": "string", "model_id": "string", "status": "string", "downloaded_gb": "number", "total_gb": "number",
		"progress_percent": "number", "speed_mb_s": "number", "eta_seconds": "number", "error": "string",
	},
	"status":  {"model_id": "string", "found": "bool", "status": "string", "ready": "bool", "progress": "string", "nodes": "string[]", "instance_id": "string"},
	"load":    {"message": "string", "command_id": "string", "model_id": "string", "instance_id": "string", "placement": "map", "estimated_memory_gb": "number"},
	"unload":  {"message": "string", "command_id": "string", "model_id": "string", "instance_id": "string", "freed_memory_gb": "number"},
	"swap":    {"message": "string", "unload_command_id": "string", "load_command_id": "string", "unloaded_model": "string", "loaded_model": "string", "freed_memory_gb": "number", "estimated_load_memory_gb": "number"},
	"refusal": {"message": "string", "type": "string"},
}

// proposed reads an object as such a client does.
func proposed(t *testing.T, what, object string, v any) map[string]any {
	t.Helper()
	o, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%s is no object: %v", what, v)
	}
	for field, kind := range proposal[object] {
		x, there := o[field]
		if !there {
			t.Errorf("%s has no %s", what, field)
			continue
		}
		good := false
		list, isList := x.([]any)
		switch kind {
		case "number":
			good = isNumber(x)
		case "string":
			_, good = x.(string)
		case "bool":
			_, good = x.(bool)
		case "map":
			m, is := x.(map[string]any)
			good = is && !slices.ContainsFunc(values(m), func(v any) bool { _, text := v.(string); return !text })
		case "string[]":
			good = isList && !slices.ContainsFunc(list, func(v any) bool { _, text := v.(string); return !text })
		default: // a list of objects
			good = isList
			for _, y := range list {
				proposed(t, what+"."+field, kind, y)
			}
		}
		if !good {
			t.Errorf("%s: %s must be %s, it is %v", what, field, kind, x)
		}
	}
	return o
}

func values(m map[string]any) (out []any) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// proposalClient calls a node, as `curl -d` does: its bodies have the type of a form.
type proposalClient struct {
	t  *testing.T
	at *node
}

func (c proposalClient) call(method, path, body, object string, status int) map[string]any {
	c.t.Helper()
	r, err := c.at.try(method, path, body, "Content-Type", "application/x-www-form-urlencoded")
	if err != nil {
		c.t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil || r.status != status {
		c.t.Fatalf("%s %s %s: status %d, want %d, %v: %s", method, path, body, r.status, status, err, r.body)
	}
	if object == "refusal" {
		v = v.(map[string]any)["error"]
	}
	return proposed(c.t, method+" "+path, object, v)
}

// TestProposalClient: a client that was written for exo's proposal of
// /v1/cluster lives through everything that it can do.
func TestProposalClient(t *testing.T) {
	args := []string{"--models-dir", saveExact(t)}
	var n [3]*node
	for i := range n {
		n[i] = member(t, n[0], options{home: t.TempDir(), args: args})
	}
	together(t, n[:]...)
	c := proposalClient{t, n[1]}
	eventually(t, "both models to be known", func() bool {
		for m, nodes := range map[string]string{demo: "1", exact: "3"} { // all have told of their memory
			r := n[1].post("/v1/cluster/models/load", `{"model_id":"`+m+`","min_nodes":`+nodes+`,"dry_run":true}`)
			if r.status != http.StatusOK {
				return false
			}
		}
		return true
	})

	if h := c.call("GET", "/v1/cluster/health", "", "health", 200); h["healthy"] != true || h["node_count"] != 3.0 || h["master_node_id"] == "" {
		t.Errorf("health %v", h)
	}
	o := c.call("GET", "/v1/cluster", "", "overview", 200)
	if o["loaded_model_count"] != 0.0 || len(o["nodes"].([]any)) != 3 || o["total_ram_gb"].(float64) <= 0 {
		t.Errorf("overview %v", o)
	}
	nodes := c.call("GET", "/v1/cluster/nodes/", "", "nodes", 200)
	id := nodes["nodes"].([]any)[0].(map[string]any)["node_id"].(string)
	for _, name := range []string{id, id[:8], strings.ToLower(id)} {
		if x := c.call("GET", "/v1/cluster/nodes/"+name, "", "node", 200); x["node_id"] != id || x["status"] != "online" {
			t.Errorf("node %s is %v", name, x)
		}
	}
	c.call("GET", "/v1/cluster/nodes/nobody", "", "refusal", 404)
	if s := c.call("GET", "/v1/cluster/models/"+exact+"/status", "", "status", 200); s["status"] != "not_loaded" || s["ready"] != false {
		t.Errorf("before it is loaded: %v", s)
	}

	// A load, two that can't be, and the wait for it, by polling.
	c.call("POST", "/v1/cluster/models/load", `{"model_id":"no/such"}`, "refusal", 404)
	c.call("POST", "/v1/cluster/models/load", `{"model_id":"`+exact+`","min_nodes":9}`, "refusal", 409)
	load := c.call("POST", "/v1/cluster/models/load", `{"model_id":"`+exact+`","min_nodes":2,"preferred_sharding":"pipeline"}`, "load", 200)
	if load["model_id"] != exact || load["instance_id"] == "" || len(load["placement"].(map[string]any)) < 2 || load["estimated_memory_gb"].(float64) < 0 {
		t.Errorf("load %v", load)
	}
	c.call("POST", "/v1/cluster/models/load", `{"model_id":"`+exact+`"}`, "refusal", 409)
	become := func(model, status string) (s map[string]any) {
		t.Helper()
		eventually(t, model+" to be "+status, func() bool {
			s = c.call("GET", "/v1/cluster/models/"+model+"/status", "", "status", 200)
			return s["status"] == status || status == "ready" && s["ready"] == true
		})
		return s
	}
	if s := become(exact, "ready"); s["found"] != true || len(s["nodes"].([]any)) != 2 || s["instance_id"] != load["instance_id"] {
		t.Errorf("ready: %v", s)
	}
	eventually(t, "it to be listed", func() bool {
		list := c.call("GET", "/v1/cluster/models", "", "models", 200)["loaded"].([]any)
		return len(list) == 1 && list[0].(map[string]any)["sharding"] == "pipeline" && list[0].(map[string]any)["ready"] == true
	})
	if text := n[0].answer(exact, question, "max_tokens", 5); text == "" {
		t.Error("it answers nothing")
	}

	// A swap, by names of any case, and what can't be swapped.
	c.call("POST", "/v1/cluster/models/swap", `{"unload_model_id":"`+demo+`","load_model_id":"`+exact+`"}`, "refusal", 404)
	swap := c.call("POST", "/v1/cluster/models/swap", `{"unload_model_id":"`+strings.ToUpper(exact)+`","load_model_id":"`+strings.ToUpper(demo)+`","min_nodes":1,"preferred_sharding":"auto"}`, "swap", 200)
	if swap["unloaded_model"] != exact || swap["loaded_model"] != demo || swap["unload_command_id"] == "" || swap["load_command_id"] == "" {
		t.Errorf("swap %v", swap)
	}
	become(demo, "ready")
	become(exact, "not_loaded")
	o = c.call("GET", "/v1/cluster", "", "overview", 200)
	if o["loaded_model_count"] != 1.0 {
		t.Errorf("after the swap: %v", o["models"])
	}

	gone := c.call("DELETE", "/v1/cluster/models/"+strings.ToUpper(demo), "", "unload", 200)
	if gone["model_id"] != demo || gone["instance_id"] == "" {
		t.Errorf("unload %v", gone)
	}
	become(demo, "not_loaded")
	c.call("DELETE", "/v1/cluster/models/"+demo, "", "refusal", 404)
}
