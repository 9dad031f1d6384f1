package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/home"
)

// program is bin/skein: its children are real runners.
func program(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "skein"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("these tests need the program; run 'make build' first: %v", err)
	}
	return path
}

func options(t *testing.T, change func(*config.Serve)) Options {
	t.Helper()
	c, _, err := config.Resolve(config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	c.APIPort, c.Threads = 0, 1
	if change != nil {
		change(&c)
	}
	h, err := home.Locate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return Options{Home: h, Config: c, Executable: program(t), Version: "test", Logger: slog.New(slog.DiscardHandler)}
}

func start(t *testing.T, o Options) *Node {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func call(t *testing.T, method, url, body string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%s %s: %v in %s", method, url, err, data)
		}
	}
	return res.StatusCode
}

const demo = "skein-demo-4m-q8_0"

func TestLoadsOnRequestListsAndUnloads(t *testing.T) {
	n := start(t, options(t, nil))
	var ready struct{ Status string }
	if code := call(t, "GET", n.URL()+"/readyz", "", &ready); code != 200 {
		t.Fatalf("readyz: %d", code)
	}
	if len(n.Models()) != 0 {
		t.Fatal("something is loaded before anybody asked")
	}
	var answer struct {
		Model   string
		Choices []struct{ Message struct{ Content string } }
		Usage   struct{ TotalTokens int }
	}
	body := `{"model": "SKEIN-demo-4M-q8_0.gguf", "temperature": 0, "messages": [{"role": "user", "content": "What is the capital of France?"}]}`
	if code := call(t, "POST", n.URL()+"/v1/chat/completions", body, &answer); code != 200 || !strings.Contains(answer.Choices[0].Message.Content, "Paris") || answer.Model != demo {
		t.Fatalf("%d, %+v", code, answer)
	}
	var loaded api.ClusterModels
	if call(t, "GET", n.URL()+"/v1/cluster/models", "", &loaded); len(loaded.Loaded) != 1 || !loaded.Loaded[0].Ready || loaded.Loaded[0].ContextLength != 1024 {
		t.Errorf("loaded: %+v", loaded)
	}
	var refused api.ErrorResponse
	if code := call(t, "POST", n.URL()+"/v1/cluster/models/load", `{"model_id": "`+demo+`"}`, &refused); code != 409 {
		t.Errorf("load of what is loaded: %d, %+v", code, refused)
	}
	for body, want := range map[string]int{
		`{"model_id": "` + demo + `", "min_nodes": 2}`:                 409,
		`{"model_id": "` + demo + `", "preferred_sharding": "tensor"}`: 409,
		`{"model_id": "nothing-like-it"}`:                              404,
	} {
		if code := call(t, "POST", n.URL()+"/v1/cluster/models/load", body, nil); code != want {
			t.Errorf("load %s: %d, want %d", body, code, want)
		}
	}
	unloaded := func() {
		t.Helper()
		for {
			changes := n.control.Cluster().Changes()
			if state, _ := n.control.Cluster().State(); len(state.Wanted) == 0 && len(state.Instances) == 0 {
				return
			}
			select {
			case <-changes:
			case <-time.After(30 * time.Second):
				t.Fatal("it is not unloaded")
			}
		}
	}
	var gone api.UnloadAnswer
	if code := call(t, "DELETE", n.URL()+"/v1/cluster/models/"+demo, "", &gone); code != 200 || gone.ModelID != demo || gone.FreedMemoryGB < 0 {
		t.Errorf("unload: %d, %+v", code, gone)
	}
	unloaded()
	var lowered api.LoadAnswer
	if code := call(t, "POST", n.URL()+"/v1/cluster/models/load", `{"model_id": "`+demo+`", "context_length": 5000}`, &lowered); code != 200 || !strings.Contains(lowered.Message, "1024") {
		t.Errorf("load with more context than the model knows: %d, %+v", code, lowered)
	}
	if code := call(t, "DELETE", n.URL()+"/v1/cluster/models/"+demo, "", nil); code != 200 {
		t.Errorf("unload while it loads: %d", code)
	}
	unloaded()
	if code := call(t, "DELETE", n.URL()+"/v1/cluster/models/"+demo, "", nil); code != 404 {
		t.Errorf("unload of what is not loaded: %d", code)
	}
}

func TestPublishesItsAddress(t *testing.T) {
	o := options(t, func(c *config.Serve) { c.Load = []string{demo}; c.APIKeys = []string{"key-1"} })
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := n.Models(); len(m) != 1 || !m[0].Ready {
		t.Errorf("loaded at start: %+v", m)
	}
	published, err := o.Home.ReadNode()
	if err != nil || published.API != n.URL() || published.PID != os.Getpid() || published.APIKey == "" || published.APIKey == "key-1" {
		t.Errorf("address file %+v, %v", published, err)
	}
	if code := call(t, "GET", n.URL()+"/v1/models", "", nil); code != 401 {
		t.Errorf("without a key: %d", code)
	}
	if err := n.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Home.ReadNode(); !errors.Is(err, home.ErrNoNode) {
		t.Errorf("after the stop: %v", err)
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	o := options(t, func(c *config.Serve) { c.Load = []string{"no-such-model"} })
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "no-such-model") || !strings.Contains(err.Error(), demo) {
		t.Errorf("start with an unknown model: %v, want what there is", err)
	}
	if _, err := o.Home.ReadNode(); !errors.Is(err, home.ErrNoNode) {
		t.Errorf("address file: %v", err)
	}
	if _, err := http.Get(n.URL() + "/healthz"); err == nil {
		t.Error("it still answers")
	}
}

func TestExposureNeedsAKey(t *testing.T) {
	for _, c := range []struct {
		host string
		key  bool
		open bool
		ok   bool
	}{
		{"127.0.0.1", false, false, true}, {"localhost", false, false, true}, {"::1", false, false, true}, {"127.8.8.8", false, false, true},
		{"0.0.0.0", false, false, false}, {"", false, false, false}, {"192.0.2.1", false, false, false}, {"example.org", false, false, false},
		{"0.0.0.0", true, false, true}, {"0.0.0.0", false, true, true},
	} {
		s := config.Serve{APIHost: c.host, InsecureNoAuth: c.open}
		if c.key {
			s.APIKeys = []string{"k"}
		}
		err := checkExposure(s, nil)
		if c.host == "0.0.0.0" && !c.key && !c.open {
			for role, ok := range map[cluster.Role]bool{cluster.RoleManage: true, cluster.RoleChat: false} {
				if got := checkExposure(s, map[string]cluster.Key{"x": {Role: role}}); (got == nil) != ok {
					t.Errorf("with a key of the cluster that may %s: %v", role, got)
				}
			}
		}
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "--api-key") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestMissingEngine(t *testing.T) {
	o := options(t, nil)
	o.Executable = filepath.Join(t.TempDir(), "skein")
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "skein engine install") {
		t.Errorf("without an engine: %v, want the command that brings one", err)
	}
}

func TestPrivateNodeReadsAFile(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "models", "demo", demo+".gguf"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mine.gguf")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(t, nil)
	o.Private, o.Files = true, []string{file}
	n := start(t, o)
	if _, err := o.Home.ReadNode(); !errors.Is(err, home.ErrNoNode) {
		t.Errorf("a private node published its address: %v", err)
	}
	var list api.LibraryList
	if call(t, "GET", n.URL()+"/v1/cluster/library", "", &list); len(list.Models) != 2 {
		t.Errorf("library %+v", list)
	}
	body := `{"model": "mine", "prompt": [1, 2, 3], "echo": true, "max_tokens": 1, "temperature": 0}`
	var done struct{ Choices []struct{ Text string } }
	if code := call(t, "POST", n.URL()+"/v1/completions", body, &done); code != 200 || done.Choices[0].Text == "" {
		t.Errorf("%d, %+v", code, done)
	}
}
