package schedule

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func tokensTo(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

// TestKeepAndAdopt: what one scheduler has kept, another one reuses.
func TestKeepAndAdopt(t *testing.T) {
	cfg := Config{Slots: 2, Context: 100, Chunk: 8, Pending: 4, Rewindable: true, CacheBytes: 1000}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if b := s.KeepAll(); b != nil {
		t.Errorf("an empty scheduler saves %+v", b)
	}
	j := &Job{ID: 1, Prompt: tokensTo(30), Max: 1}
	if err := s.Add(j); err != nil {
		t.Fatal(err)
	}
	for b := s.Next(); b != nil; b = s.Next() {
		s.Finished(Outcome{}, make([]int32, len(b.Items)))
		if j.Produced() > 0 {
			s.Remove(j)
		}
	}
	b := s.KeepAll()
	if b == nil {
		t.Fatal("nothing is saved")
	}
	s.Finished(Outcome{Saved: []int64{40}}, nil)
	kept := s.Kept()
	if d := cmp.Diff([]Kept{{ID: kept[0].ID, Tokens: tokensTo(29), Full: 24, Tail: 29, Bytes: 40}}, kept); d != "" {
		t.Fatal(d)
	}
	if b := s.KeepAll(); b != nil {
		t.Errorf("saved again: %+v", b)
	}

	next, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Adopt(kept); err != nil {
		t.Fatal(err)
	}
	again := &Job{ID: 2, Prompt: tokensTo(30), Max: 1}
	if err := next.Add(again); err != nil {
		t.Fatal(err)
	}
	b = next.Next()
	if b == nil || len(b.Before) != 1 || b.Before[0].Kind != OpRestore || b.Before[0].Snapshot.ID != kept[0].ID || again.Cached != 29 {
		t.Errorf("%+v with %d tokens from the cache, want a restore of all 29", b, again.Cached)
	}
}

func TestAdoptRefuses(t *testing.T) {
	good := Kept{ID: 7, Tokens: tokensTo(29), Full: 24, Tail: 29, Bytes: 40}
	for name, c := range map[string]struct {
		change func(k *Kept)
		want   string
	}{
		"no number":     {func(k *Kept) { k.ID = 0 }, "there is one"},
		"taken":         {func(k *Kept) { k.ID = 1 }, "there is one"},
		"no tokens":     {func(k *Kept) { k.Tokens = nil }, "has 0 tokens"},
		"too long":      {func(k *Kept) { k.Tokens = tokensTo(100) }, "has 100 tokens"},
		"off the grid":  {func(k *Kept) { k.Full = 23 }, "in chunks of 8"},
		"beyond":        {func(k *Kept) { k.Full = 32 }, "in chunks of 8"},
		"tail before":   {func(k *Kept) { k.Tail = 24 }, "last chunk"},
		"tail beyond":   {func(k *Kept) { k.Tail = 30 }, "last chunk"},
		"without bytes": {func(k *Kept) { k.Bytes = 0 }, "has 0 bytes"},
	} {
		s, err := New(Config{Slots: 1, Context: 100, Chunk: 8, CacheBytes: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Adopt([]Kept{{ID: 1, Tokens: tokensTo(8), Full: 8, Bytes: 10}}); err != nil {
			t.Fatal(err)
		}
		k := good
		k.ID = 8
		c.change(&k)
		if err := s.Adopt([]Kept{good, k}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if n, _ := s.Cache(); n != 1 {
			t.Errorf("%s: %d entries after a refusal, want 1", name, n)
		}
	}
}
