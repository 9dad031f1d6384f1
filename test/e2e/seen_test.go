//go:build unix

package e2e

import (
	"net/http"
	"testing"
)

// What a node was answered it sees at once, whoever leads: its status tells it,
// and a request for a model that is just being loaded waits for it.
func TestAnsweredIsSeen(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		save(t, dir, name, demoBytes(t))
	}
	var n [3]*node
	for i := range n {
		n[i] = member(t, n[0], options{home: t.TempDir(), args: []string{"--models-dir", dir}})
	}
	together(t, n[:]...)
	found := func(x *node, model string) bool {
		var status struct{ Found bool }
		x.read("/v1/cluster/models/"+model+"/status", &status)
		return status.Found
	}
	for _, name := range []string{"one", "two"} {
		for _, x := range n {
			eventually(t, name+" to be known", func() bool {
				var status struct{ Error string }
				x.read("/v1/cluster/models/"+name+"/status", &status)
				return status.Error == ""
			})
		}
	}
	for k := range 6 {
		x := n[k%3]
		if r := x.post("/v1/cluster/models/load", loadBody("one", 1, n[0].id())); r.status != http.StatusOK {
			t.Fatalf("load: %d %s", r.status, r.body)
		}
		if !found(x, "one") {
			t.Errorf("round %d: a node does not see the load that it was answered", k)
		}
		if r := x.post("/v1/cluster/models/swap", `{"unload_model_id":"one","load_model_id":"two","drain_seconds":0,"node_ids":["`+n[0].id()+`"]}`); r.status != http.StatusOK {
			t.Fatalf("swap: %d %s", r.status, r.body)
		}
		if r := x.post("/v1/chat/completions", ask("two", question, "max_tokens", 1)); r.status != http.StatusOK {
			t.Errorf("round %d: a request right after the swap: %d %s", k, r.status, r.body)
		}
		n[0].gone("two")
	}
}

// gone unloads a model and waits until nothing of it is left.
func (n *node) gone(model string) {
	n.t.Helper()
	if r := n.must(http.MethodDelete, "/v1/cluster/models/"+model+"?drain_seconds=0", ""); r.status != http.StatusOK {
		n.t.Fatalf("unload: %d %s", r.status, r.body)
	}
	eventually(n.t, model+" to end", func() bool { nodes, _ := n.holders(model); return len(nodes) == 0 })
}
