//go:build unix

package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
)

// A node of a sharded model is killed late in a long answer: what was decoded
// token by token is computed again as one prompt, and the text stays the same.
func TestLongAnswerGoesOnInShards(t *testing.T) {
	dir := saveExact(t)
	first := member(t, nil, options{args: []string{"--models-dir", dir, "--no-worker"}})
	workers := []*node{member(t, first, options{}), member(t, first, options{}), member(t, first, options{})}
	together(t, append(workers, first)...)
	const tokens = 1500
	want := ""
	for k, sharding := range []string{"pipeline", "tensor"} {
		body, err := json.Marshal(map[string]any{"model_id": exact, "min_nodes": 2, "preferred_sharding": sharding})
		if err != nil {
			t.Fatal(err)
		}
		// Nodes and files are there a moment before all know of them.
		eventually(t, "two workers and a model to be known", func() bool {
			r := first.post("/v1/cluster/models/load", string(body))
			if r.status/100 != 2 && r.status != http.StatusConflict && r.status != http.StatusNotFound {
				t.Fatalf("load: status %d: %s", r.status, r.body)
			}
			return r.status/100 == 2
		})
		first.ready(exact)
		undisturbed := first.open("/v1/chat/completions", long(tokens)).whole("", tokens)
		if want != "" {
			same(t, "ranks against stages", undisturbed, want)
		}
		want = undisturbed
		on, _ := first.holders(exact)
		victim := slices.IndexFunc(workers, func(n *node) bool { return n.id() == on[k] })
		s := first.open("/v1/chat/completions", long(tokens))
		before := ""
		for len(before) < len(want)/2 {
			before += s.text()
		}
		workers[victim].kill()
		same(t, sharding, s.whole(before, tokens), want)
		workers[victim] = again(t, options{home: workers[victim].home})
		together(t, append(workers, first)...)
		if r := first.must(http.MethodDelete, "/v1/cluster/models/"+exact, ""); r.status != http.StatusOK {
			t.Fatalf("unload: status %d: %s", r.status, r.body)
		}
		eventually(t, "the model to be unloaded", func() bool { return first.status(exact) == "" })
	}
}
