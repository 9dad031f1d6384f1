package cluster_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

var (
	nodeNames  = []ids.Node{"a", "b", "c", "d"}
	modelNames = []string{"big", "org/small"}
)

const layers = 4

var kinds = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 14, 15, 16, 17, 18, 17, 18, 17, 18, 19, 20, 20, 20, 21, 21, 22, 22}

func model(name string) cluster.Model {
	return cluster.Model{Name: name, Files: []cluster.File{{Name: name + ".gguf", Size: 100, SHA256: "00"}},
		Profile: placement.Model{Name: name, Layers: make([]placement.Layer, layers), Embedding: 8, Vocabulary: 32, Units: 2}}
}

// unhashed is a model that its node has just found.
func unhashed(name string, id ids.Node) cluster.Model {
	m := model(name)
	m.Files[0].SHA256, m.Holders = "", []ids.Node{id}
	return m
}

func node(id ids.Node) cluster.Node {
	return cluster.Node{ID: id, Name: "node " + string(id), Worker: true, API: true, Candidate: true, Downloads: true,
		Devices: []placement.Device{{Total: 100}, {ID: "GPU0", Total: 40}}}
}

// drawChange makes any change, about things that mostly exist, and that mostly
// but not always fits.
func drawChange(t *rapid.T, s cluster.State) cluster.Change {
	id := rapid.SampledFrom(nodeNames).Draw(t, "node")
	name := rapid.SampledFrom(modelNames).Draw(t, "model")
	wanted := fmt.Sprintf("w%d", rapid.IntRange(0, 2).Draw(t, "wanted"))
	instance := fmt.Sprintf("i%d", rapid.IntRange(0, 2).Draw(t, "instance"))
	if n := len(s.Instances); n > 0 && rapid.IntRange(0, 3).Draw(t, "known") > 0 {
		names := make([]string, 0, n)
		for k := range s.Instances {
			names = append(names, k)
		}
		slices.Sort(names)
		instance = rapid.SampledFrom(names).Draw(t, "which")
	}
	// rapid prefers small numbers; the kinds shall be even.
	kind := rapid.Permutation(kinds).Draw(t, "kind")[0]
	if len(s.Swaps) > 0 && rapid.Permutation(kinds).Draw(t, "end a swap")[0] < 4 {
		kind = 21
	} else if len(s.Swaps) == 0 && rapid.Permutation(kinds).Draw(t, "begin a swap")[0] < 6 {
		kind = 20
	}
	switch kind {
	case 0:
		return cluster.SessionBegan{}
	case 1, 2, 3:
		n := node(id)
		if rapid.Bool().Draw(t, "host") {
			n.Host = "h"
		}
		n.Worker = rapid.IntRange(0, 5).Draw(t, "worker") < 5
		return cluster.NodeSeen{Node: n}
	case 4:
		return cluster.NodeGone{Node: id, Cause: "cable"}
	case 5:
		return cluster.NodeForgotten{Node: id}
	case 6:
		return cluster.NodeDrained{Node: id, Resume: rapid.Bool().Draw(t, "resume")}
	case 7, 8:
		m := model(name)
		m.Holders = []ids.Node{id}
		if rapid.IntRange(0, 5).Draw(t, "other") == 5 {
			m.Files[0].Size++
		}
		if rapid.IntRange(0, 3).Draw(t, "unhashed") == 3 {
			m.Files[0].SHA256 = ""
		}
		return cluster.ModelKnown{Model: m}
	case 9:
		return cluster.ModelForgotten{Model: name}
	case 10:
		return cluster.FilesMoved{Model: name, Node: id, Gone: rapid.Bool().Draw(t, "gone")}
	case 11, 12:
		return cluster.ModelWanted{Wanted: cluster.Wanted{ID: wanted, Model: name, Context: 512, Slots: 1}}
	case 13:
		return rapid.SampledFrom([]cluster.Change{cluster.ModelUnwanted{Wanted: wanted, Cause: "unloaded"},
			cluster.WantedProblem{Wanted: wanted, Problem: "no room"}}).Draw(t, "about wanted")
	case 14, 15:
		if w, ok := s.Wanted[wanted]; ok && rapid.IntRange(0, 5).Draw(t, "wrong model") < 5 {
			name = w.Model
		}
		return cluster.InstancePlaced{Instance: drawInstance(t, instance, wanted, name)}
	case 16:
		return cluster.InstanceReleased{Instance: instance, Cause: "moved"}
	case 17, 18:
		return cluster.ShardReported{Epoch: rapid.SampledFrom([]uint64{s.Instances[instance].Epoch(), 0, 1}).Draw(t, "epoch"), Instance: instance, Shard: rapid.IntRange(0, 2).Draw(t, "shard"), Incarnation: rapid.IntRange(0, 3).Draw(t, "incarnation"),
			Phase: rapid.SampledFrom([]cluster.Phase{cluster.Fetching, cluster.Starting, cluster.Loading, cluster.Loaded, cluster.Connected, cluster.Ready, cluster.Failed, cluster.Stopped, cluster.Lost, "odd"}).Draw(t, "phase"),
			Error: rapid.SampledFrom([]string{"", "it broke"}).Draw(t, "error"), Link: rapid.SampledFrom([]string{"", "10.0.0.1:7"}).Draw(t, "link")}
	}
	return drawRare(t, s, kind, id, name, wanted)
}

func drawRare(t *rapid.T, s cluster.State, kind int, id ids.Node, name, wanted string) cluster.Change {
	switch kind {
	case 20:
		for _, id := range slices.Sorted(maps.Keys(s.Wanted)) { // mostly of what is not wanted
			if w := s.Wanted[id]; w.Model == name && len(s.Wanted) > 1 {
				return cluster.ModelUnwanted{Wanted: w.ID, Cause: "unloaded"}
			}
		}
		var old []cluster.Wanted
		for _, w := range s.Wanted {
			if w.Model != name {
				old = append(old, cluster.Wanted{ID: w.ID})
			}
		}
		slices.SortFunc(old, func(a, b cluster.Wanted) int { return strings.Compare(a.ID, b.ID) })
		next := fmt.Sprintf("s%d", rapid.IntRange(0, 2).Draw(t, "new"))
		return cluster.SwapBegan{Swap: cluster.Swap{ID: next, Old: old, New: cluster.Wanted{ID: next, Model: name, Context: 512, Slots: 1},
			Place: drawInstance(t, "i"+next, next, name), Overlap: rapid.Bool().Draw(t, "overlap"), Drain: time.Second}}
	case 21:
		swap := fmt.Sprintf("s%d", rapid.IntRange(0, 2).Draw(t, "swap"))
		for id := range s.Swaps {
			if _, ok := s.Swaps[swap]; !ok || id < swap {
				swap = id
			}
		}
		return rapid.SampledFrom([]cluster.Change{cluster.SwapEnded{Swap: swap}, cluster.SwapUndone{Swap: swap, Cause: "no"}, cluster.SwapForgotten{Swap: swap}}).Draw(t, "end")
	case 22:
		return drawKeyChange(t, s)
	}
	return rapid.SampledFrom([]cluster.Change{
		cluster.DownloadBegan{Download: cluster.Download{Node: id, Model: name, From: rapid.SampledFrom(nodeNames).Draw(t, "from"), Bytes: 100}},
		cluster.DownloadEnded{Node: id, Model: name}, cluster.DownloadEnded{Node: id, Model: name, Error: "disk full"},
		cluster.CommandDropped{Command: "c1", Reason: "no room any more"},
	}).Draw(t, "about files")
}

func drawInstance(t *rapid.T, id, wanted, name string) cluster.Instance {
	i := cluster.Instance{ID: id, Wanted: wanted, Model: name, Way: placement.WayPipeline, Context: 512, Slots: 1}
	at := 0
	for at < layers {
		end := rapid.IntRange(at+1, layers).Draw(t, "end")
		i.Shards = append(i.Shards, cluster.Shard{Node: rapid.SampledFrom(nodeNames).Draw(t, "on"), Spec: slice.Spec{First: at, End: end},
			Device: rapid.SampledFrom([]string{"", "", "GPU0"}).Draw(t, "device"), Reserve: rapid.Int64Range(1, 60).Draw(t, "reserve")})
		at = end
	}
	if rapid.IntRange(0, 9).Draw(t, "damage") == 9 {
		i.Shards[0].Spec.First++
	}
	return i
}

// beginning is a cluster of all nodes with all models, which are wanted.
func beginning() []cluster.Change {
	var out []cluster.Change
	for _, id := range nodeNames {
		out = append(out, cluster.NodeSeen{Node: node(id)})
	}
	for k, name := range modelNames {
		m := model(name)
		m.Holders = nodeNames[k : k+1]
		out = append(out, cluster.ModelKnown{Model: m}, cluster.ModelWanted{Wanted: cluster.Wanted{ID: fmt.Sprintf("w%d", k), Model: name, Context: 512, Slots: 1}})
	}
	return out
}

// drawHistory makes a log, and the states after each of its events.
func drawHistory(t *rapid.T) (log []cluster.Event, states []cluster.State) {
	s := cluster.State{}
	session := ids.Session{Master: "a", Clock: 1}
	at := time.Unix(1000, 0).UTC()
	changes := rapid.IntRange(1, 60).Draw(t, "events")
	begin := beginning()
	if rapid.IntRange(0, 5).Draw(t, "from nothing") == 5 {
		begin = nil
	}
	for n := range len(begin) + changes {
		if rapid.IntRange(0, 9).Draw(t, "election") == 9 {
			session = ids.Session{Master: rapid.SampledFrom(nodeNames).Draw(t, "master"), Clock: session.Clock + 1}
		}
		at = at.Add(time.Duration(rapid.IntRange(-1, 5).Draw(t, "seconds")) * time.Second)
		e := cluster.Event{Index: s.Index + 1, Session: session, At: at}
		if n < len(begin) {
			e.Change = begin[n]
		} else {
			e.Change = drawChange(t, s)
		}
		if rapid.Bool().Draw(t, "commanded") {
			e.Command = fmt.Sprintf("c%d", rapid.IntRange(0, 5).Draw(t, "command"))
			if rapid.Bool().Draw(t, "by a person") {
				e.By, e.Via = rapid.SampledFrom([]string{"ops", "config:ci", "local"}).Draw(t, "by"), rapid.SampledFrom(nodeNames).Draw(t, "via")
			}
		}
		s = s.Apply(e)
		log, states = append(log, e), append(states, s)
	}
	return log, states
}

func hash(t *rapid.T, s cluster.State) string {
	h, err := s.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestInvariantsHold(t *testing.T) {
	kept, placed, swaps, undone := 0, 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		_, states := drawHistory(t)
		for _, s := range states {
			if err := cluster.Check(s); err != nil {
				t.Fatalf("after event %d: %v", s.Index, err)
			}
			kept++
			placed += len(s.Instances)
			for _, w := range s.Swaps {
				swaps++
				if w.Undone != "" {
					undone++
				}
			}
		}
	})
	if placed*20 < kept {
		t.Errorf("only %d instances in %d states; the draws say too little", placed, kept)
	}
	if swaps == 0 || undone == 0 {
		t.Errorf("%d swaps and %d undone ones in %d states; the draws say too little", swaps, undone, kept)
	}
}

// TestLedgerNeverOvercommits: whatever is placed, no memory of a machine is
// promised twice. (Machines keep their size in these histories.)
func TestLedgerNeverOvercommits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, states := drawHistory(t)
		for k, s := range states {
			if _, ok := log[k].Change.(cluster.InstancePlaced); !ok {
				continue
			}
			sum := map[[2]string]int64{}
			for _, i := range s.Instances {
				for _, shard := range i.Shards {
					if shard.Phase.Ended() || i.ID != log[k].Change.(cluster.InstancePlaced).Instance.ID {
						continue
					}
					host := s.Nodes[shard.Node].Host
					if host == "" {
						host = string(shard.Node)
					}
					sum[[2]string{host, shard.Device}] += 0
				}
			}
			for _, i := range s.Instances {
				for _, shard := range i.Shards {
					host := s.Nodes[shard.Node].Host
					if host == "" {
						host = string(shard.Node)
					}
					if _, touched := sum[[2]string{host, shard.Device}]; touched && !shard.Phase.Ended() {
						sum[[2]string{host, shard.Device}] += shard.Reserve
					}
				}
			}
			before := cluster.State{}
			if k > 0 {
				before = states[k-1]
			}
			if before.Admit(log[k]) != nil {
				continue
			}
			for key, n := range sum {
				most := int64(100)
				if key[1] != "" {
					most = 40
				}
				if n > most {
					t.Errorf("event %d: %d of %d bytes of %v are promised", s.Index, n, most, key)
				}
			}
		}
	})
}

// TestReplayEqualsLive: events that were written and read again, from the
// beginning or from a snapshot, make the same states.
func TestReplayEqualsLive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log, states := drawHistory(t)
		from := rapid.IntRange(0, len(log)-1).Draw(t, "snapshot")
		var replayed, tail cluster.State
		for k, e := range log {
			if k == from {
				b, err := cluster.State.Snapshot(states[k])
				if err != nil {
					t.Fatal(err)
				}
				if tail, err = cluster.DecodeState(b); err != nil {
					t.Fatal(err)
				}
			}
			b, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			read, err := cluster.DecodeEvent(b)
			if err != nil {
				t.Fatal(err)
			}
			replayed = replayed.Apply(read)
			if k > from {
				tail = tail.Apply(read)
			}
			if hash(t, replayed) != hash(t, states[k]) {
				t.Fatalf("after event %d (-live +replayed):\n%s", e.Index, cmp.Diff(states[k], replayed))
			}
		}
		if last := states[len(states)-1]; hash(t, tail) != hash(t, last) {
			t.Fatalf("from a snapshot (-live +replayed):\n%s", cmp.Diff(last, tail))
		}
	})
}

// TestStatesDoNotChange: a state that someone holds stays as it is, whatever
// is applied to it.
func TestStatesDoNotChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, states := drawHistory(t)
		s := states[rapid.IntRange(0, len(states)-1).Draw(t, "which")]
		before := hash(t, s)
		for range 5 {
			s.Apply(cluster.Event{Index: s.Index + 1, Session: s.Session, At: s.At, Command: "c", Change: drawChange(t, s)})
		}
		if hash(t, s) != before {
			t.Error("a state changed when an event was applied to it")
		}
	})
}

// TestStaleMastersAreFenced: an event of an old session, or one that does not
// follow, changes nothing at all.
func TestStaleMastersAreFenced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, states := drawHistory(t)
		s := states[len(states)-1]
		e := cluster.Event{Index: s.Index + 1, Session: s.Session, Change: drawChange(t, s)}
		want := cluster.ErrFenced
		if rapid.Bool().Draw(t, "gap") {
			e.Index = rapid.SampledFrom([]uint64{0, s.Index, s.Index + 2}).Draw(t, "index")
			want = cluster.ErrGap
		} else {
			e.Session = rapid.SampledFrom([]ids.Session{{}, {Master: "z", Clock: s.Session.Clock - 1}, {Master: "", Clock: s.Session.Clock}}).Draw(t, "session")
		}
		if err := s.Admit(e); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		if hash(t, s.Apply(e)) != hash(t, s) {
			t.Error("it was applied")
		}
	})
}

// TestCommandsAreRemembered: the newest ones are found, and no more than so
// many are kept.
func TestCommandsAreRemembered(t *testing.T) {
	s := cluster.State{}
	for n := range 3000 {
		s = s.Apply(cluster.Event{Index: s.Index + 1, Session: ids.Session{Master: "a", Clock: 1}, Command: fmt.Sprint("c", n), Change: cluster.SessionBegan{}})
	}
	if err := cluster.Check(s); err != nil {
		t.Fatal(err)
	}
	if o, ok := s.Commands["c2999"]; !ok || o.Index != 3000 {
		t.Errorf("the newest command is remembered as %+v", o)
	}
	if _, ok := s.Commands["c100"]; ok || len(s.Commands) != 1024 {
		t.Errorf("%d commands are remembered", len(s.Commands))
	}
}
