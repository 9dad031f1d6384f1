package runner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/runner/wire"
)

// stateOf takes a snapshot's bytes out of a process.
func (c *child) stateOf(id uint64) (info wire.StateInfo, b []byte, err error) {
	c.ref++
	if err := c.conn.SendJSON(wire.TypeStateGet, c.ref, wire.StateRequest{ID: id}); err != nil {
		return info, nil, err
	}
	for {
		f, err := c.conn.Read()
		if err != nil {
			return info, nil, err
		}
		switch f.Type {
		case wire.TypeState:
			b = append(b, f.Body...)
		case wire.TypeResult:
			return info, b, f.Decode(&info)
		case wire.TypeFailure:
			var fail wire.Failure
			if err := f.Decode(&fail); err != nil {
				return info, nil, err
			}
			return info, nil, &fail
		case wire.TypeBeat, wire.TypeBroken:
		default:
			return info, nil, fmt.Errorf("frame type %d", f.Type)
		}
	}
}

// putState gives a process a snapshot's bytes, in pieces.
func (c *child) putState(info wire.StateInfo, b []byte) error {
	c.ref++
	if err := c.conn.SendJSON(wire.TypeStatePut, c.ref, info); err != nil {
		return err
	}
	for len(b) > 0 {
		n := min(len(b), 5000)
		if err := c.conn.Send(wire.TypeState, c.ref, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	for {
		f, err := c.conn.Read()
		if err != nil {
			return err
		}
		switch f.Type {
		case wire.TypeResult:
			return nil
		case wire.TypeFailure:
			var fail wire.Failure
			if err := f.Decode(&fail); err != nil {
				return err
			}
			return &fail
		}
	}
}

// saved is a group's prefix cache outside of it.
type saved struct {
	list   wire.Snapshots
	infos  map[uint64][]wire.StateInfo // of each shard
	states map[uint64][][]byte
}

func save(t *testing.T, procs []*child, head int) saved {
	t.Helper()
	s := saved{infos: map[uint64][]wire.StateInfo{}, states: map[uint64][][]byte{}}
	if err := procs[head].call(wire.TypeSnapshots, struct{}{}, &s.list); err != nil {
		t.Fatal(err)
	}
	for _, e := range s.list.Entries {
		var sum int64
		for _, c := range procs {
			info, b, err := c.stateOf(e.ID)
			if err != nil {
				t.Fatal(err)
			}
			s.infos[e.ID], s.states[e.ID] = append(s.infos[e.ID], info), append(s.states[e.ID], b)
			sum += int64(len(b))
		}
		if sum != e.Bytes {
			t.Errorf("snapshot %d has %d bytes, the head tells %d", e.ID, sum, e.Bytes)
		}
	}
	return s
}

func (s saved) restore(t *testing.T, procs []*child, head int) {
	t.Helper()
	for id, infos := range s.infos {
		for i, c := range procs {
			if err := c.putState(infos[i], s.states[id][i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := procs[head].call(wire.TypeAdopt, wire.AdoptRequest(s.list), &struct{}{}); err != nil {
		t.Fatal(err)
	}
}

// TestStatesOutliveProcesses: what a group has cached is taken out, the group
// is replaced by new processes, wholly or one shard, and goes on as if
// nothing had been: the same tokens from the cache.
func TestStatesOutliveProcesses(t *testing.T) {
	path := demoModel(t)
	layers := layersOf(t, path)
	req := shardRequest(path)
	for _, shape := range []struct {
		name   string
		stages int
		parts  []int
	}{{"2x1", 2, nil}, {"1x2", 1, []int{1, 1}}, {"2x2", 2, []int{1, 1}}} {
		t.Run(shape.name, func(t *testing.T) {
			g, err := startGroup(t, req, cut(layers, shape.stages, shape.parts))
			if err != nil {
				t.Fatal(err)
			}
			vocabulary := g.infos[g.head].Vocabulary
			gen := func(id uint64, seed int) *answer {
				t.Helper()
				return g.headProc().generate(wire.GenerateRequest{ID: id, Prompt: ids(70, seed, vocabulary), Sampling: greedy(), MaxTokens: 12, IgnoreEnd: true, Logprobs: true})[id]
			}
			want := []*answer{gen(1, 1), gen(2, 2), gen(3, 3)}
			kept := save(t, g.procs, g.head)
			if len(kept.list.Entries) != 3 {
				t.Fatalf("%d snapshots, want 3", len(kept.list.Entries))
			}
			check := func(what string, id uint64) {
				t.Helper()
				for i, w := range want {
					got := gen(id+uint64(i), i+1)
					if got.done.CachedTokens == 0 {
						t.Errorf("%s: prompt %d was computed again", what, i)
					}
					if !slices.Equal(got.tokens, w.tokens) || !slices.Equal(got.logprobs, w.logprobs) {
						t.Errorf("%s: prompt %d gives %v, before %v", what, i, got.tokens, w.tokens)
					}
				}
			}
			check("the same processes", 10)
			// A shard that is handed over: a new process, a new epoch.
			kept = save(t, g.procs, g.head)
			g.replace(0)
			kept.restore(t, g.procs, g.head)
			check("another shard 0", 20)
			// All of them.
			again, err := startGroup(t, req, g.shards)
			if err != nil {
				t.Fatal(err)
			}
			g = again
			kept.restore(t, g.procs, g.head)
			check("new processes", 30)

			// What is not this shard's state, or not whole, is refused.
			e := kept.list.Entries[0].ID
			info, b := kept.infos[e][0], kept.states[e][0]
			info.ID = 1000
			for name, bad := range map[string]struct {
				info func(wire.StateInfo) wire.StateInfo
				want string
			}{
				"another shard's": {func(i wire.StateInfo) wire.StateInfo { i.Shard = kept.infos[e][1].Shard; return i }, "another part of it"},
				"another version": {func(i wire.StateInfo) wire.StateInfo { i.Version++; return i }, "version"},
				"damaged":         {func(i wire.StateInfo) wire.StateInfo { i.Sum++; return i }, "damaged"},
				"too large":       {func(i wire.StateInfo) wire.StateInfo { i.Bytes = 1 << 40; return i }, "has room for"},
				"there already":   {func(i wire.StateInfo) wire.StateInfo { i.ID = e; return i }, "there is one"},
			} {
				err := g.procs[0].putState(bad.info(info), b)
				var f *wire.Failure
				if !errors.As(err, &f) || !strings.Contains(f.Message, bad.want) {
					t.Errorf("a state that is %s: %v, want a refusal with %q", name, err, bad.want)
				}
			}
			other := kept.list
			other.Model = "another"
			if err := g.headProc().call(wire.TypeAdopt, wire.AdoptRequest(other), &struct{}{}); err == nil {
				t.Error("snapshots of another model are adopted")
			}
		})
	}
}

// TestStatesOfWholeModel: a whole model's prefix cache outlives its runner too.
func TestStatesOfWholeModel(t *testing.T) {
	req := shardRequest(demoModel(t))
	c := startChild(t)
	info := c.load(req)
	gen := wire.GenerateRequest{ID: 1, Prompt: ids(70, 1, info.Vocabulary), Sampling: greedy(), MaxTokens: 12, IgnoreEnd: true, Logprobs: true}
	want := c.generate(gen)[1]
	kept := save(t, []*child{c}, 0)
	next := startChild(t)
	next.load(req)
	kept.restore(t, []*child{next}, 0)
	got := next.generate(gen)[1]
	if got.done.CachedTokens == 0 || !slices.Equal(got.tokens, want.tokens) || !slices.Equal(got.logprobs, want.logprobs) {
		t.Errorf("%v with %d tokens from the cache, before %v", got.tokens, got.done.CachedTokens, want.tokens)
	}
}
