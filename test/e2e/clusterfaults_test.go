//go:build unix

package e2e

import (
	"errors"
	"flag"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What `make bench-cluster` sets; without, a round.
var (
	clusterFaults = flag.Int("cluster-faults", 1, "masters killed, and as many workers")
	clusterSeed   = flag.Uint64("cluster-faults-seed", 1, "of the victims")
)

// TestClusterFaults kills masters and workers of a cluster that has commands to
// keep and an answer to give. No command that was acknowledged is lost, and no
// token lost or doubled. The times are in the log, and no limit is set to them:
// they are the machine's too.
func TestClusterFaults(t *testing.T) {
	f := &clusterCampaign{t: t, random: rand.New(rand.NewPCG(*clusterSeed, 0)), took: map[string][]time.Duration{}}
	f.args = []string{"--models-dir", saveExact(t)}
	for range 4 {
		var first *node
		if len(f.nodes) > 0 {
			first = f.nodes[0]
		}
		f.nodes = append(f.nodes, member(t, first, options{args: f.args}))
	}
	together(t, f.nodes...)
	if r := f.nodes[0].post("/v1/cluster/models/load", loadBody(exact, 2)); r.status/100 != 2 {
		t.Fatalf("load: status %d: %s", r.status, r.body)
	}
	f.nodes[0].ready(exact)
	f.want = f.nodes[0].open("/v1/chat/completions", long(campaignTokens)).whole("", campaignTokens)
	for range *clusterFaults {
		f.master()
		f.worker()
	}
	for _, what := range []string{"master killed, command accepted and visible elsewhere", "process started, listed on all", "worker killed, tokens flow again"} {
		t.Logf("%s: %s", what, spread(f.took[what]))
	}
	t.Logf("acknowledged commands lost: 0 of %d; generations lost or doubled: 0 of %d", f.acknowledged, f.answers)
}

// campaignTokens are those of an answer.
const campaignTokens = 500

// clusterCampaign is the nodes, and what was measured.
type clusterCampaign struct {
	t      *testing.T
	random *rand.Rand
	args   []string
	nodes  []*node
	want   string // the undisturbed answer

	took                  map[string][]time.Duration
	acknowledged, answers int
}

// master kills the one that leads, right after a command that it acknowledged.
func (f *clusterCampaign) master() {
	f.t.Helper()
	lead := f.nodes[0].master()
	i := slices.IndexFunc(f.nodes, func(n *node) bool { return n.id() == lead })
	others := f.others(i)
	f.nodes[i].ready(exact)
	s := others[0].open("/v1/chat/completions", long(campaignTokens))
	before := s.text()
	loaded := f.toggle(f.nodes[i])
	began := time.Now()
	f.nodes[i].kill()
	eventually(f.t, "a command to be accepted", func() bool {
		r, err := others[0].try(http.MethodPost, "/v1/cluster/nodes/"+others[1].id()+"/resume", "")
		return err == nil && r.status/100 == 2
	})
	eventually(f.t, "the new master to be seen elsewhere", func() bool { m := others[1].master(); return m != "" && m != lead })
	f.note("master killed, command accepted and visible elsewhere", began)
	f.check(others[1], loaded)
	same(f.t, "master killed", s.whole(before, campaignTokens), f.want)
	f.answers++
	f.restart(i)
	f.check(f.nodes[i], loaded)
}

// toggle loads the demo model or unloads it, and tells which was acknowledged.
func (f *clusterCampaign) toggle(n *node) (loaded bool) {
	f.t.Helper()
	var r response
	if loaded = n.status(demo) == ""; loaded {
		r = n.post("/v1/cluster/models/load", loadBody(demo, 1))
	} else {
		r = n.must(http.MethodDelete, "/v1/cluster/models/"+demo, "")
	}
	if r.status/100 != 2 || !strings.Contains(r.body, "copies") {
		f.t.Fatalf("a command before the master dies: status %d: %s", r.status, r.body)
	}
	f.acknowledged++
	return loaded
}

// check tells whether what toggle did is still so.
func (f *clusterCampaign) check(n *node, loaded bool) {
	f.t.Helper()
	eventually(f.t, "what was acknowledged to be kept", func() bool { return (n.status(demo) != "") == loaded })
}

// worker kills a node that holds a part of the instance that answers.
func (f *clusterCampaign) worker() {
	f.t.Helper()
	f.nodes[0].ready(exact)
	on, _ := f.nodes[0].holders(exact)
	victim := on[f.random.IntN(len(on))]
	i := slices.IndexFunc(f.nodes, func(n *node) bool { return n.id() == victim })
	client := f.others(i)[0]
	s := client.open("/v1/chat/completions", long(campaignTokens))
	before := ""
	for range 1 + f.random.IntN(40) {
		before += s.text()
	}
	began := time.Now()
	f.nodes[i].signal(syscall.SIGKILL)
	// What was on its way still comes; the loss is the longest pause after it.
	var pause time.Duration
	resumed, last := began, began
	usage := 0
	for {
		data, err := s.data()
		if errors.Is(err, errEnd) {
			break
		}
		if err != nil {
			f.t.Fatalf("the stream ended after %d bytes: %v", len(before), err)
		}
		usage += strings.Count(data, `"completion_tokens":500`)
		before += chunk(f.t, data)
		now := time.Now()
		if now.Sub(last) > pause {
			pause, resumed = now.Sub(last), now
		}
		last = now
	}
	f.took["worker killed, tokens flow again"] = append(f.took["worker killed, tokens flow again"], resumed.Sub(began))
	same(f.t, "worker killed", before, f.want)
	if usage != 1 {
		f.t.Errorf("usage of %d tokens was told %d times", campaignTokens, usage)
	}
	f.answers++
	f.nodes[i].exit()
	f.restart(i)
}

// restart brings a killed node back and times how long the others take to see it.
func (f *clusterCampaign) restart(i int) {
	f.t.Helper()
	began := time.Now()
	f.nodes[i] = again(f.t, options{home: f.nodes[i].home, args: f.args})
	together(f.t, f.nodes...)
	f.note("process started, listed on all", began)
}

func (f *clusterCampaign) note(what string, began time.Time) {
	f.took[what] = append(f.took[what], time.Since(began))
}

// others are all nodes but one.
func (f *clusterCampaign) others(i int) []*node {
	return slices.Delete(slices.Clone(f.nodes), i, i+1)
}
