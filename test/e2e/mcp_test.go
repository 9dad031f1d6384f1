//go:build unix

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// agent is a client of the protocol that is joined with a server.
func agent(t *testing.T, how mcp.Transport) *mcp.ClientSession {
	t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, nil)
	s, err := c.Connect(t.Context(), how, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// tool calls one, and gives its structured answer, or its text if it is an
// error.
func tool(t *testing.T, s *mcp.ClientSession, name string, arguments map[string]any) (answer map[string]any, refusal string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := s.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: arguments})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if r.IsError {
		return nil, r.Content[0].(*mcp.TextContent).Text
	}
	return r.StructuredContent.(map[string]any), ""
}

// An agent sees the cluster, loads, asks and unloads, over both forms of the
// protocol, which give the same tools.
func TestAgent(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, "other", changed(t, gguftest.KV("general.name", "other")))
	n := startDemo(t, "--api-key", "secret", "--models-dir", dir)
	n.key = "secret"
	cmd := command(n.home, []string{"SKEIN_API_KEY=secret"}, "mcp", "--host", n.url)
	cmd.Stderr = os.Stderr
	forms := map[string]mcp.Transport{
		"HTTP":  &mcp.StreamableClientTransport{Endpoint: n.url + "/mcp", HTTPClient: &http.Client{Transport: withKey("secret")}},
		"stdio": &mcp.CommandTransport{Command: cmd},
	}
	tools := map[string]string{}
	for form, how := range forms {
		s := agent(t, how)
		list, err := s.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(list.Tools)
		if err != nil {
			t.Fatal(err)
		}
		tools[form] = string(text)

		if _, refusal := tool(t, s, "load_model", map[string]any{"model_id": demo}); !strings.Contains(refusal, "Next: use it as it is with chat") {
			t.Errorf("%s: loaded twice: %q", form, refusal)
		}
		question := map[string]any{"model_id": demo, "temperature": 0, "max_tokens": 16, "messages": []any{map[string]any{"role": "user", "content": "What is Skein?"}}}
		answer, refusal := tool(t, s, "chat", question)
		if text, _ := answer["text"].(string); text != n.answer(demo, "What is Skein?", "max_tokens", 16) {
			t.Errorf("%s: chat %v %s", form, answer, refusal)
		}
		overview, _ := tool(t, s, "cluster_overview", nil)
		if overview["loaded_model_count"] != 1.0 {
			t.Errorf("%s: overview %v", form, overview)
		}
		begin, _ := tool(t, s, "recent_events", nil)
		gone, refusal := tool(t, s, "unload_model", map[string]any{"model_id": demo, "drain_seconds": 0})
		if gone["model_id"] != demo {
			t.Errorf("%s: %v %s", form, gone, refusal)
		}
		eventually(t, "the model to be gone", func() bool {
			status, _ := tool(t, s, "model_status", map[string]any{"model_id": demo})
			return status["status"] == "not_loaded"
		})
		if _, refusal := tool(t, s, "unload_model", map[string]any{"model_id": demo}); !strings.Contains(refusal, "is not loaded") {
			t.Errorf("%s: unload of nothing: %q", form, refusal)
		}
		loaded, refusal := tool(t, s, "load_model", map[string]any{"model_id": strings.ToUpper(demo), "wait_seconds": 50})
		if loaded["ready"] != true || loaded["model_id"] != demo {
			t.Fatalf("%s: %v %s", form, loaded, refusal)
		}
		happened, _ := tool(t, s, "recent_events", map[string]any{"after": begin["last_event_id"], "wait_seconds": 50})
		if text, err := json.Marshal(happened); err != nil || !strings.Contains(string(text), demo+" is ") {
			t.Errorf("%s: events %s, %v", form, text, err)
		}
		swap := map[string]any{"unload_model_id": demo, "load_model_id": "other"}
		var plan map[string]any
		eventually(t, "the other model to be known", func() bool {
			plan, refusal = tool(t, s, "plan_swap", swap)
			return refusal == ""
		})
		if plan["dry_run"] != true || plan["loaded_model"] != "other" {
			t.Errorf("%s: plan %v", form, plan)
		}
		for _, back := range []bool{false, true} {
			if back {
				swap["unload_model_id"], swap["load_model_id"] = "other", demo
			}
			swap["wait_seconds"], swap["drain_seconds"] = 50, 0
			var done map[string]any
			// A swap ends a moment after its new model is ready; until then another is refused.
			eventually(t, "the swap before to end", func() bool {
				done, refusal = tool(t, s, "swap_models", swap)
				return !strings.Contains(refusal, "is being swapped")
			})
			if done["ready"] != true || done["loaded_model"] != swap["load_model_id"] {
				t.Errorf("%s: swap %v: %v %s", form, swap, done, refusal)
			}
		}
		eventually(t, "the swap to end", func() bool {
			o, _ := tool(t, s, "cluster_overview", nil)
			return o["loaded_model_count"] == 1.0
		})
	}
	if tools["HTTP"] != tools["stdio"] {
		t.Error("the two forms have different tools")
	}
	if res := n.must(http.MethodPost, "/mcp", "{"); res.status != http.StatusBadRequest || !strings.Contains(string(res.body), "-32700") {
		t.Errorf("half a message: %d %s", res.status, res.body)
	}
}

// withKey sends a key with each request.
type withKey string

func (k withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(k))
	return http.DefaultTransport.RoundTrip(r)
}

// `skein mcp` outlives nodes: it starts without one, says so, and works once
// there is one. Nothing but messages is on its stdout.
func TestAgentBeforeTheNode(t *testing.T) {
	home := t.TempDir()
	cmd := command(home, nil, "mcp", "-v")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := newOutput(), newOutput()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	send := func(text, want string) {
		t.Helper()
		if _, err := in.Write([]byte(text + "\n")); err != nil {
			t.Fatal(err)
		}
		if !stdout.wait(t, want) {
			t.Fatalf("no %q in %s\n%s", want, stdout, stderr)
		}
	}
	send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`, `"id":1,`)
	send(`this is no message`, `"code":-32700`)
	send(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"cluster_health"}}`, "no node is running")
	start(t, options{home: home})
	send(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"cluster_health"}}`, `\"healthy\":`) // it may have no master yet
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("at the end of stdin: %v\n%s", err, stderr)
	}
	for _, line := range bytes.Split(bytes.TrimSpace([]byte(stdout.String())), []byte("\n")) {
		if !json.Valid(line) {
			t.Errorf("on stdout: %s", line)
		}
	}
}
