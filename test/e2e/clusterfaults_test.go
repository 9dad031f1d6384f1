//go:build unix

package e2e

import (
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/figures"
)

// A master dies right after it acknowledged a command, while an answer runs.
func TestMastersKilled(t *testing.T) {
	f := newCampaign(t, 4, nil)
	f.serve()
	const visible = "master killed, a command accepted and visible elsewhere"
	for range *clusterFaults {
		lead := f.nodes[0].master()
		i := f.index(lead)
		others := f.others(i)
		f.nodes[i].ready(exact)
		a := f.ask(others[0], 1)
		if !f.command(f.nodes[i], http.MethodPost, "/v1/cluster/models/load", loadBody(demo, 1)) {
			t.Fatal("the demo model is not known")
		}
		began := time.Now()
		f.nodes[i].signal(syscall.SIGKILL)
		// The unload is done only if the load was kept, and then both are seen.
		kept := f.command(others[0], http.MethodDelete, "/v1/cluster/models/"+demo, "")
		if kept {
			eventually(t, "the unload to be seen elsewhere", func() bool { s := others[1].status(demo); return s == "" || s == "stopping" })
			f.note(visible, began)
			f.lost = append(f.lost, 0)
		} else {
			f.lost = append(f.lost, 1)
			t.Errorf("the load that node %s acknowledged is lost", lead)
		}
		f.nodes[i].exit()
		started := f.restart(i)
		f.listed(i, started)
		a.whole("master killed")
		eventually(t, "the unload to be kept by all", func() bool {
			return !slices.ContainsFunc(f.nodes, func(n *node) bool { return n.status(demo) != "" })
		})
	}
	f.report(f.times(visible, figures.Below("p50", 1), figures.Below("p99", 2)))
	f.report(f.kept("master killed")...)
	f.report(f.times("process started, listed on all nodes", figures.Below("p50", 1)))
}

// A worker of the instance that answers dies; the client waits for a moment.
func TestWorkersKilled(t *testing.T) {
	f := newCampaign(t, 4, nil)
	f.serve()
	const flows = "worker killed, tokens flow again"
	masters := 0
	for range *clusterFaults {
		f.nodes[0].ready(exact)
		on, _ := f.nodes[0].holders(exact)
		victim := on[f.random.IntN(len(on))]
		if f.nodes[0].master() == victim {
			masters++
		}
		i := f.index(victim)
		client := f.others(i)[0]
		a := f.ask(client, 1+f.random.IntN(40))
		began := time.Now()
		f.nodes[i].signal(syscall.SIGKILL)
		over := a.pause(began)
		f.took[flows] = append(f.took[flows], over.Sub(began))
		f.nodes[i].exit()
		started := f.restart(i)
		f.listed(i, started)
		a.whole("worker killed")
	}
	load := figures.Figure{Name: "model load", Values: figures.Seconds(f.took["model load"])}
	f.report(f.times(flows, figures.Below("p99", 5+load.Quantile(0.5))))
	t.Logf("%d of the victims were master too", masters)
	f.report(f.kept("worker killed")[1], f.times("process started, listed on all nodes", figures.Below("p50", 1)))
}

// The node that clients talk to dies: nobody goes on for them.
func TestClientsNodesKilled(t *testing.T) {
	f := newCampaign(t, 3, nil)
	const i = 2
	f.serve(f.nodes[:i]...)
	on, _ := f.nodes[0].holders(exact)
	head := f.nodes[f.index(on[0])]
	const gone = "API node killed, its generations gone on the others"
	for range *clusterFaults {
		for range 2 {
			s := f.nodes[i].open("/v1/chat/completions", ask(exact, question, "stream", true, "max_tokens", 3500, "ignore_eos", true))
			s.text()
		}
		eventually(t, "both generations to be seen", func() bool { return head.running(exact) == 2 })
		began := time.Now()
		f.nodes[i].signal(syscall.SIGKILL)
		eventually(t, "the generations to be gone", func() bool { return head.running(exact) == 0 })
		f.note(gone, began)
		f.nodes[i].exit()
		f.listed(i, f.restart(i))
	}
	f.report(f.times(gone, figures.Below("max", 2)), f.times("process started, listed on all nodes", figures.Below("p50", 1)))
}

// running is how many generations a model has, as n sees it.
func (n *node) running(model string) (count int) {
	n.t.Helper()
	var list struct {
		Loaded []struct {
			Name    string `json:"model_name"`
			Running int    `json:"running_requests"`
		} `json:"loaded"`
	}
	n.read("/v1/cluster/models", &list)
	for _, m := range list.Loaded {
		if m.Name == model {
			count += m.Running
		}
	}
	return count
}
