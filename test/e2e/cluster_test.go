//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// exact is the demo model in f32, with a long context: what is computed again
// after a loss gives the same text.
const exact = "exact"

// question is what the tests ask.
const question = "What is Skein?"

// saveExact writes it into a folder of its own and gives the folder.
func saveExact(t *testing.T) string {
	t.Helper()
	return filepath.Dir(gguftest.WidenFile(t, demoPath(), exact, gguftest.KV("llama.context_length", uint32(1<<15))))
}

// member starts a node of a cluster and waits until it is up. It joins the
// cluster of first; nil: it is the first.
func member(t *testing.T, first *node, o options) *node {
	t.Helper()
	if first != nil {
		o.args = append(o.args, "--join", first.gossip())
	}
	return again(t, o)
}

// again starts a node with nothing but its ports, home and args.
func again(t *testing.T, o options) *node {
	t.Helper()
	joins := slices.Contains(o.args, "--join")
	o.args = append([]string{"-v", "--context", "4096"}, o.args...)
	if joins {
		o.args = append(o.args, o.alone()...)
	}
	n := launch(t, o)
	if !slices.Contains(o.args, "--no-api") {
		n.awaitUp()
	} else if !n.stdout.wait(t, "stop: Ctrl-C") {
		<-n.done
		t.Fatalf("the node ended before it was up: %v\n%s", n.err, n.stderr)
	}
	return n
}

// joinsHere is the log line that tells a node's gossip port.
var joinsHere = regexp.MustCompile(`"?other nodes join here"? host=(\S+) gossip_port=(\d+) peer_port=(\d+)`)

// gossip is the address that others join.
func (n *node) gossip() string {
	host, ports := n.reach()
	return host + ":" + ports[1]
}

// reach is where other nodes find n: its host, and its ports for peers and for gossip.
func (n *node) reach() (host string, ports [2]string) {
	n.t.Helper()
	n.stderr.wait(n.t, "peer_port=") // the end of the line
	m := joinsHere.FindStringSubmatch(n.stderr.String())
	if m == nil {
		n.t.Fatalf("no address to join in:\n%s", n.stderr)
	}
	return m[1], [2]string{m[3], m[2]}
}

// id is the node's id.
func (n *node) id() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.home, "node_id"))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// online lists the ids of the nodes that n sees.
func (n *node) online() (ids []string) {
	n.t.Helper()
	var list struct {
		Nodes []struct {
			ID     string `json:"node_id"`
			Status string `json:"status"`
		} `json:"nodes"`
	}
	n.read("/v1/cluster/nodes", &list)
	for _, x := range list.Nodes {
		if x.Status == "online" {
			ids = append(ids, x.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// read decodes what a path answers.
func (n *node) read(path string, into any) {
	n.t.Helper()
	r := n.get(path)
	if err := json.Unmarshal([]byte(r.body), into); err != nil || r.status != http.StatusOK {
		n.t.Fatalf("GET %s: status %d, %v: %s", path, r.status, err, r.body)
	}
}

// master is the id of the node that leads, as n sees it; "": none.
func (n *node) master() string {
	n.t.Helper()
	var h struct {
		Master string `json:"master_node_id"`
	}
	n.read("/v1/cluster/health", &h)
	return h.Master
}

// holders are the ids of the nodes of a model's instance once it is ready.
func (n *node) holders(model string) (ids []string, ready bool) {
	n.t.Helper()
	var list struct {
		Loaded []struct {
			Name   string `json:"model_name"`
			Ready  bool   `json:"ready"`
			Shards []struct {
				Node string `json:"node_id"`
			} `json:"shards"`
		} `json:"loaded"`
	}
	n.read("/v1/cluster/models", &list)
	for _, m := range list.Loaded {
		if m.Name != model {
			continue
		}
		for _, s := range m.Shards {
			ids = append(ids, s.Node)
		}
		return ids, m.Ready
	}
	return nil, false
}

// load loads a model on the nodes with these ids and waits until it is ready.
func (n *node) load(model string, on ...*node) {
	n.t.Helper()
	var ids []string
	for _, x := range on {
		ids = append(ids, x.id())
	}
	var r response
	// A node that has just come may be listed a moment before all know its facts
	// and its files.
	eventually(n.t, "all nodes to be known", func() bool {
		r = n.post("/v1/cluster/models/load", loadBody(model, len(on), ids...))
		return r.status != http.StatusNotFound && !(r.status == http.StatusConflict && strings.Contains(r.body, "does not answer"))
	})
	if r.status/100 != 2 {
		n.t.Fatalf("load %s: status %d: %s", model, r.status, r.body)
	}
	n.ready(model)
}

// ready waits until a model is.
func (n *node) ready(model string) {
	n.t.Helper()
	eventually(n.t, model+" to be ready", func() bool { _, ready := n.holders(model); return ready })
}

func loadBody(model string, nodes int, ids ...string) string {
	b, err := json.Marshal(map[string]any{"model_id": model, "min_nodes": nodes, "node_ids": ids})
	if err != nil {
		panic(err) // the tests' own values
	}
	return string(b)
}

// together waits until all see exactly each other, and one master.
func together(t *testing.T, all ...*node) {
	t.Helper()
	var want []string
	for _, n := range all {
		want = append(want, n.id())
	}
	slices.Sort(want)
	for _, n := range all {
		if n.url == "" {
			continue
		}
		eventually(t, "all nodes to be listed on node "+n.id(), func() bool { return slices.Equal(n.online(), want) })
		eventually(t, "a master on node "+n.id(), func() bool { return n.master() != "" && n.master() == all[0].master() })
	}
}

// kill ends a node as a power cut does, runners and all.
func (n *node) kill() {
	n.t.Helper()
	kids := n.children()
	n.signal(syscall.SIGKILL)
	n.exit()
	for _, kid := range kids {
		eventually(n.t, "the runners of a killed node to end", func() bool { return !alive(kid) })
	}
}

// long asks for so many tokens in a stream.
func long(tokens int) string {
	return ask(exact, question, "stream", true, "max_tokens", tokens, "ignore_eos", true, "stream_options", map[string]any{"include_usage": true})
}

// whole reads a stream from after the text that was read, and checks its end
// and its number of tokens.
func (s *stream) whole(before string, tokens int) string {
	s.t.Helper()
	var b strings.Builder
	b.WriteString(before)
	used := 0
	for {
		data, err := s.data()
		if errors.Is(err, errEnd) {
			break
		}
		if err != nil {
			s.t.Fatalf("the stream ended after %d bytes: %v", b.Len(), err)
		}
		var e apiError
		if json.Unmarshal([]byte(data), &e) == nil && e.Error.Message != "" {
			s.t.Fatalf("the stream ended after %d bytes: %s", b.Len(), e.Error.Message)
		}
		var c completion
		if json.Unmarshal([]byte(data), &c) == nil && c.Usage != nil {
			used = c.Usage.CompletionTokens
		}
		b.WriteString(chunk(s.t, data))
	}
	if used != tokens {
		s.t.Errorf("the answer has %d tokens, want %d", used, tokens)
	}
	return b.String()
}

// same compares an answer with the undisturbed one.
func same(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: from byte %d of %d the answer is %.60q, undisturbed %.60q", what, i, len(want), got[i:], want[i:])
}

// Three nodes are one cluster: any answers for a model that one of them has the
// file of. The master is killed: nothing that runs notices, another leads, and
// the one that comes back joins without being told where.
func TestCluster(t *testing.T) {
	dir := saveExact(t)
	o := [3]options{{home: t.TempDir(), args: []string{"--models-dir", dir}}, {home: t.TempDir()}, {home: t.TempDir()}}
	var n [3]*node
	for i := range n {
		n[i] = member(t, n[0], o[i])
	}
	together(t, n[:]...)
	if got := n[2].master(); got != n[0].id() {
		t.Errorf("%s leads, want the first node %s", got, n[0].id())
	}

	n[1].load(exact, n[0], n[1], n[2])
	const tokens = 500
	want := n[2].open("/v1/chat/completions", long(tokens)).whole("", tokens)
	for _, i := range []int{1, 2} {
		kept, err := filepath.Glob(filepath.Join(n[i].home, "fetched", "*"))
		if err != nil || len(kept) == 0 {
			t.Errorf("node %d has fetched %v, %v; it has no file of its own", i, kept, err)
		}
	}
	if r := n[0].must(http.MethodDelete, "/v1/cluster/models/"+exact, ""); r.status != http.StatusOK {
		t.Fatalf("unload: status %d: %s", r.status, r.body)
	}
	eventually(t, "the unload to be seen on another node", func() bool { return n[2].status(exact) == "" })

	// It runs on two that are not master, and a client of one of them waits.
	n[2].load(exact, n[1], n[2])
	s := n[1].open("/v1/chat/completions", long(tokens))
	got := s.text()
	n[0].kill()
	if r := n[1].accepted(loadBody(demo, 1)); r.status/100 != 2 {
		t.Fatalf("a load after the master's death: status %d: %s", r.status, r.body)
	}
	eventually(t, "the load to be seen on another node", func() bool { return n[2].status(demo) != "" })
	if lead := n[2].master(); lead != n[1].id() && lead != n[2].id() {
		t.Errorf("%q leads after the master's death", lead)
	}
	same(t, "while the master died", s.whole(got, tokens), want)

	back := again(t, options{home: o[0].home, args: o[0].args})
	together(t, n[1], n[2], back)
	if back.id() != n[0].id() {
		t.Errorf("it was node %s and came back as %s", n[0].id(), back.id())
	}
	eventually(t, "the models to be seen on the node that came back", func() bool {
		_, one := back.holders(exact)
		_, two := back.holders(demo)
		return one && two
	})
	back.works()
}

// accepted gives a load until a master takes it.
func (n *node) accepted(body string) (r response) {
	n.t.Helper()
	eventually(n.t, "a load to be accepted", func() bool {
		r = n.post("/v1/cluster/models/load", body)
		return r.status != http.StatusServiceUnavailable
	})
	return r
}

// A worker is killed in the middle of an answer: the client waits for a moment,
// and loses and doubles no token.
func TestWorkerKilledAndTheAnswerGoesOn(t *testing.T) {
	dir := saveExact(t)
	first := member(t, nil, options{args: []string{"--models-dir", dir, "--no-worker"}})
	workers := []*node{member(t, first, options{}), member(t, first, options{}), member(t, first, options{})}
	together(t, append(workers, first)...)
	const tokens = 500
	for where, victim := range []string{"follower", "head"} {
		r := first.post("/v1/cluster/models/load", loadBody(exact, 2))
		if r.status/100 != 2 {
			t.Fatalf("load: status %d: %s", r.status, r.body)
		}
		first.ready(exact)
		want := first.open("/v1/chat/completions", long(tokens)).whole("", tokens)
		on, _ := first.holders(exact)
		if len(on) < 2 {
			t.Fatalf("the instance lies on %v", on)
		}
		i := slices.IndexFunc(workers, func(n *node) bool { return n.id() == on[where*(len(on)-1)] })
		s := first.open("/v1/chat/completions", long(tokens))
		before := ""
		for range 20 {
			before += s.text()
		}
		workers[i].kill()
		same(t, victim+" killed", s.whole(before, tokens), want)
		workers[i] = again(t, options{home: workers[i].home})
		together(t, append(workers, first)...)
		if r := first.must(http.MethodDelete, "/v1/cluster/models/"+exact, ""); r.status != http.StatusOK {
			t.Fatalf("unload: status %d: %s", r.status, r.body)
		}
		eventually(t, "the model to be unloaded", func() bool { return first.status(exact) == "" })
	}
}

// Who does not know the secret gets nowhere, and is told why.
func TestWrongSecret(t *testing.T) {
	first := member(t, nil, options{args: []string{"--secret", "right"}})
	friend := member(t, first, options{args: []string{"--secret", "right"}})
	together(t, first, friend)
	for name, args := range map[string][]string{"another": {"--secret", "wrong"}, "none": nil} {
		stranger := member(t, first, options{args: args})
		if !stranger.stderr.wait(t, "it has another --secret or --namespace") {
			t.Errorf("with %s: it does not say why it is alone", name)
		}
		if got := stranger.online(); len(got) != 1 {
			t.Errorf("with %s it sees %v", name, got)
		}
		stranger.stop()
	}
	together(t, first, friend)
}

// What the flags that take roles away do.
func TestRoles(t *testing.T) {
	dir := saveExact(t)
	home := t.TempDir()
	a := member(t, nil, options{home: home, args: []string{"--models-dir", dir}})
	b := member(t, a, options{args: []string{"--no-master", "--no-worker", "--force-master"}})
	c := member(t, a, options{args: []string{"--no-api", "--force-master"}})
	d := member(t, a, options{args: []string{"--no-master", "--no-downloads"}})
	together(t, a, b, c, d)
	if _, err := os.Stat(c.addressFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a node with --no-api has an address file: %v", err)
	}
	contains(t, c.stdout.String(), "--no-api")
	for _, n := range []*node{b, c, d} {
		r := a.post("/v1/cluster/master", fmt.Sprintf(`{"node_id":%q}`, n.id()))
		if r.status/100 != 4 {
			t.Errorf("promote node %s: status %d: %s", n.id(), r.status, r.body)
		}
		contains(t, r.body, "--no-master")
	}
	for _, n := range []*node{a, b} {
		eventually(t, "the model to be known", func() bool {
			return n.post("/v1/cluster/models/load", fmt.Sprintf(`{"model_id":%q,"min_nodes":2,"dry_run":true}`, exact)).status == http.StatusOK
		})
	}
	// b runs nothing, and d has not the file.
	if r := b.post("/v1/cluster/models/load", loadBody(exact, 3)); r.status/100 != 4 {
		t.Errorf("a load on three nodes, where two may: status %d: %s", r.status, r.body)
	}
	for _, n := range []*node{b, d} {
		if r := a.post("/v1/cluster/models/load", loadBody(exact, 1, n.id())); r.status/100 != 4 {
			t.Errorf("a load on a node that may not: status %d: %s", r.status, r.body)
		}
	}
	b.load(exact, a, c)
	if on, _ := d.holders(exact); slices.Contains(on, b.id()) || slices.Contains(on, d.id()) {
		t.Errorf("the model lies on %v; %s has --no-worker and %s --no-downloads", on, b.id(), d.id())
	}
	a.load(demo, d) // which has the file
	b.works()

	a.kill()
	eventually(t, "no master to be left", func() bool { return b.master() == "" && d.master() == "" })
	b.post("/v1/cluster/models/load", loadBody(exact, 1)).want(t, http.StatusServiceUnavailable, "no_master", "--no-master", "--no-api")
	b.works()
	b.read("/v1/models", &struct{}{})

	back := again(t, options{home: home, args: []string{"--models-dir", dir}})
	together(t, back, b, c, d)
	if got := b.master(); got != back.id() {
		t.Errorf("%s leads, want the only candidate %s", got, back.id())
	}
	eventually(t, "the wanted model to be placed again", func() bool { _, ready := b.holders(exact); return ready })
}
