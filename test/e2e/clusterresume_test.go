//go:build unix

package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"
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

// The node that a client talks to is killed: its generations end on the others
// within 2 s, and their slots are free.
func TestGenerationsOfAKilledClientNodeEnd(t *testing.T) {
	dir := saveExact(t)
	worker := member(t, nil, options{args: []string{"--models-dir", dir}})
	client := member(t, worker, options{args: []string{"--no-worker"}})
	together(t, worker, client)
	worker.load(exact, worker)
	eventually(t, "the model to be known to the other node", func() bool { _, ready := client.holders(exact); return ready })
	running := func() int {
		var list struct {
			Loaded []struct {
				Running int `json:"running_requests"`
			} `json:"loaded"`
		}
		worker.read("/v1/cluster/models", &list)
		return list.Loaded[0].Running
	}
	s := client.open("/v1/chat/completions", ask(exact, question, "stream", true, "max_tokens", 4000, "ignore_eos", true))
	s.text()
	eventually(t, "the generation to be seen", func() bool { return running() == 1 })
	client.signal(syscall.SIGKILL)
	began := time.Now()
	eventually(t, "the generation to be cancelled", func() bool { return running() == 0 })
	if took := time.Since(began); took > 3*time.Second { // 1 s of it is the age of what is told
		t.Errorf("it was cancelled after %v", took)
	} else {
		t.Logf("it was seen to be cancelled after %v", took)
	}
	client.exit()
}

// A model that is to run on one node alone loses it: the answer waits, for as
// long as --resume-timeout says, and goes on when the node is back.
func TestAnswerWaitsForItsNode(t *testing.T) {
	dir := saveExact(t)
	first := member(t, nil, options{args: []string{"--models-dir", dir, "--no-worker"}})
	hasty := member(t, first, options{args: []string{"--no-worker", "--resume-timeout", "2"}})
	home := t.TempDir()
	worker := member(t, first, options{home: home})
	other := member(t, first, options{})
	together(t, first, hasty, worker, other)
	first.load(exact, worker)
	const tokens = 1500
	want := first.open("/v1/chat/completions", long(tokens)).whole("", tokens)
	eventually(t, "the model to be known to the other client's node", func() bool { _, ready := hasty.holders(exact); return ready })
	s, short := first.open("/v1/chat/completions", long(tokens)), hasty.open("/v1/chat/completions", long(tokens))
	before := s.text()
	short.text()
	worker.kill()
	if _, refused, err := short.rest(); refused == nil {
		t.Errorf("the answer that waits for 2 s ended without a reason: %v", err)
	} else {
		contains(t, refused.Error.Message, "within 2s", worker.id()+" is required, but it is not online")
	}
	worker = again(t, options{home: home, args: []string{"--join", first.gossip()}})
	same(t, "its node came back", s.whole(before, tokens), want)
	if on, _ := first.holders(exact); !slices.Equal(on, []string{worker.id()}) {
		t.Errorf("it runs on %v", on)
	}
}

// A node is drained in the middle of an answer: the model moves, and the answer
// does not notice.
func TestDrainedNodeFinishesItsAnswers(t *testing.T) {
	dir := saveExact(t)
	first := member(t, nil, options{args: []string{"--models-dir", dir, "--no-worker"}})
	workers := []*node{member(t, first, options{}), member(t, first, options{})}
	together(t, append(workers, first)...)
	eventually(t, "the model to be loaded", func() bool {
		return first.post("/v1/cluster/models/load", loadBody(exact, 1)).status/100 == 2
	})
	first.ready(exact)
	const tokens = 2500
	want := first.open("/v1/chat/completions", long(tokens)).whole("", tokens)
	on, _ := first.holders(exact)
	s := first.open("/v1/chat/completions", long(tokens))
	before := s.text()
	if r := first.post("/v1/cluster/nodes/"+on[0]+"/drain", ""); r.status/100 != 2 {
		t.Fatalf("drain: status %d: %s", r.status, r.body)
	}
	same(t, "drained", s.whole(before, tokens), want)
	eventually(t, "the model to have moved", func() bool {
		now, ready := first.holders(exact)
		return ready && !slices.Contains(now, on[0])
	})
}
