package replica

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/store"
)

// scripted is a Transport to a master that says the frames of one stream after
// the other.
type scripted struct {
	link
	streams [][]frame
	opened  *atomic.Int64
}

func (s scripted) Follow(context.Context, ids.Node, FollowRequest) (io.ReadWriteCloser, error) {
	k := int(s.opened.Add(1)) - 1
	if k >= len(s.streams) {
		return nil, errCut
	}
	a, b := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, b) }() // acks, until the follower closes
	go func() {
		out := json.NewEncoder(b)
		for _, f := range s.streams[k] {
			if out.Encode(f) != nil {
				return
			}
		}
	}()
	return a, nil
}

// TestStreamWithGap: a stream that skips an entry, between frames or inside one,
// puts nothing on disk and is begun anew. It is not taken for a broken disk,
// after which a node follows no longer.
func TestStreamWithGap(t *testing.T) {
	session := ids.Session{Master: "a", Clock: 1}
	entry := func(index uint64, text string) Entry {
		data, err := json.Marshal(bookEvent{Command: word(text, text), Word: text})
		if err != nil {
			t.Fatal(err)
		}
		return Entry{Index: index, Session: session, Data: data}
	}
	one, two, three := entry(1, "one"), entry(2, "two"), entry(3, "three")
	begin := func(at uint64) frame { return frame{Match: &at} }
	log, err := store.Open(filepath.Join(t.TempDir(), "b"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	master := scripted{opened: new(atomic.Int64), streams: [][]frame{
		{begin(0), {Entries: []Entry{two}}},
		{begin(0), {Entries: []Entry{one}}, {Entries: []Entry{one}}},
		{begin(1), {Entries: []Entry{two, two, three}}},
		{begin(1), {Entries: []Entry{two, three}}, {Commit: 3}},
	}}
	r, err := New(Options[book]{
		Self: "b", Machine: bookMachine, Storage: log, Transport: master, Logger: slog.New(slog.DiscardHandler),
		Gather: time.Second, Confirm: time.Second, Every: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Lead(session, true, false)
	defer r.Stop()
	for {
		if err := r.Failed(); err != nil {
			t.Fatalf("after %d streams: %v", master.opened.Load(), err)
		}
		if b, applied := r.State(); applied == 3 {
			if want := []string{"one", "two", "three"}; !slices.Equal(b.Words, want) {
				t.Errorf("words %v, want %v", b.Words, want)
			}
			break
		}
		runtime.Gosched()
	}
	if n := master.opened.Load(); n != 4 {
		t.Errorf("%d streams", n)
	}
}
