package view_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/ids"
)

// The list is that of all nodes, whichever is asked: who has a file, who has
// another of its name, and what nobody has any more.
func TestLibraryOfAllNodes(t *testing.T) {
	in := inputs(t)
	model := func(name string, holders ...ids.Node) cluster.Model {
		return cluster.Model{Name: name, Files: []cluster.File{{Size: 2 * gb}, {Size: gb}}, Profile: placement.Model{Parameters: 7e9, Trained: 4096}, Holders: holders}
	}
	in.State.Models = map[string]cluster.Model{
		"both": model("both", "aa11", "ab22"), "copied": model("copied", "aa11", "ab22"), "theirs": model("theirs", "ab22", "dd44"), "gone": model("gone"), "removed": model("removed", "aa11"), "other": model("other", "ab22"),
	}
	v := view.Of(in)
	own := []api.LibraryEntry{{Name: "both", Paths: []string{"/b"}, Source: "dir"}, {Name: "new", Source: "added"}, {Name: "other", Source: "added"}}
	want := []api.LibraryEntry{
		{Name: "both", Paths: []string{"/b"}, Source: "dir", Nodes: []string{"aa11", "ab22"}, NodeNames: []string{"studio", "Mini"}},
		{Name: "copied", Paths: []string{}, SizeBytes: 3 * gb, SizeGB: 3, Parameters: 7e9, ContextLength: 4096, Source: "fetched", Nodes: []string{"aa11", "ab22"}, NodeNames: []string{"studio", "Mini"}},
		{Name: "new", Source: "added", Nodes: []string{"aa11"}, NodeNames: []string{"studio"}},
		{Name: "other", Source: "added", Nodes: []string{"aa11"}, NodeNames: []string{"studio"}},
		{Name: "theirs", Paths: []string{}, SizeBytes: 3 * gb, SizeGB: 3, Parameters: 7e9, ContextLength: 4096, Source: "nodes", Nodes: []string{"ab22", "dd44"}, NodeNames: []string{"Mini", "attic"}},
	}
	if diff := cmp.Diff(want, v.Library("aa11", own)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := v.Elsewhere("aa11", "theirs"); !cmp.Equal(got, []string{"Mini", "attic"}) {
		t.Errorf("theirs is on %q", got)
	}
	if got := v.Elsewhere("aa11", "both"); !cmp.Equal(got, []string{"Mini"}) {
		t.Errorf("both is on %q beside this node", got)
	}
	for _, name := range []string{"gone", "nobody's"} {
		if got := v.Elsewhere("aa11", name); got != nil {
			t.Errorf("%s is told to be on %q", name, got)
		}
	}
}

// What a model's failure tells of nodes has their names, as all else has.
func TestProblemsNameNodes(t *testing.T) {
	in := inputs(t)
	in.State.Wanted["w-x"] = cluster.Wanted{ID: "w-x", Model: "org/Lost", Problem: "no node that has the files is online; start one of: dd44"}
	for _, m := range view.Of(in).Models().Loaded {
		if m.ModelID == "org/Lost" && m.Error == "no node that has the files is online; start one of: attic" && m.Progress == "failed: "+m.Error {
			return
		}
	}
	t.Errorf("%+v", view.Of(in).Models().Loaded)
}
