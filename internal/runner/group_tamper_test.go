package runner

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/nettest"
	"github.com/skein-run/skein/internal/runner/wire"
)

// spy counts the reads of a relay, and from one of them on has it tampered with
// the direction of that read.
type spy struct {
	mu     sync.Mutex // guards all below
	reads  int        // since it was armed
	at     int        // number of the read
	begin  func(d nettest.Direction, offset int64, b []byte) nettest.Tamper
	tamper nettest.Tamper    // nil before
	where  nettest.Direction // of tamper
	hits   int               // calls in which tamper changed something
}

// arm counts from now on.
func (s *spy) arm(at int, begin func(d nettest.Direction, offset int64, b []byte) nettest.Tamper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads, s.at, s.begin = 0, at, begin
}

// result tells how many reads there were, where it was tampered, and how often.
func (s *spy) result() (reads int, where nettest.Direction, hits int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads, s.where, s.hits
}

func (s *spy) see(d nettest.Direction, offset int64, b []byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reads++; s.begin != nil && s.tamper == nil && s.reads > s.at {
		s.tamper, s.where = s.begin(d, offset, b), d
	}
	if s.tamper == nil {
		return b, false
	}
	out, end := s.tamper(d, offset, b)
	if end || !slices.Equal(out, b) {
		s.hits++
	}
	return out, end
}

// tampering is one thing that a man in the middle does, from a place on.
type tampering struct {
	name string
	make func(d nettest.Direction, at int64, random *rand.Rand) nettest.Tamper
}

var tamperings = []tampering{
	{"flip", func(d nettest.Direction, at int64, random *rand.Rand) nettest.Tamper {
		return nettest.Flip(d, at, uint(random.IntN(8)))
	}},
	{"replay", func(d nettest.Direction, at int64, random *rand.Rand) nettest.Tamper {
		return nettest.Replay(d, at, at+1+random.Int64N(300))
	}},
	{"drop", func(d nettest.Direction, at int64, random *rand.Rand) nettest.Tamper {
		return nettest.Drop(d, at, at+1+random.Int64N(300))
	}},
	{"reorder", func(d nettest.Direction, at int64, random *rand.Rand) nettest.Tamper {
		n := 1 + random.Int64N(100)
		return nettest.Reorder(d, at, at+n, at+3*n)
	}},
	{"truncate", func(d nettest.Direction, at int64, _ *rand.Rand) nettest.Tamper { return nettest.Truncate(d, at) }},
}

// outcome is how a generation ended among shards that are tampered with.
type outcome struct {
	tokens []int32
	done   wire.Done
}

// generateAmid is child.generate for one request, in which a group may break.
func (c *child) generateAmid(req wire.GenerateRequest) (o outcome) {
	c.t.Helper()
	if err := c.conn.SendJSON(wire.TypeGenerate, req.ID, req); err != nil {
		c.t.Fatal(err)
	}
	for {
		f, err := c.conn.Read()
		if err != nil {
			c.t.Fatalf("the head has ended: %v", err)
		}
		switch f.Type {
		case wire.TypeStep:
			if err := wire.DecodeTokens(f.Body, func(t wire.Token) { o.tokens = append(o.tokens, t.Token) }); err != nil {
				c.t.Fatal(err)
			}
		case wire.TypeDone:
			if err := f.Decode(&o.done); err != nil {
				c.t.Fatal(err)
			}
			return o
		case wire.TypeBeat, wire.TypeBroken:
		default:
			c.t.Fatalf("frame type %d", f.Type)
		}
	}
}

// TestManInTheMiddle changes what two shards send each other, at random places
// of both of their connections while an answer is made: the answer ends with an
// error that blames a shard, after right tokens only, and both processes live;
// joined again without him they answer as before.
func TestManInTheMiddle(t *testing.T) {
	path := demoModel(t)
	layers := layersOf(t, path)
	for _, shape := range []struct {
		name   string
		stages int
		parts  []int
	}{{"2x1", 2, nil}, {"1x2", 1, []int{1, 1}}} {
		t.Run(shape.name, func(t *testing.T) {
			req := shardRequest(path)
			req.Context = 512
			g, err := startGroup(t, req, cut(layers, shape.stages, shape.parts))
			if err != nil {
				t.Fatal(err)
			}
			ask := wire.GenerateRequest{ID: 1, Prompt: ids(120, 1, g.infos[g.head].Vocabulary), Sampling: greedy(), MaxTokens: 40, IgnoreEnd: true}
			want := g.headProc().generateAmid(ask).tokens
			if len(want) != ask.MaxTokens {
				t.Fatalf("%d tokens, want %d", len(want), ask.MaxTokens)
			}
			// Shard 0 calls shard 1, so he stands before that.
			target := g.infos[1].Link
			amid := func(s *spy, at int, begin func(d nettest.Direction, offset int64, b []byte) nettest.Tamper) outcome {
				relay, err := nettest.NewRelay(target, nettest.Path{Tamper: s.see})
				if err != nil {
					t.Fatal(err)
				}
				g.infos[1].Link = relay.Addr()
				if err := g.join(); err != nil {
					t.Fatal(err)
				}
				s.arm(at, begin)
				ask.ID++
				o := g.headProc().generateAmid(ask)
				g.infos[1].Link = target
				if err := g.join(); err != nil {
					t.Fatal(err)
				}
				if err := relay.Close(); err != nil {
					t.Error(err)
				}
				return o
			}
			harmless := &spy{}
			if o := amid(harmless, 0, nil); !slices.Equal(o.tokens, want) {
				t.Fatalf("through a relay the tokens are %v, without they are %v", o.tokens, want)
			}
			reads, _, _ := harmless.result()
			random := rand.New(rand.NewPCG(1, uint64(shape.stages)))
			caught := map[string]int{}
			for i := range 2 * len(tamperings) {
				kind, s := tamperings[i%len(tamperings)], &spy{}
				o := amid(s, random.IntN(reads*9/10), func(d nettest.Direction, offset int64, b []byte) nettest.Tamper {
					return kind.make(d, offset+random.Int64N(int64(len(b))), random)
				})
				_, d, hits := s.result()
				name := fmt.Sprintf("%s of connection %d, back %v", kind.name, d.Connection, d.Back)
				if len(o.tokens) > len(want) || !slices.Equal(o.tokens, want[:len(o.tokens)]) {
					t.Errorf("%s: tokens %v, unharmed they are %v", name, o.tokens, want)
				}
				switch {
				case o.done.Reason == wire.ReasonError:
					caught[kind.name]++
					if o.done.Code != wire.CodeShard || o.done.Error == "" || hits == 0 {
						t.Errorf("%s: %d hits, and it ended with %+v", name, hits, o.done)
					}
				case len(o.tokens) != len(want):
					t.Errorf("%s: %d tokens without an error: %+v", name, len(o.tokens), o.done)
				}
				t.Logf("%s: %d hits, %d tokens, %s", name, hits, len(o.tokens), o.done.Error)
				ask.ID++
				if o := g.headProc().generateAmid(ask); !slices.Equal(o.tokens, want) {
					t.Errorf("%s: without him the answer is %v %+v, before it was %v", name, o.tokens, o.done, want)
				}
			}

			for _, kind := range tamperings {
				if caught[kind.name] == 0 {
					t.Errorf("no answer ended by a %s", kind.name)
				}
			}
		})
	}
}
