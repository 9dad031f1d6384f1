package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

// TestScripts plays the scripts of testdata and compares what happened with
// what they say. A script that is to say something else is written anew with
// -rewrite, and read before it is committed.
//
//	cluster seed=N [loadfails=N]   makes a cluster of the nodes in its lines:
//	                               ID memory [models as name:layers:size[:fails] ...] [flags]
//	start, crash ID ...            starts and kills nodes
//	cut a,b c,d                    splits the network into sides; heal joins them
//	load MODEL at=ID [replicas=N] [unplanned]
//	swap OLD NEW at=ID
//	unload MODEL at=ID; drain ID at=ID; resume ID at=ID; promote ID at=ID
//	full ID ..., room ID ...       leaves no room on disks for the log, or makes it
//	run DURATION                   lets time pass
//	settle                         until all is as it must be, and checks everything
//	status ID                      what a node knows
//
// All but status print what happened since.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: t}
		datadriven.RunTest(t, path, s.run)
	})
}

type script struct {
	t *testing.T
	w *World
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	if d.Cmd != "cluster" && s.w == nil {
		d.Fatalf(t, "a script begins with a cluster")
	}
	var names []string // arguments without a value
	values := map[string]string{}
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			names = append(names, a.Key)
		} else {
			values[a.Key] = strings.Join(a.Vals, ",")
		}
	}
	number := func(key string) int {
		if values[key] == "" {
			return 0
		}
		n, err := strconv.Atoi(values[key])
		if err != nil {
			d.Fatalf(t, "%s: %v", key, err)
		}
		return n
	}
	at := ids.Node(values["at"])
	if _, ok := values["at"]; ok && s.w.nodes[at] == nil {
		d.Fatalf(t, "there is no node %s", at)
	}
	each := func(do func(ids.Node)) {
		for _, name := range names {
			if s.w.nodes[ids.Node(name)] == nil {
				d.Fatalf(t, "there is no node %s", name)
			}
			do(ids.Node(name))
		}
	}
	first := func() string {
		if len(names) == 0 {
			d.Fatalf(t, "%s needs a name", d.Cmd)
		}
		return names[0]
	}
	switch d.Cmd {
	case "cluster":
		o := Options{Seed: uint64(number("seed")), LoadFails: number("loadfails"), Log: true, Bytes: true}
		for line := range strings.Lines(d.Input) {
			o.Nodes = append(o.Nodes, s.node(d, strings.Fields(line)))
		}
		s.w = New(o)
		return ""
	case "start":
		each(s.w.Start)
	case "crash":
		each(s.w.Crash)
	case "full", "room":
		each(func(id ids.Node) { s.w.Fill(id, d.Cmd == "full") })
	case "cut":
		var sides [][]ids.Node
		for _, name := range names {
			var side []ids.Node
			for _, id := range strings.Split(name, "+") {
				side = append(side, ids.Node(id))
			}
			sides = append(sides, side)
		}
		s.w.Cut(sides...)
	case "heal":
		s.w.Heal()
	case "load":
		s.w.Load(at, command.Load{Model: first(), Replicas: number("replicas"), MinNodes: number("nodes")}, !slices.Contains(names, "unplanned"))
	case "swap":
		if len(names) != 2 {
			d.Fatalf(t, "swap needs two models")
		}
		s.w.Swap(at, names[0], names[1])
	case "unload":
		s.w.Unload(at, first())
	case "drain", "resume":
		s.w.Change(at, cluster.NodeDrained{Node: ids.Node(first()), Resume: d.Cmd == "resume"})
	case "promote":
		s.w.Promote(at, ids.Node(first()))
	case "run":
		wait, err := time.ParseDuration(first())
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.w.Run(wait)
	case "settle":
		s.settle(d)
	case "status":
		return strings.Join(s.w.Status(ids.Node(first())), "\n") + "\n"
	default:
		d.Fatalf(t, "there is no command %s", d.Cmd)
	}
	if d.Cmd != "run" && d.Cmd != "settle" {
		s.w.Run(0)
	}
	var out []string
	for _, line := range s.w.Transcript() {
		// How a shard comes up is told once, at its end.
		if strings.Contains(line, "shard_reported") && !strings.Contains(line, "is ready") && !strings.Contains(line, "is failed") && !strings.Contains(line, "is stopped") {
			continue
		}
		out = append(out, strings.TrimRight(line, " "))
	}
	if len(out) == 0 {
		return ""
	}
	return strings.Join(out, "\n") + "\n"
}

// node reads a line of a cluster.
func (s *script) node(d *datadriven.TestData, words []string) NodeOptions {
	if len(words) < 2 {
		d.Fatalf(s.t, "a node is an id, its memory, and what else: %v", words)
	}
	memory, err := bytesize.Parse(words[1])
	if err != nil {
		d.Fatalf(s.t, "%v", err)
	}
	o := NodeOptions{ID: ids.Node(words[0]), Memory: memory}
	for _, word := range words[2:] {
		switch word {
		case "--no-master":
			o.NoMaster = true
			continue
		case "--force-master":
			o.Force = true
			continue
		case "--no-worker":
			o.NoWorker = true
			continue
		}
		if host, ok := strings.CutPrefix(word, "host="); ok {
			o.Host = host
			continue
		}
		word, fails := strings.CutSuffix(word, ":fails")
		parts := strings.Split(word, ":")
		if len(parts) != 3 {
			d.Fatalf(s.t, "%q is no flag and no model", word)
		}
		layers, err := strconv.Atoi(parts[1])
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		size, err := bytesize.Parse(parts[2])
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		o.Models = append(o.Models, Model{Name: parts[0], Layers: layers, Bytes: size, Fails: fails})
	}
	return o
}

// settle waits until all is well, and checks everything.
func (s *script) settle(d *datadriven.TestData) {
	var wrong []string
	s.w.Run(5 * time.Second) // what was just asked for is to be carried out
	for range 60 {
		if wrong = s.w.Settled(); len(wrong) == 0 || len(s.w.Wrong()) > 0 {
			break
		}
		s.w.Run(time.Second)
	}
	whole := true // each half of a split knows its own commands
	for _, id := range s.w.names {
		whole = whole && s.w.group[id] == s.w.group[s.w.names[0]]
	}
	for _, id := range s.w.names {
		if n := s.w.nodes[id]; n.up && whole {
			wrong = append(wrong, s.w.Kept(id)...)
		}
		wrong = append(wrong, s.w.Swapped(id)...)
		if text := s.w.Replayed(id); text != "" {
			wrong = append(wrong, text)
		}
	}
	if wrong = append(wrong, s.w.Wrong()...); len(wrong) > 0 {
		d.Fatalf(s.t, "%s", fmt.Sprintf("%s\n%s", strings.Join(wrong, "\n"), strings.Join(s.w.Transcript(), "\n")))
	}
	s.w.note("all is well")
}
