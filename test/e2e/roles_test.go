//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// addKey makes a key of the cluster at a node and waits until all know it.
func addKey(t *testing.T, at *node, all []*node, args ...string) string {
	t.Helper()
	r := skein(t, at.home, "", append([]string{"keys", "add", "-q"}, args...)...)
	secret := strings.TrimSpace(r.stdout)
	if r.code != 0 || !strings.HasPrefix(secret, "sk-skein-") {
		t.Fatalf("keys add %v: code %d, stdout %q, stderr %q", args, r.code, r.stdout, r.stderr)
	}
	for _, x := range all {
		eventually(t, "a key to be known", func() bool {
			a, err := x.sendAs(secret, http.MethodGet, "/v1/models", "")
			return err == nil && a.status == http.StatusOK
		})
	}
	return secret
}

// openAs is open with another key.
func (n *node) openAs(key, path, body string) *stream {
	as := *n
	as.key = key
	return as.open(path, body)
}

// begun reads the first event of a streamed answer and gives its id.
func (s *stream) begun() string {
	s.t.Helper()
	first, err := s.data()
	if err != nil {
		s.t.Fatal(err)
	}
	var c struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(first), &c); err != nil || c.ID == "" {
		s.t.Fatalf("%v: %s", err, first)
	}
	return c.ID
}

// cancelled reads a stream to the error that says that it was cancelled.
func (s *stream) cancelled() {
	s.t.Helper()
	for {
		data, err := s.data()
		if err != nil {
			s.t.Fatalf("the stream ended without saying why: %v", err)
		}
		if strings.Contains(data, `"cancelled"`) {
			return
		}
	}
}

// TestCancelOnesOwn: a key with the role chat ends its own request, at whatever
// node it asks, and nobody else's; a key that may manage ends any. That is so
// for keys of the cluster and for those of nodes' configurations.
func TestCancelOnesOwn(t *testing.T) {
	args := []string{"--models-dir", saveExact(t), "--named-key", "robot:chat:of-a-file", "--api-key", "boss"}
	var n [3]*node
	for i := range n {
		o := options{home: t.TempDir(), args: args}
		if i == 2 { // the same secret by another name, and another one by the same
			o.args = append(args[:2:2], "--named-key", "machine:chat:of-a-file", "--named-key", "robot:chat:of-another", "--api-key", "boss")
		}
		n[i] = member(t, n[0], o)
		n[i].key = "boss"
	}
	together(t, n[:]...)
	ann := addKey(t, n[0], n[:], "ann", "--role", "chat")
	bob := addKey(t, n[1], n[:], "bob", "--role", "chat")
	read := addKey(t, n[2], n[:], "grafana", "--role", "read")

	const endless = 100_000
	body := ask(exact, question, "stream", true, "max_tokens", endless, "ignore_eos", true)
	eventually(t, exact+" to be known", func() bool {
		r, err := n[0].sendAs(ann, http.MethodGet, "/v1/models/"+exact, "")
		return err == nil && r.status == http.StatusOK
	})
	body = strings.Replace(body, fmt.Sprint(endless), "4000", 1)
	for _, c := range []struct {
		name, owner string
		at, ask     int // the request is opened at one node, the other is asked to end it
		strangers   []string
		by          string
	}{
		{"at the same node", ann, 0, 0, []string{bob, "of-a-file"}, ann},
		{"at another node", ann, 0, 1, []string{bob, "of-a-file"}, ann},
		{"at the third node", bob, 1, 2, []string{ann, "of-another"}, bob},
		{"of a configuration", "of-a-file", 0, 2, []string{ann, "of-another"}, "of-a-file"},
		{"by who may manage", ann, 2, 1, nil, "boss"},
	} {
		s := n[c.at].openAs(c.owner, "/v1/chat/completions", body)
		id := s.begun()
		for _, stranger := range c.strangers {
			r, err := n[c.ask].sendAs(stranger, http.MethodPost, "/v1/cancel/"+id, "")
			if err != nil || r.status != http.StatusNotFound || !strings.Contains(r.body, "no open request") {
				t.Errorf("%s: another's request: %d, %v: %s", c.name, r.status, err, r.body)
			}
		}
		if r, err := n[c.ask].sendAs(read, http.MethodPost, "/v1/cancel/"+id, ""); err != nil || r.status != http.StatusForbidden {
			t.Errorf("%s: a key that reads: %d, %v: %s", c.name, r.status, err, r.body)
		}
		if _, err := s.data(); err != nil {
			t.Errorf("%s: the request was ended by somebody else: %v", c.name, err)
		}
		if r, err := n[c.ask].sendAs(c.by, http.MethodPost, "/v1/cancel/"+id, ""); err != nil || r.status != http.StatusOK {
			t.Fatalf("%s: %d, %v: %s", c.name, r.status, err, r.body)
		}
		s.cancelled()
		if r, err := n[c.ask].sendAs(c.by, http.MethodPost, "/v1/cancel/"+id, ""); err != nil || r.status != http.StatusNotFound {
			t.Errorf("%s: once more: %d, %v", c.name, r.status, err)
		}
	}
}

// follow reads a stream of changes until one is as wanted.
func (n *node) follow(key, path string, begun chan<- struct{}, ok func(data string) bool) error {
	as := *n
	as.key = key
	resp, err := as.request(n.t.Context(), http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	first := true
	text := ""
	for part := make([]byte, 4096); ; {
		k, err := resp.Body.Read(part)
		text += string(part[:k])
		for {
			event, rest, whole := strings.Cut(text, "\n\n")
			if !whole {
				break
			}
			text = rest
			_, data, is := strings.Cut(event, "\ndata: ")
			if is && first {
				first = false
				close(begun)
			}
			if is && ok(data) {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// TestRefusalsAreTold: what was refused is told on every node, by whose key,
// and a key that is refused without end makes neither log nor list grow.
func TestRefusalsAreTold(t *testing.T) {
	var n [3]*node
	for i := range n {
		n[i] = member(t, n[0], options{home: t.TempDir()})
	}
	together(t, n[:]...)
	ops := addKey(t, n[0], n[:], "ops", "--role", "manage")
	read := addKey(t, n[0], n[:], "grafana", "--role", "read")

	type audit struct {
		Audit *struct {
			Key    string `json:"key"`
			Node   string `json:"node_id"`
			What   string `json:"what"`
			Result string `json:"result"`
			Count  int    `json:"count"`
		} `json:"audit"`
	}
	wants := []struct{ key, what, result string }{
		{"grafana", "POST /v1/cluster/models/load", "needs a key with the role manage"}, // by its role
		{"ops", "POST /v1/cluster/models/load", "there is no model"},                    // by the state
		{"ops", "POST /v1/cluster/keys", "there is a key grafana"},                      // by the master
		{"ops", "POST /v1/cluster/models/swap", "load_model_id"},                        // by its own form
		{"ops", "POST /place_instance", "min_nodes"},                                    // of another dialect
		{"grafana", "DELETE /v1/cluster/models/", "needs a key with the role manage"},   // by an agent's tool
	}
	done := make(chan error, len(n))
	for _, x := range n {
		begun := make(chan struct{})
		missing := map[string]bool{}
		for _, w := range wants {
			missing[w.key+w.what+w.result] = true
		}
		go func() {
			done <- x.follow(read, "/v1/cluster/events?types=audit", begun, func(data string) bool {
				var e audit
				if json.Unmarshal([]byte(data), &e) == nil && e.Audit != nil && e.Audit.Node == n[1].id() {
					for _, w := range wants {
						if e.Audit.Key == w.key && strings.HasPrefix(e.Audit.What, w.what) && strings.Contains(e.Audit.Result, w.result) && strings.HasPrefix(e.Audit.Result, "refused: ") {
							delete(missing, w.key+w.what+w.result)
						}
					}
				}
				return len(missing) == 0
			})
		}()
		<-begun
	}
	send := func(key, path, body string) {
		t.Helper()
		if r, err := n[1].sendAs(key, http.MethodPost, path, body); err != nil || r.status < 400 {
			t.Fatalf("%s %s: %d, %v: %s", path, body, r.status, err, r.body)
		}
	}
	eventually(t, "the model to be known", func() bool {
		r, err := n[1].sendAs(read, http.MethodGet, "/state/downloads", "")
		return err == nil && strings.Contains(r.body, demo)
	})
	send(read, "/v1/cluster/models/load", loadBody("no/such", 1))
	send(ops, "/v1/cluster/models/load", loadBody("no/such", 1))
	send(ops, "/v1/cluster/keys", `{"name":"grafana","role":"chat"}`)
	send(ops, "/v1/cluster/models/swap", `{"unload_model_id":"x"}`)
	send(ops, "/place_instance", `{"model_id":"`+demo+`","min_nodes":9}`)
	tool := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"unload_model","arguments":{"model_id":"` + demo + `"}}}`
	if r, err := n[1].sendAs(read, http.MethodPost, "/mcp", tool, "Accept", "application/json"); err != nil || r.status != http.StatusOK || !strings.Contains(r.body, `"isError":true`) || !strings.Contains(r.body, "role manage") {
		t.Fatalf("an agent that reads unloads: %d, %v: %s", r.status, err, r.body)
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}

	index := func() string {
		r, err := n[2].sendAs(read, http.MethodGet, "/state/lastEventAppliedIdx", "")
		if err != nil {
			t.Fatal(err)
		}
		return r.body
	}
	before := index()
	const flood = 300
	for i := range flood {
		send(read, "/v1/cluster/nodes/"+fmt.Sprint(i)+"/drain", "")
	}
	eventually(t, "the refusals to be counted on another node", func() bool {
		var list struct {
			Audit []struct {
				Key   string `json:"key"`
				What  string `json:"what"`
				Count int    `json:"count"`
			} `json:"audit"`
		}
		r, err := n[2].sendAs(read, http.MethodGet, "/v1/cluster/audit", "")
		if err != nil || json.Unmarshal([]byte(r.body), &list) != nil {
			return false
		}
		kinds, sum := 0, 0
		for _, a := range list.Audit {
			if a.Key == "grafana" && strings.HasSuffix(a.What, "/drain") {
				kinds, sum = kinds+1, sum+a.Count
			}
		}
		return kinds == 1 && sum == flood
	})
	if after := index(); after != before {
		t.Errorf("%d refusals took the log from %s to %s", flood, before, after)
	}
}
