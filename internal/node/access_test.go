package node

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/httpapi/access"
)

// TestEveryRouteHasARule: somebody has thought of who may use a route, and
// said so in the table of package access.
func TestEveryRouteHasARule(t *testing.T) {
	n, err := New(options(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	patterns := n.server.Patterns()
	if len(patterns) < 20 {
		t.Fatalf("there are only %d routes: %v", len(patterns), patterns)
	}
	for _, p := range patterns {
		method, path, ok := strings.Cut(p, " ")
		methods := []string{method}
		if !ok {
			path, methods = p, []string{http.MethodGet, http.MethodPost, http.MethodDelete}
		}
		for _, m := range methods {
			need, said := access.Rule(m, path)
			if !said {
				t.Errorf("route %s %s needs %s by default; say so in the table of internal/httpapi/access/rules.go", m, path, need)
			}
			// What /mcp does it asks of the other routes, with its caller's key.
			if m != http.MethodGet && need != access.NeedManage && need != access.NeedChat && path != "/mcp" {
				t.Errorf("route %s %s needs %s, which is too little to change anything", m, path, need)
			}
		}
	}
}

// A command on the node's own machine gets in with what the address file says,
// and the file is for its owner alone.
func TestTokenOfTheAddressFile(t *testing.T) {
	o := options(t, func(c *config.Serve) { c.NamedKeys = []config.NamedKey{{Name: "ci", Role: "chat", Secret: "s"}} })
	n := start(t, o)
	published, err := o.Home.ReadNode()
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]int{published.APIKey: 200, "s": 403, "": 401, "none": 401} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+"/v1/cluster", nil)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			req.Header.Set("X-Api-Key", key)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("with key %.12q: %d, want %d", key, res.StatusCode, want)
		}
	}
	info, err := os.Stat(o.Home.NodeFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the address file has mode %v, %v", info.Mode(), err)
	}
}

// The names that a page can't have: those of loopback, of this machine, and
// those that its user allows.
func TestHostsOfANode(t *testing.T) {
	n := start(t, options(t, func(c *config.Serve) { c.AllowHosts = []string{"proxy.example"} }))
	_, port, _ := strings.Cut(strings.TrimPrefix(n.URL(), "http://"), ":")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{
		"localhost:" + port: 200, "127.0.0.1": 200, "[::1]:" + port: 200, "proxy.example": 200, "PROXY.example:443": 200, name: 200, strings.TrimSuffix(name, ".local") + ".local": 200,
		"evil.example": 403, "localhost.evil.example": 403, "proxy.example.evil.example": 403, name + ".evil.example": 403,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+"/v1/models", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header.Set("Origin", "http://"+host)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("host %s: %d, want %d", host, res.StatusCode, want)
		}
	}
}

// The same command again makes no second key, and can't tell the secret of the
// first.
func TestKeyIsToldOnce(t *testing.T) {
	o := options(t, nil)
	n := start(t, o)
	published, err := o.Home.ReadNode()
	if err != nil {
		t.Fatal(err)
	}
	for try, want := range []int{200, 409} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+"/v1/cluster/keys", strings.NewReader(`{"name": "ops", "role": "manage"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", "mine")
		req.Header.Set("X-Api-Key", published.APIKey)
		// A node that has just started may have no master yet.
		code, text := 503, ""
		for code == 503 {
			changes := n.control.Cluster().Changes()
			req.Body, _ = req.GetBody()
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if code, text = res.StatusCode, string(b); code == 503 {
				<-changes
			}
		}
		if code != want || strings.Contains(text, "sk-skein-") != (try == 0) {
			t.Errorf("try %d: %d %.60s", try+1, code, text)
		}
	}
	if keys := n.keys(); len(keys) != 1 || keys["ops"].By != access.NameLocal {
		t.Errorf("keys %+v", keys)
	}
}
