//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// Models take the place of each other: with nothing open, with an answer that
// outlives its time, and with one that does not load.
func TestSwap(t *testing.T) {
	dir := saveExact(t)
	save(t, dir, "asserts", changed(t, gguftest.KV("llama.expert_used_count", uint32(2))))
	first := member(t, nil, options{home: t.TempDir(), args: []string{"--models-dir", dir}})
	second := member(t, first, options{home: t.TempDir()})
	together(t, first, second)
	for _, name := range []string{demo, exact, "asserts"} { // files are hashed before the cluster knows them
		eventually(t, name+" to be known", func() bool {
			var status struct{ Error string }
			second.read("/v1/cluster/models/"+name+"/status", &status)
			return status.Error == ""
		})
	}
	first.load(demo, first)

	skein(t, second.home, "", "models", "swap", demo, exact, "--node", first.id(), "--wait").want(t, 0, "swapping "+demo+" for "+exact)
	if nodes, _ := first.holders(demo); len(nodes) > 0 {
		eventually(t, demo+" to end", func() bool { nodes, _ := first.holders(demo); return len(nodes) == 0 })
	}

	// The answer would take 4,000 tokens; it gets a moment, and is told why it ends.
	s := second.open("/v1/chat/completions", long(4000))
	if _, err := s.data(); err != nil {
		t.Fatal(err)
	}
	skein(t, first.home, "", "models", "swap", exact, demo, "--drain", "0", "--wait").want(t, 0)
	var said string
	for said == "" {
		data, err := s.data()
		if errors.Is(err, errEnd) || err != nil {
			t.Fatalf("the stream ended without a reason: %v", err)
		}
		var e apiError
		if json.Unmarshal([]byte(data), &e) == nil {
			said = e.Error.Message
		}
	}
	contains(t, said, exact, "unloaded")

	// One that never loads: the old one is there again, and the status says why.
	r := skein(t, first.home, "", "models", "swap", demo, "asserts", "--wait")
	r.want(t, 1, "asserts failed: ")
	contains(t, r.stderr, "GGML_ASSERT")
	first.ready(demo)
	var status struct {
		Status, Error string
		Found         bool
	}
	contains(t, r.stderr, "the swap of "+demo+" for it was undone, and "+demo)
	eventually(t, "the status to say so", func() bool {
		second.read("/v1/cluster/models/asserts/status", &status)
		return status.Status == "failed" && status.Found && strings.Contains(status.Error, "the swap of "+demo+" for it was undone")
	})
	if r := second.post("/v1/chat/completions", ask(demo, question)); r.status != http.StatusOK {
		t.Errorf("the old one is back and answers %d: %s", r.status, r.body)
	}
	skein(t, first.home, "", "models", "unload", "asserts").want(t, 0)

	// What can't be changes nothing.
	for _, c := range []struct{ old, model, want string }{
		{demo, "none", "there is no model none"}, {exact, demo, exact + " is not loaded"}, {demo, demo, "both mean"},
	} {
		skein(t, second.home, "", "models", "swap", c.old, c.model).want(t, 1, c.want)
	}
	if _, ready := second.holders(demo); !ready {
		t.Error("a refused swap ended the old model")
	}
}
