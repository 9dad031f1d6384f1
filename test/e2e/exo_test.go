//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// What exo's own bench does, step by step, as far as it shows: find the model,
// take its previews, have the files brought to the nodes, make each instance
// as it was previewed, wait for its runners, measure, and delete it.

// exoInstance is what the bench reads of an instance.
type exoInstance struct {
	ID          string `json:"instanceId"`
	Assignments struct {
		Model   string                     `json:"modelId"`
		Shards  map[string]json.RawMessage `json:"runnerToShard"`
		Runners map[string]string          `json:"nodeToRunner"`
	} `json:"shardAssignments"`
}

// untag takes the one value out of a union.
func untag(t *testing.T, union json.RawMessage, into any) (tag string) {
	t.Helper()
	var o map[string]json.RawMessage
	if err := json.Unmarshal(union, &o); err != nil || len(o) != 1 {
		t.Fatalf("no union of one key, %v: %s", err, union)
	}
	for tag = range o {
		if err := json.Unmarshal(o[tag], into); err != nil {
			t.Fatalf("%v: %s", err, union)
		}
	}
	return tag
}

// downloaded tells whether a node says that it has a model.
func (n *node) downloaded(node, model string) bool {
	n.t.Helper()
	var list []map[string]struct {
		Shard json.RawMessage `json:"shardMetadata"`
		Error string          `json:"errorMessage"`
	}
	n.read("/state/downloads/"+node, &list)
	for _, x := range list {
		var shard struct {
			Card struct {
				ID string `json:"modelId"`
			} `json:"modelCard"`
		}
		for tag, d := range x {
			untag(n.t, d.Shard, &shard)
			if shard.Card.ID != model {
				continue
			}
			if tag == "DownloadFailed" {
				n.t.Fatalf("node %s has not fetched %s: %s", node, model, d.Error)
			}
			return tag == "DownloadCompleted"
		}
	}
	return false
}

// serving tells whether all runners of an instance are ready.
func (n *node) serving(id string) bool {
	n.t.Helper()
	r := n.get("/state/instances/" + id)
	if r.status == http.StatusNotFound {
		return false
	}
	var i exoInstance
	untag(n.t, []byte(r.body), &i)
	for runner := range i.Assignments.Shards {
		var state struct {
			Error string `json:"errorMessage"`
		}
		r := n.get("/state/runners/" + runner)
		if r.status != http.StatusOK {
			return false
		}
		switch untag(n.t, []byte(r.body), &state) {
		case "RunnerReady":
		case "RunnerFailed":
			n.t.Fatalf("runner %s: %s", runner, state.Error)
		default:
			return false
		}
	}
	return true
}

func TestExoBench(t *testing.T) {
	dir := saveExact(t)
	var n [3]*node
	for i := range n {
		o := options{home: t.TempDir()}
		if i == 0 {
			o.args = []string{"--models-dir", dir}
		}
		n[i] = member(t, n[0], o)
	}
	together(t, n[:]...)
	client := n[1] // which has no file of the model
	var models struct {
		Data []struct {
			ID   string `json:"hugging_face_id"`
			Name string `json:"name"`
			Size int    `json:"storage_size_megabytes"`
		} `json:"data"`
	}
	eventually(t, exact+" to be known", func() bool {
		client.read("/models?status=downloaded", &models)
		for _, m := range models.Data {
			if m.ID == exact && m.Name == exact && m.Size > 0 {
				return true
			}
		}
		return false
	})
	var list struct {
		Previews []struct {
			Sharding string          `json:"sharding"`
			Meta     string          `json:"instance_meta"`
			Instance json.RawMessage `json:"instance"`
			Error    *string         `json:"error"`
		} `json:"previews"`
	}
	eventually(t, "previews for three nodes", func() bool { // their speed is measured first
		client.read("/instance/previews?model_id="+exact, &list)
		fit := 0
		for _, p := range list.Previews {
			if p.Error == nil {
				fit++
			}
		}
		return fit == 6 // on 1, 2 and 3 nodes, with both shardings
	})
	var texts []string
	for _, p := range list.Previews {
		if p.Error != nil {
			if p.Meta != "MlxJaccl" {
				t.Errorf("%s %s: %s", p.Sharding, p.Meta, *p.Error)
			}
			continue
		}
		var want exoInstance
		if tag := untag(t, p.Instance, &want); tag != "MlxRingInstance" {
			t.Fatalf("the tag is %s", tag)
		}
		nodes := slices.Sorted(maps.Keys(want.Assignments.Runners))
		if len(nodes) == 1 && p.Sharding == "Tensor" {
			continue // the same as the other
		}
		what := fmt.Sprintf("%s on %d nodes", p.Sharding, len(nodes))
		for _, id := range nodes {
			shard := want.Assignments.Shards[want.Assignments.Runners[id]]
			if r := client.post("/download/start", fmt.Sprintf(`{"targetNodeId":%q,"shardMetadata":%s}`, id, shard)); r.status != http.StatusOK {
				t.Fatalf("%s: download to %s: status %d: %s", what, id, r.status, r.body)
			}
		}
		for _, id := range nodes {
			eventually(t, "the files on node "+id, func() bool { return client.downloaded(id, exact) })
		}
		if r := client.post("/instance", fmt.Sprintf(`{"instance":%s}`, p.Instance)); r.status != http.StatusOK {
			t.Fatalf("%s: status %d: %s", what, r.status, r.body)
		}
		eventually(t, what+" to be ready", func() bool { return client.serving(want.ID) })
		if r := client.get("/instance/await?model_id=" + exact + "&timeout_seconds=30"); !strings.Contains(r.body, `data: {"type":"ready"`) {
			t.Errorf("%s: await says %s", what, r.body)
		}
		var got exoInstance
		untag(t, []byte(client.get("/instance/"+want.ID).body), &got)
		if !maps.Equal(got.Assignments.Runners, want.Assignments.Runners) {
			t.Errorf("%s: the nodes are %v, previewed were %v", what, got.Assignments.Runners, want.Assignments.Runners)
		}
		for id, shard := range want.Assignments.Shards {
			if string(got.Assignments.Shards[id]) != string(shard) {
				t.Errorf("%s: shard %s is %s, previewed was %s", what, id, got.Assignments.Shards[id], shard)
			}
		}
		for range 2 { // the second one could be found in the cache
			const tokens = 24
			var b struct {
				Choices []struct {
					Message struct {
						Content string `json:"content"`
					} `json:"message"`
				} `json:"choices"`
				Stats struct {
					Prompt    int     `json:"prompt_tokens"`
					Generated int     `json:"generation_tokens"`
					Rate      float64 `json:"generation_tps"`
					Hit       string  `json:"prefix_cache_hit"`
				} `json:"generation_stats"`
			}
			r := client.post("/bench/chat/completions", ask(exact, question, "max_tokens", tokens, "temperature", 0, "logprobs", false, "stream", false))
			if err := json.Unmarshal([]byte(r.body), &b); err != nil || r.status != http.StatusOK {
				t.Fatalf("%s: status %d, %v: %s", what, r.status, err, r.body)
			}
			if b.Stats.Generated != tokens || b.Stats.Hit != "none" || b.Stats.Prompt == 0 || b.Stats.Rate <= 0 {
				t.Errorf("%s: got %+v", what, b.Stats)
			}
			texts = append(texts, b.Choices[0].Message.Content)
		}
		if r := client.must(http.MethodDelete, "/instance/"+want.ID, ""); r.status != http.StatusOK {
			t.Fatalf("%s: delete: status %d: %s", what, r.status, r.body)
		}
		if r := client.get("/instance/" + want.ID); r.status != http.StatusNotFound {
			t.Errorf("%s: it is deleted, and GET answers %d", what, r.status)
		}
	}
	if len(texts) != 10 || len(slices.Compact(slices.Clone(texts))) != 1 {
		t.Errorf("greedy answers of 5 placements, twice each: %q", texts)
	}
	// What was brought can be deleted, what somebody put there can't.
	for i, want := range []int{http.StatusConflict, http.StatusOK, http.StatusOK} {
		if r := client.must(http.MethodDelete, "/download/"+n[i].id()+"/"+exact, ""); r.status != want {
			t.Errorf("delete the files of node %d: status %d, want %d: %s", i, r.status, want, r.body)
		}
	}
	eventually(t, "the files to be gone", func() bool { return !client.downloaded(n[1].id(), exact) })
}

// A request of one node's client is ended at another node, by the id of its
// answer.
func TestExoCancel(t *testing.T) {
	args := []string{"--models-dir", saveExact(t)}
	var n [2]*node
	for i := range n {
		n[i] = member(t, n[0], options{home: t.TempDir(), args: args})
	}
	together(t, n[:]...)
	s := n[0].open("/v1/chat/completions", ask(exact, question, "stream", true, "max_tokens", 4000, "ignore_eos", true))
	first, err := s.data()
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(first), &c); err != nil || c.ID == "" {
		t.Fatalf("%v: %s", err, first)
	}
	if r := n[1].post("/v1/cancel/"+c.ID, ""); r.status != http.StatusOK || !strings.Contains(r.body, c.ID) {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	for {
		data, err := s.data()
		if err != nil {
			t.Fatalf("the stream ended without saying why: %v", err)
		}
		if strings.Contains(data, `"cancelled"`) {
			break
		}
	}
	if r := n[1].post("/v1/cancel/"+c.ID, ""); r.status != http.StatusNotFound {
		t.Errorf("once more: status %d: %s", r.status, r.body)
	}
}
