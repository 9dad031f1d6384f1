package files

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/slice"
)

func wantRefusal(t *testing.T, what string, err error, code string) {
	t.Helper()
	var no *command.Refusal
	if !errors.As(err, &no) || no.Code != code {
		t.Errorf("%s: got %v, want a refusal %s", what, err, code)
	}
}

// A model is fetched at somebody's wish, and deleted again; files that somebody
// put there stay.
func TestTakeAndDiscard(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.node("a", nil), w.node("b", nil)
	path := a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	wantRefusal(t, "an unknown model", b.Take("nix"), command.UnknownModel)
	wantRefusal(t, "what is not there", b.Discard("tiny"), command.NotLoaded)
	if err := a.Take("tiny"); err != nil {
		t.Errorf("what is here already: %v", err)
	}
	for range 2 { // and once more after it was deleted
		if err := errors.Join(b.Take("tiny"), b.Take("tiny")); err != nil {
			t.Fatal(err)
		}
		w.waitHolders("tiny", "a", "b")
		w.wait("the end of the download", func(s cluster.State) bool { return len(s.Downloads) == 0 })
		if got := b.Fetched(); !slices.Equal(got, []string{"tiny"}) {
			t.Errorf("fetched: %q", got)
		}
		wanted := cluster.Wanted{ID: "w", Model: "tiny", Context: 64, Slots: 1}
		w.must(cluster.ModelWanted{Wanted: wanted})
		w.must(cluster.InstancePlaced{Instance: cluster.Instance{ID: "i", Wanted: "w", Model: "tiny", Context: 64, Slots: 1, Shards: []cluster.Shard{
			{Node: "b", Spec: slice.Spec{End: len(w.State().Models["tiny"].Profile.Layers)}, Reserve: 1},
		}}})
		wantRefusal(t, "what runs from it", b.Discard("tiny"), command.InUse)
		w.must(cluster.ModelUnwanted{Wanted: "w", Cause: "test"})
		w.must(cluster.ShardReported{Instance: "i", Phase: cluster.Stopped})
		paths, release, err := bring(t, w, b, "tiny", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Discard("tiny"); err != nil { // a copy that is here is no fetch in use
			t.Fatal(err)
		}
		release()
		w.waitHolders("tiny", "a")
		if _, err := os.Stat(paths[0]); err == nil {
			t.Errorf("%s is still there", paths[0])
		}
	}
	wantRefusal(t, "somebody's file", a.Discard("tiny"), command.Conflict)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("somebody's file is gone: %v", err)
	}
	if len(a.Fetched()) > 0 {
		t.Errorf("%q were fetched, and nothing was", a.Fetched())
	}
	w.must(cluster.NodeGone{Node: "a", Cause: "test"})
	wantRefusal(t, "nobody is there who has it", b.Take("tiny"), command.NoFiles)
}

func TestTakeWithoutDownloads(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.node("a", nil).add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	b := w.node("b", func(o *Options) { o.NoDownloads = true })
	wantRefusal(t, "--no-downloads", b.Take("tiny"), command.Conflict)
}

// A fetch that is paused has not failed, and goes on when it is wanted again.
func TestPause(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.node("a", nil), w.node("b", nil)
	a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	if b.Pause("tiny") {
		t.Error("there was nothing to pause")
	}
	begun := make(chan struct{}, 100)
	a.spoil = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done() // a holder that gives nothing
	})
	if err := b.Take("tiny"); err != nil {
		t.Fatal(err)
	}
	<-begun
	w.wait("the download", func(s cluster.State) bool { return len(s.Downloads) == 1 })
	if !b.Pause("tiny") {
		t.Error("it could not be paused")
	}
	w.wait("its end, which is no failure", func(s cluster.State) bool { return len(s.Downloads) == 0 })
	a.spoil = nil
	for b.Pause("tiny") { // until the goroutine has ended
		<-w.Changes()
	}
	if err := b.Take("tiny"); err != nil {
		t.Fatal(err)
	}
	w.waitHolders("tiny", "a", "b")
}
