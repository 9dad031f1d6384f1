//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// What exo's dashboard reads of the state, once a second.
type exoState struct {
	Instances map[string]map[string]exoInstance                    `json:"instances"`
	Runners   map[string]map[string]json.RawMessage                `json:"runners"`
	Downloads map[string][]map[string]json.RawMessage              `json:"downloads"`
	Tasks     map[string]map[string]json.RawMessage                `json:"tasks"`
	Topology  exoTopology                                          `json:"topology"`
	Names     map[string]struct{ FriendlyName string }             `json:"nodeIdentities"`
	Memory    map[string]struct{ RAMTotal, RAMAvailable exoBytes } `json:"nodeMemory"`
	Disk      map[string]struct{ Total, Available exoBytes }       `json:"nodeDisk"`
	System    map[string]struct {
		GPUUsage, Temp, SysPower, PCPUUsage, ECPUUsage *float64
	} `json:"nodeSystem"`
	Cycles []any          `json:"thunderboltBridgeCycles"`
	Links  map[string]any `json:"instanceLinks"`
}

type exoBytes struct {
	InBytes int64 `json:"inBytes"`
}

type exoTopology struct {
	Nodes       []string `json:"nodes"`
	Connections map[string]map[string][]struct {
		Sink *struct {
			IP   string `json:"ip_address"`
			Port int    `json:"port"`
		} `json:"sinkMultiaddr"`
	} `json:"connections"`
}

// poll is what a browser's tab does each second.
func (n *node) poll() (s exoState) {
	n.t.Helper()
	n.read("/state", &s)
	return s
}

// one gives the only key of a union.
func one[T any](t *testing.T, union map[string]T) (string, T) {
	t.Helper()
	for tag, v := range union {
		if len(union) == 1 {
			return tag, v
		}
	}
	t.Fatalf("no union of one key: %v", union)
	panic("unreachable")
}

// exoText is what a client of exo gathers of a streamed answer.
type exoText struct {
	id, text, finish string
	chunks, logprobs int
	usage            bool
	progress, stats  []string // comments
}

// take reads a stream to its end as exo's clients do: lines, comments among
// them. stop is called with what came so far; true: no more is read.
func (s *stream) take(stop func(exoText) bool) (x exoText) {
	s.t.Helper()
	for s.lines.Scan() {
		line := s.lines.Text()
		if p, ok := strings.CutPrefix(line, ": prefill_progress "); ok {
			x.progress = append(x.progress, p)
		}
		if p, ok := strings.CutPrefix(line, ": generation_stats "); ok {
			x.stats = append(x.stats, p)
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return x
		}
		var c struct {
			ID      string           `json:"id"`
			Error   *json.RawMessage `json:"error"`
			Usage   *json.RawMessage `json:"usage"`
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
				Logprobs *struct {
					Content []struct {
						Token string     `json:"token"`
						Top   []struct{} `json:"top_logprobs"`
					} `json:"content"`
				} `json:"logprobs"`
				Finish *string `json:"finish_reason"`
			} `json:"choices"`
		}
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			s.t.Fatalf("%v: %s", err, data)
		}
		if c.Error != nil {
			x.finish = string(*c.Error)
			return x
		}
		x.id, x.chunks, x.usage = c.ID, x.chunks+1, x.usage || c.Usage != nil
		for _, choice := range c.Choices {
			x.text += choice.Delta.Content
			if choice.Finish != nil {
				x.finish = *choice.Finish
			}
			if choice.Logprobs != nil {
				for _, l := range choice.Logprobs.Content {
					if len(l.Top) == 5 {
						x.logprobs++
					}
				}
			}
		}
		if stop != nil && stop(x) {
			return x
		}
	}
	s.t.Fatalf("the stream broke off: %v", s.lines.Err())
	return x
}

// TestExoDashboard lives the life of a person at exo's dashboard: it opens,
// shows the machines, previews a model, launches it, follows it until it is
// ready, chats, stops an answer, and deletes it.
func TestExoDashboard(t *testing.T) {
	args := []string{"--models-dir", saveExact(t)}
	n := [2]*node{}
	for i := range n {
		n[i] = member(t, n[0], options{home: t.TempDir(), args: args})
	}
	together(t, n[:]...)
	web := n[1]

	// It opens.
	var id string
	web.read("/node_id", &id)
	var models struct {
		Data []struct {
			ID           string   `json:"id"`
			Name         string   `json:"name"`
			Size         int      `json:"storage_size_megabytes"`
			Family       string   `json:"family"`
			Base         string   `json:"base_model"`
			Quantization *string  `json:"quantization"`
			Capabilities []string `json:"capabilities"`
			Tasks        []string `json:"tasks"`
			Tensor       *bool    `json:"supports_tensor"`
			Custom       *bool    `json:"is_custom"`
		} `json:"data"`
	}
	eventually(t, exact+" to be listed", func() bool {
		web.read("/models", &models)
		return slices.ContainsFunc(models.Data, func(m struct {
			ID           string   `json:"id"`
			Name         string   `json:"name"`
			Size         int      `json:"storage_size_megabytes"`
			Family       string   `json:"family"`
			Base         string   `json:"base_model"`
			Quantization *string  `json:"quantization"`
			Capabilities []string `json:"capabilities"`
			Tasks        []string `json:"tasks"`
			Tensor       *bool    `json:"supports_tensor"`
			Custom       *bool    `json:"is_custom"`
		}) bool {
			return m.ID == exact && m.Size > 0 && m.Base != "" && m.Quantization != nil && m.Tensor != nil && m.Custom != nil &&
				slices.Contains(m.Capabilities, "text") && slices.Contains(m.Tasks, "TextGeneration")
		})
	})
	var flags map[string]bool
	web.read("/v1/feature-flags", &flags)
	var shown struct{ Completed bool }
	web.read("/onboarding", &shown)
	if shown.Completed || flags["disaggregation"] {
		t.Errorf("onboarding %v, flags %v", shown, flags)
	}
	if r := web.post("/onboarding", ""); r.status != http.StatusOK || !strings.Contains(r.body, "true") {
		t.Errorf("onboarding: %d %s", r.status, r.body)
	}

	// It shows the machines.
	var s exoState
	eventually(t, "both machines with their memory", func() bool {
		s = web.poll()
		return len(s.Topology.Nodes) == 2 && len(s.Memory) == 2 && len(s.Topology.Connections) == 2
	})
	if s.Topology.Nodes[0] != id || s.Cycles == nil || s.Links == nil || len(s.Instances) > 0 {
		t.Errorf("got %+v", s)
	}
	for _, x := range s.Topology.Nodes {
		m, d := s.Memory[x], s.Disk[x]
		if s.Names[x].FriendlyName == "" || m.RAMTotal.InBytes <= 0 || m.RAMAvailable.InBytes <= 0 || m.RAMAvailable.InBytes > m.RAMTotal.InBytes || d.Total.InBytes < d.Available.InBytes {
			t.Errorf("node %s: %+v", x, m)
		}
		for _, edges := range s.Topology.Connections[x] {
			if len(edges) == 0 || edges[0].Sink == nil || edges[0].Sink.IP == "" || edges[0].Sink.Port == 0 {
				t.Errorf("node %s is connected by %+v", x, edges)
			}
		}
		for _, list := range s.Downloads[x] {
			tag, _ := one(t, list)
			if tag != "DownloadCompleted" {
				t.Errorf("node %s: %s", x, tag)
			}
		}
	}

	// A model is chosen, and launched on one node, as it was previewed.
	var list struct {
		Previews []struct {
			Sharding string           `json:"sharding"`
			Meta     string           `json:"instance_meta"`
			Instance json.RawMessage  `json:"instance"`
			Memory   map[string]int64 `json:"memory_delta_by_node"`
			Error    *string          `json:"error"`
		} `json:"previews"`
	}
	var launch json.RawMessage
	eventually(t, "a preview on the node that was clicked", func() bool {
		if r := web.get("/instance/previews?model_id=" + exact); r.status == http.StatusServiceUnavailable {
			return false // its file is being hashed
		}
		web.read("/instance/previews?model_id="+exact+"&node_ids="+id, &list)
		for _, p := range list.Previews {
			if p.Error == nil && p.Meta == "MlxRing" && p.Sharding == "Pipeline" && len(p.Memory) == 1 && p.Memory[id] > 0 {
				launch = p.Instance
				return true
			}
		}
		return false
	})
	if r := web.post("/instance", fmt.Sprintf(`{"instance":%s}`, launch)); r.status != http.StatusOK {
		t.Fatalf("launch: status %d: %s", r.status, r.body)
	}
	var want exoInstance
	untag(t, launch, &want)
	seen := map[string]bool{}
	eventually(t, "the instance to be ready", func() bool {
		s = web.poll()
		_, i := one(t, s.Instances[want.ID])
		if i.Assignments.Model != exact || len(i.Assignments.Runners) != 1 {
			t.Fatalf("got %+v", i)
		}
		tag, _ := one(t, s.Runners[i.Assignments.Runners[id]])
		seen[tag] = true
		return tag == "RunnerReady"
	})
	for tag := range seen {
		if !slices.Contains([]string{"RunnerIdle", "RunnerLoading", "RunnerLoaded", "RunnerWarmingUp", "RunnerReady"}, tag) {
			t.Errorf("it was %s on the way", tag)
		}
	}

	// It chats, always with logprobs, at another node too.
	const chat = `{"model":"` + exact + `","messages":[{"role":"system","content":"You are a helpful AI assistant."},{"role":"user","content":"` + question + `"}],"stream":true,"temperature":0.7,"logprobs":true,"top_logprobs":5`
	for _, at := range n {
		x := at.open("/v1/chat/completions", chat+`,"max_tokens":12}`).take(nil)
		if x.text == "" || x.logprobs == 0 || x.finish != "length" && x.finish != "stop" || x.id == "" || len(x.stats) != 1 || !strings.Contains(x.stats[0], `"generation_tps"`) || len(x.progress) == 0 {
			t.Errorf("got %+v", x)
		}
	}

	// A long prompt's progress is told, also of an instance on another node.
	long := strings.Repeat("Tell me of Skein. ", 120)
	for _, at := range n {
		x := at.open("/v1/chat/completions", ask(exact, at.url+long, "stream", true, "max_tokens", 3)).take(nil)
		last := 0
		for _, p := range x.progress {
			var c struct {
				Chunk struct {
					Model string `json:"model"`
					Done  int    `json:"processed_tokens"`
					Total int    `json:"total_tokens"`
				} `json:"PrefillProgressChunk"`
			}
			if err := json.Unmarshal([]byte(p), &c); err != nil || c.Chunk.Model != exact || c.Chunk.Done <= last || c.Chunk.Done > c.Chunk.Total {
				t.Errorf("%v: %s", err, p)
			}
			if last = c.Chunk.Done; p == x.progress[len(x.progress)-1] && c.Chunk.Done != c.Chunk.Total {
				t.Errorf("the prompt ends at %s", p)
			}
		}
		if len(x.progress) < 2 {
			t.Errorf("told %q", x.progress)
		}
	}

	// An answer is stopped by its id; the tab sees the task come and go.
	open := web.open("/v1/chat/completions", chat+`,"max_tokens":4000,"ignore_eos":true}`)
	begun := open.take(func(x exoText) bool { return x.chunks > 2 })
	var task map[string]json.RawMessage
	eventually(t, "the request to be a task", func() bool { // nodes tell of theirs once a second
		task = web.poll().Tasks[begun.id]
		return task != nil
	})
	tag, body := one(t, task)
	var g struct {
		Command string `json:"commandId"`
		Status  string `json:"taskStatus"`
		Params  struct {
			Model string `json:"model"`
			Input []any  `json:"input"`
		} `json:"taskParams"`
	}
	if err := json.Unmarshal(body, &g); err != nil || tag != "TextGeneration" || g.Command != begun.id || g.Status != "Running" || g.Params.Model != exact || len(g.Params.Input) > 0 {
		t.Errorf("%s %+v, %v", tag, g, err)
	}
	if r := web.post("/v1/cancel/"+g.Command, ""); r.status != http.StatusOK {
		t.Errorf("stop: status %d: %s", r.status, r.body)
	}
	if x := open.take(nil); !strings.Contains(x.finish, "cancelled") {
		t.Errorf("the answer ended with %q", x.finish)
	}

	// It is deleted, and gone with the next look.
	if r := web.must(http.MethodDelete, "/instance/"+want.ID, ""); r.status != http.StatusOK || !strings.Contains(r.body, want.ID) {
		t.Fatalf("delete: status %d: %s", r.status, r.body)
	}
	if s = web.poll(); len(s.Instances) > 0 || len(s.Runners) > 0 {
		t.Errorf("it is deleted, and there is %v, %v", s.Instances, s.Runners)
	}
	eventually(t, "it to be gone on the other node", func() bool { s := n[0].poll(); return len(s.Instances)+len(s.Runners) == 0 })
	eventually(t, "the tasks to end", func() bool { return len(web.poll().Tasks) == 0 })
}

// TestExoBenchStreams is the other half of exo's bench: it takes away what is
// there, places a model by its name, waits, and measures several streams at once.
func TestExoBenchStreams(t *testing.T) {
	n := startDemo(t)
	var s exoState
	eventually(t, "the demo model to be loaded", func() bool { s = n.poll(); return len(s.Instances) == 1 })
	for id := range s.Instances {
		if r := n.must(http.MethodDelete, "/instance/"+id, ""); r.status != http.StatusOK {
			t.Fatalf("status %d: %s", r.status, r.body)
		}
		if r := n.get("/instance/" + id); r.status != http.StatusNotFound {
			t.Errorf("it is deleted, and GET answers %d", r.status)
		}
	}
	var placed struct {
		Command string `json:"command_id"`
		Card    struct {
			ID     string `json:"modelId"`
			Layers int    `json:"nLayers"`
		} `json:"model_card"`
	}
	r := n.post("/place_instance", `{"model_id":"`+demo+`","sharding":"Pipeline","instance_meta":"MlxRing","min_nodes":1}`)
	if err := json.Unmarshal([]byte(r.body), &placed); err != nil || r.status != http.StatusOK || placed.Command == "" || placed.Card.ID != demo || placed.Card.Layers == 0 {
		t.Fatalf("status %d, %v: %s", r.status, err, r.body)
	}
	if r := n.get("/instance/await?model_id=" + demo + "&timeout_seconds=60"); !strings.HasPrefix(r.body, ": keep-alive\n\n") || !strings.Contains(r.body, `"type":"ready"`) || !strings.Contains(r.body, `"instance_id"`) {
		t.Fatalf("await: %s", r.body)
	}
	const tokens, streams = 16, 4
	var got [streams]exoText
	var group sync.WaitGroup
	for i := range got {
		open := n.open("/bench/chat/completions", ask(demo, question, "max_tokens", tokens, "stream", true, "use_prefix_cache", false))
		group.Go(func() { got[i] = open.take(nil) })
	}
	group.Wait()
	for _, x := range got {
		if len(x.stats) != 1 || !x.usage || x.finish != "length" {
			t.Fatalf("got %+v", x)
		}
		var f struct {
			Prompt    int     `json:"prompt_tokens"`
			Generated int     `json:"generation_tokens"`
			Rate      float64 `json:"generation_tps"`
			PromptTPS float64 `json:"prompt_tps"`
			Hit       string  `json:"prefix_cache_hit"`
			Memory    struct {
				Bytes int64 `json:"in_bytes"`
			} `json:"peak_memory_usage"`
		}
		if err := json.Unmarshal([]byte(x.stats[0]), &f); err != nil || f.Generated != tokens || f.Hit != "none" || f.Rate <= 0 || f.PromptTPS <= 0 || f.Memory.Bytes <= 0 {
			t.Errorf("%v: %s", err, x.stats[0])
		}
	}
}
