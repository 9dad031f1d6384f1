//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/figures"
)

// What `make bench-cluster` sets; without, a fault of each kind.
var (
	clusterFaults  = flag.Int("cluster-faults", 1, "faults of each kind")
	clusterSeed    = flag.Uint64("cluster-faults-seed", 1, "of the victims")
	clusterFigures = flag.String("figures", "", "a file that figures are appended to")
)

// campaignTokens are in an answer of a campaign: enough to be in the middle of.
const campaignTokens = 250

// clusterCampaign is a cluster that is done harm to, and what was measured. No
// limit is set to times here, which are the machine's too; what is lost or
// doubled fails the test.
type clusterCampaign struct {
	t      *testing.T
	random *rand.Rand
	args   []string
	nodes  []*node
	want   string // the undisturbed answer

	took     map[string][]time.Duration
	lost     []float64 // acknowledged commands, by fault
	broken   []float64 // generations lost or doubled, by fault
	commands int
}

// newCampaign starts so many nodes; on a network: each on a host of it.
func newCampaign(t *testing.T, count int, hosts func(int) *host) *clusterCampaign {
	t.Helper()
	f := &clusterCampaign{t: t, random: rand.New(rand.NewPCG(*clusterSeed, 0)), took: map[string][]time.Duration{}}
	f.args = []string{"--models-dir", saveExact(t)}
	for i := range count {
		var first *node
		if i > 0 {
			first = f.nodes[0]
		}
		o := options{args: f.args}
		if hosts != nil {
			o.on = hosts(i)
		}
		o.ports = [2]string{lastingPort(t), lastingPort(t)}
		f.nodes = append(f.nodes, member(t, first, o))
	}
	together(t, f.nodes...)
	return f
}

// serve loads the model on two nodes or more, or on those that are named, and
// has it answer undisturbed.
func (f *clusterCampaign) serve(on ...*node) {
	f.t.Helper()
	began := time.Now()
	if len(on) > 0 {
		f.nodes[0].load(exact, on...)
	} else {
		if r := f.nodes[0].post("/v1/cluster/models/load", loadBody(exact, 2)); r.status/100 != 2 {
			f.t.Fatalf("load: status %d: %s", r.status, r.body)
		}
		f.nodes[0].ready(exact)
	}
	f.note("model load", began)
	f.want = f.nodes[0].open("/v1/chat/completions", long(campaignTokens)).whole("", campaignTokens)
}

// report appends figures, and says them in the log.
func (f *clusterCampaign) report(all ...figures.Figure) {
	f.t.Helper()
	for _, x := range all {
		if err := figures.Append(*clusterFigures, x); err != nil {
			f.t.Error(err)
		}
		f.t.Logf("%s: %d values, p50 %.3g, p99 %.3g, max %.3g, sum %.3g %s %s", x.Name, len(x.Values), x.Quantile(0.5), x.Quantile(0.99), x.Quantile(1), x.Sum(), x.Unit, x.Note)
	}
}

// kept are the figures of what may not be lost.
func (f *clusterCampaign) kept(what string) []figures.Figure {
	return []figures.Figure{
		{Name: "acknowledged commands lost, " + what, Values: f.lost, Bars: []figures.Bar{figures.None}, Count: true, Note: fmt.Sprintf("of %d", f.commands)},
		{Name: "generations lost or doubled, " + what, Values: f.broken, Bars: []figures.Bar{figures.None}, Count: true},
	}
}

// times is the figure of one kind of times.
func (f *clusterCampaign) times(name string, bars ...figures.Bar) figures.Figure {
	return figures.Figure{Name: name, Unit: "s", Values: figures.Seconds(f.took[name]), Bars: bars}
}

func (f *clusterCampaign) note(what string, began time.Time) {
	f.took[what] = append(f.took[what], time.Since(began))
}

// others are all nodes but one.
func (f *clusterCampaign) others(i int) []*node {
	return slices.Delete(slices.Clone(f.nodes), i, i+1)
}

// index finds a node.
func (f *clusterCampaign) index(id string) int {
	f.t.Helper()
	i := slices.IndexFunc(f.nodes, func(n *node) bool { return n.id() == id })
	if i < 0 {
		f.t.Fatalf("there is no node %q", id)
	}
	return i
}

// command gives one, again and again under one name until it is answered, and
// tells whether it was done: not, if the cluster does not know what it is about.
func (f *clusterCampaign) command(n *node, method, path, body string) (done bool) {
	f.t.Helper()
	f.commands++
	key := fmt.Sprintf("campaign-%d-%d", n.pid, f.commands)
	var last response
	eventually(f.t, method+" "+path+" to be answered", func() bool {
		r, err := n.try(method, path, body, "Idempotency-Key", key)
		last = r
		return err == nil && r.status < 500
	})
	switch {
	case last.status/100 == 2:
		return true
	case last.status == http.StatusNotFound:
		f.t.Logf("%s %s: %s", method, path, last.body)
		return false
	}
	f.t.Fatalf("%s %s: status %d: %s", method, path, last.status, last.body)
	return false
}

// lastingPort is a free port that is free a moment later too: below those that
// systems give to outgoing connections, one of which would now and then take
// the port of a node that is dead for a moment.
func lastingPort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(10000 + rand.N(20000))
		tcp, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", "127.0.0.1:"+port)
		_ = tcp.Close() // it has served
		if err != nil {
			continue
		}
		_ = udp.Close()
		return port
	}
	t.Fatal("no port from 10000 to 30000 is free")
	return ""
}

// restart starts a node again that was killed, at its ports, and does not wait.
func (f *clusterCampaign) restart(i int) (began time.Time) {
	f.t.Helper()
	old := f.nodes[i]
	began = time.Now()
	_, ports := old.reach()
	f.nodes[i] = launch(f.t, options{home: old.home, on: old.on, ports: ports, args: append([]string{"-v", "--context", "4096"}, f.args...)})
	return began
}

// listed waits until all see a node that was started.
func (f *clusterCampaign) listed(i int, began time.Time) {
	f.t.Helper()
	f.nodes[i].awaitUp()
	together(f.t, f.nodes...)
	f.note("process started, listed on all nodes", began)
}

// event is a piece of an answer and when it came.
type event struct {
	at   time.Time
	data string
	err  error // the end: errEnd after [DONE]
}

// follow reads a stream beside the test.
func (s *stream) follow(tokens int) <-chan event {
	out := make(chan event, tokens+64)
	go func() {
		defer close(out)
		for {
			data, err := s.data()
			out <- event{time.Now(), data, err}
			if err != nil {
				return
			}
		}
	}()
	return out
}

// answer is a stream that is read while harm is done.
type answer struct {
	f      *clusterCampaign
	events <-chan event
	text   string
	last   time.Time
	used   []int // as told
	ended  error
}

// ask begins an answer on a node and waits for so many pieces.
func (f *clusterCampaign) ask(n *node, pieces int) *answer {
	f.t.Helper()
	a := &answer{f: f, events: n.open("/v1/chat/completions", long(campaignTokens)).follow(campaignTokens)}
	for range pieces {
		if !a.next() {
			break
		}
	}
	return a
}

// next takes a piece; false: the answer has ended.
func (a *answer) next() bool {
	a.f.t.Helper()
	var e event
	select {
	case e = <-a.events:
	case <-time.After(patience):
		a.f.t.Fatalf("nothing came for %v after %d bytes", patience, len(a.text))
	}
	if e.err != nil {
		a.ended = e.err
		return false
	}
	var c struct {
		completion
		apiError
	}
	if err := json.Unmarshal([]byte(e.data), &c); err != nil {
		a.ended = err
		return false
	}
	if c.Error.Message != "" {
		a.ended = errors.New(c.Error.Message)
		return false
	}
	if c.Usage != nil {
		a.used = append(a.used, c.Usage.CompletionTokens)
	}
	if len(c.Choices) > 0 {
		a.text += c.Choices[0].Delta.Content
	}
	a.last = e.at
	return true
}

// pause reads on until nothing came for a while after began and then something
// did, and gives when. Without a pause it ends with the answer.
func (a *answer) pause(began time.Time) (over time.Time) {
	const noticed = 100 * time.Millisecond
	for before := a.last; a.next(); before = a.last {
		if a.last.After(began) && a.last.Sub(before) > noticed {
			return a.last
		}
	}
	return began
}

// whole reads to the end and counts whether anything was lost or doubled.
func (a *answer) whole(what string) {
	a.f.t.Helper()
	for a.ended == nil {
		a.next()
	}
	wrong := ""
	switch {
	case !errors.Is(a.ended, errEnd):
		wrong = a.ended.Error()
	case !slices.Equal(a.used, []int{campaignTokens}):
		wrong = fmt.Sprintf("usage was told as %v tokens, want %d once", a.used, campaignTokens)
	case a.text != a.f.want:
		i := 0
		for i < len(a.text) && i < len(a.f.want) && a.text[i] == a.f.want[i] {
			i++
		}
		wrong = fmt.Sprintf("from byte %d of %d the answer is %.60q, undisturbed %.60q", i, len(a.f.want), a.text[i:], a.f.want[i:])
	}
	if wrong == "" {
		a.f.broken = append(a.f.broken, 0)
		return
	}
	a.f.broken = append(a.f.broken, 1)
	a.f.t.Errorf("%s: after %d bytes: %s", what, len(a.text), strings.TrimSpace(wrong))
}
