package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/config"
)

const capital = `{"model": "` + demo + `", "temperature": 0, "messages": [{"role": "user", "content": "What is the capital of France?"}]}`

type answer struct {
	Choices []struct{ Message struct{ Content string } }
}

// Every split answers over the OpenAI API with the text of the whole model.
func TestLocalShardsAnswer(t *testing.T) {
	whole := start(t, options(t, nil))
	var want answer
	if code := call(t, "POST", whole.URL()+"/v1/chat/completions", capital, &want); code != 200 {
		t.Fatalf("whole: %d", code)
	}
	for _, shards := range []string{"1x1", "2x1", "1x2", "2x2"} {
		t.Run(shards, func(t *testing.T) {
			n := start(t, options(t, func(c *config.Serve) { c.LocalShards = shards }))
			var got answer
			if code := call(t, "POST", n.URL()+"/v1/chat/completions", capital, &got); code != 200 || len(got.Choices) != 1 {
				t.Fatalf("%d, %+v", code, got)
			}
			// Close calls between two tokens may flip when ranks add up in
			// another order; the capital is no close call.
			if text := got.Choices[0].Message.Content; !strings.Contains(text, "Paris") || !strings.Contains(shards, "x2") && text != want.Choices[0].Message.Content {
				t.Errorf("text %q, whole %q", text, want.Choices[0].Message.Content)
			}
			models := n.worker.Models()
			if len(models) != 1 || models[0].Warning != "" || models[0].Info.Layers != 4 {
				t.Errorf("models %+v", models)
			}
		})
	}
}

// A model that can't be cut so is served whole, and the answer to a load says
// why.
func TestRefusedIsServedWhole(t *testing.T) {
	n := start(t, options(t, func(c *config.Serve) { c.LocalShards = "9x1" })) // the demo has 4 layers
	var loaded api.LoadAnswer
	if code := call(t, "POST", n.URL()+"/v1/cluster/models/load", `{"model_id": "`+demo+`"}`, &loaded); code/100 != 2 {
		t.Fatalf("load: %d, %+v", code, loaded)
	}
	if !strings.Contains(loaded.Message, "served whole") || !strings.Contains(loaded.Message, "4 layers") {
		t.Errorf("message %q does not say that it is served whole", loaded.Message)
	}
	var got answer
	if code := call(t, "POST", n.URL()+"/v1/chat/completions", capital, &got); code != 200 || !strings.Contains(got.Choices[0].Message.Content, "Paris") {
		t.Errorf("%d, %+v", code, got)
	}
}

// Activations as f16 are no secret to who asks.
func TestHalfPrecisionIsToldOf(t *testing.T) {
	n := start(t, options(t, func(c *config.Serve) { c.LocalShards, c.ShardHalf = "2x1", true }))
	var got answer
	if code := call(t, "POST", n.URL()+"/v1/chat/completions", capital, &got); code != 200 || !strings.Contains(got.Choices[0].Message.Content, "Paris") {
		t.Errorf("%d, %+v", code, got)
	}
	if m := n.worker.Models(); len(m) != 1 || !strings.Contains(m[0].Warning, "not exact") {
		t.Errorf("models %+v", m)
	}
}

func TestShardSettings(t *testing.T) {
	for want, change := range map[string]func(*config.Serve){
		"STAGESxRANKS":            func(c *config.Serve) { c.LocalShards = "two" },
		"say --local-shards":      func(c *config.Serve) { c.On = "10.0.0.1:7700" },
		"--shard-activations and": func(c *config.Serve) { c.ShardHalf = true },
		"HOST:PORT":               func(c *config.Serve) { c.LocalShards, c.On = "2x1", "nowhere" },
		"belong together":         func(c *config.Serve) { c.LocalShards, c.ShardTLSKey = "2x1", "key.pem" },
	} {
		if _, err := New(options(t, change)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A node without a cluster swaps too: the same answer, and the same outcome.
func TestSwapAlone(t *testing.T) {
	n := start(t, options(t, func(c *config.Serve) {
		c.LocalShards = "1x1"
		dir := t.TempDir()
		data, err := os.ReadFile(filepath.Join("..", "..", "bin", "models", demo+".gguf"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "second.gguf"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		c.ModelsDirs = append(c.ModelsDirs, dir)
	}))
	swap := func(old, next string, into any) int {
		return call(t, "POST", n.URL()+"/v1/cluster/models/swap", fmt.Sprintf(`{"unload_model_id": %q, "load_model_id": %q}`, old, next), into)
	}
	var refused api.ErrorResponse
	if code := swap(demo, "second", &refused); code != 404 || refused.Error.ErrorCode() != api.CodeModelNotLoaded {
		t.Errorf("swap of what is not loaded: %d, %+v", code, refused)
	}
	if code := call(t, "POST", n.URL()+"/v1/cluster/models/load", `{"model_id": "`+demo+`"}`, nil); code != 200 {
		t.Fatalf("load: %d", code)
	}
	if err := n.worker.Wait(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	var swapped api.SwapAnswer
	if code := swap(demo, "second", &swapped); code != 200 || swapped.UnloadedModel != demo || swapped.LoadedModel != "second" || swapped.InstanceID == "" || len(swapped.Placement) != 1 {
		t.Fatalf("swap: %d, %+v", code, swapped)
	}
	n.background.Wait()
	var models api.ClusterModels
	if call(t, "GET", n.URL()+"/v1/cluster/models", "", &models); len(models.Loaded) != 1 || models.Loaded[0].ModelID != "second" || !models.Loaded[0].Ready {
		t.Errorf("loaded: %+v", models.Loaded)
	}
	if code := swap("second", "second", &refused); code != 422 {
		t.Errorf("swap for itself: %d, %+v", code, refused)
	}
}

// A node without a cluster answers what it is asked as it is: it plans, it says
// why there is no second replica, and where a drain leads.
func TestAnswersAlone(t *testing.T) {
	n := start(t, options(t, func(c *config.Serve) { c.LocalShards = "1x1" }))
	load := func(more string, into any) int {
		return call(t, "POST", n.URL()+"/v1/cluster/models/load", `{"model_id": "`+demo+`"`+more+`}`, into)
	}
	var planned, loaded api.LoadAnswer
	if code := load(`, "dry_run": true, "slots": 2`, &planned); code != 200 || !planned.DryRun || planned.Slots != 2 || planned.ContextLength == 0 || !strings.HasPrefix(planned.Message, "would load") {
		t.Errorf("plan: %d, %+v", code, planned)
	}
	if len(n.worker.Models()) != 0 {
		t.Errorf("the plan was carried out: %+v", n.worker.Models())
	}
	var refused api.ErrorResponse
	if code := load(`, "replicas": 2`, &refused); code != 409 || !strings.Contains(refused.Error.Message, "without a cluster") {
		t.Errorf("replicas: %d, %+v", code, refused)
	}
	if code := load(`, "replicas": 1, "slots": 2`, &loaded); code != 200 || loaded.ContextLength != planned.ContextLength || loaded.EstimatedMemoryGB != planned.EstimatedMemoryGB {
		t.Errorf("load: %d, %+v, planned %+v", code, loaded, planned)
	}
	if code := load(`, "dry_run": true`, &refused); code != 409 || refused.Error.ErrorCode() != api.CodeModelLoaded {
		t.Errorf("plan of what is loaded: %d, %+v", code, refused)
	}
	node := n.URL() + "/v1/cluster/nodes/" + n.id
	if code := call(t, "POST", node+"/drain", "", &refused); code != 409 || !strings.Contains(refused.Error.Message, "no other to move its models to") {
		t.Errorf("drain: %d, %+v", code, refused)
	}
	if code := call(t, "POST", node+"/resume", "", nil); code != 200 {
		t.Errorf("resume: %d", code)
	}
	var keys api.KeyList
	if code := call(t, "GET", n.URL()+"/v1/cluster/keys", "", &keys); code != 200 || len(keys.Keys) != 0 {
		t.Errorf("keys: %d, %+v", code, keys)
	}
	if code := call(t, "POST", n.URL()+"/v1/cluster/keys", `{"name": "a", "role": "chat"}`, &refused); code != 409 || !strings.Contains(refused.Error.Message, "--api-key") {
		t.Errorf("add a key: %d, %+v", code, refused)
	}
}
