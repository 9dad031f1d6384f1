package manage

import (
	"regexp"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/cluster/view"
)

// What Prometheus reads has its form, and the figures that the overview tells.
func TestMetrics(t *testing.T) {
	f := newFake()
	f.change(func(in *view.Inputs) {
		n := in.State.Nodes["n2"]
		n.Name = `Mi"ni\`
		in.State.Nodes["n2"] = n
	})
	w := call(serve(t, f), "GET", "/metrics", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Fatalf("%d %s", w.Code, w.Header())
	}
	text := w.Body.String()
	for _, want := range []string{
		"skein_healthy 1", "skein_nodes_online 2", "skein_memory_total_bytes 1.37438953472e+11", "skein_tokens_per_second 36.9", "skein_tasks 1",
		`skein_node_online{node="studio",node_id="n1"} 1`, `skein_node_online{node="Mi\"ni\\",node_id="n2"} 1`,
		`skein_node_memory_available_bytes{node="studio",node_id="n1"} 4.294967296e+10`, `skein_node_cpu_percent{node="studio",node_id="n1"} 12.5`,
		`skein_node_info{node="studio",node_id="n1",version="v1",chip="chip"} 1`, `skein_node_master{node="studio",node_id="n1"} 1`,
		`skein_model_ready{model="org/Ready-GGUF",instance="i1",nodes="studio"} 1`,
		`skein_model_running_requests{model="org/Ready-GGUF",instance="i1",nodes="studio"} 1`, `skein_model_slots{model="org/Ready-GGUF",instance="i1",nodes="studio"} 4`,
		"# TYPE skein_model_slots gauge",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	// A machine tells nothing of what it can't measure.
	if strings.Contains(text, "skein_node_power_watts") || strings.Contains(text, `skein_node_cpu_percent{node="Mi`) {
		t.Errorf("it tells what was not measured:\n%s", text)
	}
	line := regexp.MustCompile(`^(# (HELP|TYPE) skein_[a-z_]+ .+|skein_[a-z_]+(\{([a-z_]+="([^"\\\n]|\\.)*",?)+\})? [-+0-9.e]+)$`)
	seen := map[string]bool{}
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if !line.MatchString(l) || seen[l] {
			t.Errorf("not a line of the format, or twice: %q", l)
		}
		seen[l] = true
	}
}
