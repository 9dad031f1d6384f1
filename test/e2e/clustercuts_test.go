//go:build unix

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/figures"
	"github.com/skein-run/skein/internal/nettest"
)

// health is what a node says of itself and the cluster.
type health struct {
	Nodes  int    `json:"node_count"`
	Master string `json:"master_node_id"`
	Index  uint64 `json:"state_index"`
	Hash   string `json:"state_hash"`
}

func (n *node) health() (h health) {
	n.t.Helper()
	n.read("/v1/cluster/health", &h)
	return h
}

// agree waits until nodes see each other, follow one master and have one state.
func (f *clusterCampaign) agree(nodes []*node) {
	f.t.Helper()
	eventually(f.t, "one master and one state", func() bool {
		first := nodes[0].health()
		return first.Master != "" && first.Nodes == len(nodes) && !slices.ContainsFunc(nodes[1:], func(n *node) bool { return n.health() != first })
	})
}

// onNetwork starts a campaign with each node in a network namespace of its own.
func onNetwork(t *testing.T, count int) (*clusterCampaign, *nettest.Network) {
	t.Helper()
	net := nettest.New(t, nettest.Options{Hosts: count})
	return newCampaign(t, count, func(i int) *host { return &host{net, i} }), net
}

// The cable of a node is cut and comes back: the others declare it dead, and
// then all agree again.
func TestCablesCut(t *testing.T) {
	const dead, back = "node hard-cut, declared dead on all others", "cable back, one master and equal state hashes"
	f, net := onNetwork(t, 4)
	for range *clusterFaults {
		i := f.random.IntN(len(f.nodes))
		began := time.Now()
		net.Cut(i)
		f.apart(f.others(i), f.nodes[i:i+1])
		f.note(dead, began)
		f.agree(f.others(i)) // on a master among them
		began = time.Now()
		net.Mend(i)
		f.agree(f.nodes)
		f.note(back, began)
	}
	f.report(f.times(dead, figures.Below("p99", 2.5)), f.times(back))
}

// apart waits until none of the ones sees any of the others.
func (f *clusterCampaign) apart(ones, others []*node) {
	f.t.Helper()
	eventually(f.t, "the others to be declared dead", func() bool {
		return !slices.ContainsFunc(ones, func(n *node) bool {
			seen := n.online()
			return slices.ContainsFunc(others, func(x *node) bool { return slices.Contains(seen, x.id()) })
		})
	})
}

// The network splits in two halves, which both go on and take commands, and
// heals: one master, one state, and no command is lost in silence.
func TestPartitions(t *testing.T) {
	const healed = "partition healed, one master and equal state hashes"
	f, net := onNetwork(t, 4)
	for range *clusterFaults {
		order := f.random.Perm(len(f.nodes))
		halves := [2][]*node{{f.nodes[order[0]], f.nodes[order[1]]}, {f.nodes[order[2]], f.nodes[order[3]]}}
		net.Split(order[2:]...)
		for side, half := range halves {
			f.apart(half, halves[1-side])
			f.agree(half)
		}
		// Both are told something different: the one loads a model, the other
		// drains a node.
		loaded := f.command(halves[0][0], http.MethodPost, "/v1/cluster/models/load", loadBody(demo, 1))
		drained := halves[1][1].id()
		f.command(halves[1][0], http.MethodPost, "/v1/cluster/nodes/"+drained+"/drain", "")
		began := time.Now()
		net.Unite(order[2:]...)
		f.agree(f.nodes)
		f.note(healed, began)
		// What the losing half was told has been offered to the winner.
		eventually(t, "the commands of both halves to be done", func() bool {
			return f.nodes[0].status(demo) != "" && slices.Contains(f.nodes[0].draining(), drained)
		})
		f.lost = append(f.lost, 0)
		if !loaded || !f.command(f.nodes[0], http.MethodDelete, "/v1/cluster/models/"+demo, "") {
			t.Fatal("the model of one half is not loaded")
		}
		f.command(f.nodes[0], http.MethodPost, "/v1/cluster/nodes/"+drained+"/resume", "")
	}
	f.report(f.times(healed, figures.Below("p99", 3)), f.kept("partition")[0])
}

// draining lists the ids of the nodes that get nothing new.
func (n *node) draining() (ids []string) {
	n.t.Helper()
	var list struct {
		Nodes []struct {
			ID       string `json:"node_id"`
			Draining bool   `json:"draining"`
		} `json:"nodes"`
	}
	n.read("/v1/cluster/nodes", &list)
	for _, x := range list.Nodes {
		if x.Draining {
			ids = append(ids, x.ID)
		}
	}
	return ids
}

// The cable of a node is cut in the middle of an answer that it has a part in:
// the answer goes on.
func TestCableCutAndTheAnswerGoesOn(t *testing.T) {
	f, net := onNetwork(t, 3)
	// The client's node holds no part, and one of the others is to spare.
	f.serve(f.nodes[1], f.nodes[2])
	if r := f.nodes[0].must(http.MethodDelete, "/v1/cluster/models/"+exact, ""); r.status != http.StatusOK {
		t.Fatalf("unload: status %d: %s", r.status, r.body)
	}
	eventually(t, "the model to be unloaded", func() bool { return f.nodes[0].status(exact) == "" })
	const flows = "node hard-cut in mid-answer, tokens flow again"
	for range *clusterFaults {
		if r := f.nodes[0].post("/v1/cluster/models/load", loadBody(exact, 2)); r.status/100 != 2 {
			t.Fatalf("load: status %d: %s", r.status, r.body)
		}
		f.nodes[0].ready(exact)
		on, _ := f.nodes[0].holders(exact)
		on = slices.DeleteFunc(on, func(id string) bool { return id == f.nodes[0].id() })
		i := f.index(on[f.random.IntN(len(on))])
		a := f.ask(f.nodes[0], 1+f.random.IntN(40))
		began := time.Now()
		net.Cut(i)
		over := a.pause(began)
		f.took[flows] = append(f.took[flows], over.Sub(began))
		a.whole("cable cut")
		net.Mend(i)
		f.agree(f.nodes)
		f.command(f.nodes[0], http.MethodDelete, "/v1/cluster/models/"+exact, "")
		eventually(t, "the model to be unloaded", func() bool { return f.nodes[0].status(exact) == "" })
	}
	f.report(f.times(flows), f.kept("cable cut")[1])
}

// While tokens flow nothing is written to the log, and no packets pass but those
// that pass anyway.
func TestTokensNeedNoControlMessages(t *testing.T) {
	f, net := onNetwork(t, 3)
	f.nodes[0].load(exact, f.nodes[0])
	f.agree(f.nodes)
	const tokens = 1000
	for _, n := range f.nodes { // 4 MB each, a second after the start
		eventually(t, "the lines between the nodes to be measured", func() bool {
			return strings.Count(n.stderr.String(), "measured the line to a node") >= len(f.nodes)-1
		})
	}
	f.nodes[0].open("/v1/chat/completions", long(tokens)).whole("", tokens) // caches are warm
	packets := func(do func()) (count int64, took time.Duration) {
		before, began := net.Packets(0), time.Now()
		do()
		return net.Packets(0) - before, time.Since(began)
	}
	before := f.nodes[1].health()
	during, took := packets(func() { f.nodes[0].open("/v1/chat/completions", long(tokens)).whole("", tokens) })
	after := f.nodes[1].health()
	if after.Index != before.Index || after.Hash != before.Hash {
		t.Errorf("the state went from event %d to %d while tokens flowed", before.Index, after.Index)
	}
	if *clusterFigures == "" {
		return // what passes in an idle cluster takes time to find out
	}
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	idle, idled := packets(func() { <-timer.C })
	usual := float64(idle) / idled.Seconds() * took.Seconds()
	f.report(figures.Figure{Name: "log entries for each generated token", Values: []float64{float64(after.Index-before.Index) / tokens}, Bars: []figures.Bar{figures.None}, Count: true},
		figures.Figure{Name: "packets between nodes for each generated token, beyond those of an idle cluster", Values: []float64{(float64(during) - usual) / tokens},
			Bars: []figures.Bar{figures.Below("max", 0.05)}})
}
