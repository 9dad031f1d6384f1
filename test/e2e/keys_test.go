//go:build unix

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestKeysOfTheCluster: a key that one node made opens all of them, for what its
// role may, and over restarts; revoked, it opens none. Who did what is told, and
// no hash of a key.
func TestKeysOfTheCluster(t *testing.T) {
	o := [3]options{{home: t.TempDir()}, {home: t.TempDir()}, {home: t.TempDir()}}
	var n [3]*node
	for i := range n {
		n[i] = member(t, n[0], o[i])
	}
	together(t, n[:]...)
	for _, x := range n {
		if r := x.get("/v1/models"); r.status != http.StatusOK {
			t.Fatalf("without any key, on this machine: status %d: %s", r.status, r.body)
		}
	}

	add := func(at *node, args ...string) string {
		t.Helper()
		r := skein(t, at.home, "", append([]string{"keys", "add", "-q"}, args...)...)
		secret := strings.TrimSpace(r.stdout)
		if r.code != 0 || !strings.HasPrefix(secret, "sk-skein-") || r.stderr != "" {
			t.Fatalf("keys add %v: code %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
		}
		return secret
	}
	ops := add(n[0], "ops", "--role", "manage")
	// From here on nobody gets in without a key, on any node; commands with the
	// token of an address file do.
	for _, x := range n {
		eventually(t, "the first key to be known", func() bool { return x.get("/v1/models").status == http.StatusUnauthorized })
		if r, err := x.sendAs("", http.MethodGet, "/v1/cluster", "", "X-Forwarded-For", "127.0.0.1"); err != nil || r.status != http.StatusUnauthorized {
			t.Errorf("with a header that says it is near: %d, %v", r.status, err)
		}
	}
	chat := add(n[1], "ci", "--role", "chat", "--expires", "1h", "--concurrent", "8")
	read := add(n[2], "grafana", "--role", "read", "--requests-per-minute", "1000")

	check := func(at *node, key, method, path, body string, status int, texts ...string) {
		t.Helper()
		r, err := at.sendAs(key, method, path, body)
		if err != nil || r.status != status {
			t.Errorf("%s %s: status %d, %v, want %d: %s", method, path, r.status, err, status, r.body)
		}
		contains(t, r.body, texts...)
	}
	for _, x := range n {
		eventually(t, "the keys to be known", func() bool {
			a, err := x.sendAs(chat, http.MethodGet, "/v1/models", "")
			b, err2 := x.sendAs(read, http.MethodGet, "/v1/models", "")
			return err == nil && err2 == nil && a.status == http.StatusOK && b.status == http.StatusOK
		})
		check(x, chat, http.MethodGet, "/v1/cluster", "", 403, "insufficient_role", "role read")
		check(x, read, http.MethodGet, "/v1/cluster", "", 200)
		check(x, read, http.MethodGet, "/v1/cluster/keys", "", 403, "role manage")
		check(x, read, http.MethodPost, "/v1/chat/completions", ask(demo, "Hello"), 403, "role chat")
		check(x, read, http.MethodPost, "/v1/cluster/keys", `{"name":"mine","role":"manage"}`, 403, "role manage")
		check(x, ops, http.MethodGet, "/v1/cluster/keys", "", 200, "grafana", `"created_by":"local"`)
	}
	check(n[2], chat, http.MethodPost, "/v1/chat/completions", ask(demo, "Hello"), 200)
	check(n[0], ops, http.MethodPost, "/v1/cluster/nodes/"+n[2].id()+"/drain", "", 200)
	check(n[0], ops, http.MethodPost, "/v1/cluster/nodes/"+n[2].id()+"/resume", "", 200)

	// What somebody did is told on all nodes, with who and where.
	var audits struct {
		Audit []struct{ Key, NodeID, What, Result, CommandID string } `json:"audit"`
	}
	eventually(t, "the audits to be known", func() bool {
		r, err := n[2].sendAs(read, http.MethodGet, "/v1/cluster/audit", "")
		return err == nil && json.Unmarshal([]byte(strings.NewReplacer("node_id", "NodeID", "command_id", "CommandID").Replace(r.body)), &audits) == nil &&
			slices.ContainsFunc(audits.Audit, func(a struct{ Key, NodeID, What, Result, CommandID string }) bool {
				return a.What == "resume node "+n[2].id() && a.Key == "ops" && a.NodeID == n[0].id() && a.Result == "done" && a.CommandID != ""
			})
	})
	var whos []string
	for _, a := range audits.Audit {
		whos = append(whos, a.Key+": "+a.What)
	}
	for _, want := range []string{"local: add key ops (manage)", "local: add key ci (chat)", "ci: load " + demo, "ops: drain node " + n[2].id()} {
		if !slices.Contains(whos, want) {
			t.Errorf("%q is not among the audits %q", want, whos)
		}
	}

	skein(t, n[2].home, "", "keys", "revoke", "ci").want(t, 0, "revoked on all nodes")
	for _, x := range n {
		eventually(t, "the revocation to be known", func() bool {
			r, err := x.sendAs(chat, http.MethodGet, "/v1/models", "")
			return err == nil && r.status == http.StatusUnauthorized
		})
	}

	// After a restart of all of them, at once and with nothing but their disks.
	for i, x := range n {
		x.stop()
		n[i] = nil
	}
	lonely := launch(t, options{home: o[2].home, args: []string{"-v"}})
	lonely.awaitUp()
	check(lonely, "", http.MethodGet, "/v1/models", "", 401)
	check(lonely, chat, http.MethodGet, "/v1/models", "", 401)
	check(lonely, ops, http.MethodGet, "/v1/cluster/keys", "", 200, "grafana")
	check(lonely, read, http.MethodGet, "/v1/cluster", "", 200)
	// A node that has learnt of a key that may manage may listen to the network.
	lonely.stop()
	wide := launch(t, options{home: o[2].home, args: []string{"-v", "--api-host", "0.0.0.0"}})
	wide.awaitUp()
	check(wide, "", http.MethodGet, "/v1/models", "", 401)
	check(wide, ops, http.MethodGet, "/v1/models", "", 200)
	skein(t, o[2].home, "", "keys", "list").want(t, 0, "grafana", "ops")

	// No answer, event or log has a hash of a key, and no log a secret.
	told := lonely.stderr.String() + lonely.stdout.String() + wide.stderr.String()
	for _, path := range []string{"/v1/cluster", "/v1/cluster/keys", "/v1/cluster/audit", "/v1/cluster/nodes", "/state", "/events"} {
		r, err := wide.sendAs(ops, http.MethodGet, path, "")
		if err != nil {
			t.Fatal(err)
		}
		told += r.body
	}
	s, _ := wide.stream(ops, "/v1/cluster/events")
	told += s
	for _, secret := range []string{ops, chat, read} {
		sum := sha256.Sum256([]byte(secret))
		for _, form := range []string{secret, hex.EncodeToString(sum[:]), fmt.Sprint(sum[:8])} {
			if strings.Contains(told, form) {
				t.Errorf("%s is told", form)
			}
		}
	}
	// Once the last is gone, this machine needs none, and others are not let in.
	for _, name := range []string{"grafana", "ops"} {
		skein(t, o[2].home, "", "keys", "revoke", name).want(t, 0, "revoked")
	}
	check(wide, "", http.MethodGet, "/v1/models", "", 200)
}

// sendAs is try with another key, "": none, and more headers as pairs.
func (n *node) sendAs(key, method, path, body string, headers ...string) (response, error) {
	as := *n
	as.key, as.headers = key, headers
	return as.try(method, path, body)
}

// stream reads the first event of a stream.
func (n *node) stream(key, path string) (string, error) {
	as := *n
	as.key = key
	resp, err := as.request(n.t.Context(), http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b strings.Builder
	for part := make([]byte, 4096); !strings.Contains(b.String(), "\ndata: ") || !strings.HasSuffix(b.String(), "\n\n"); {
		k, err := resp.Body.Read(part)
		b.Write(part[:k])
		if err != nil {
			return b.String(), err
		}
	}
	return b.String(), nil
}
