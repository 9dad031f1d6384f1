//go:build unix

package runner

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Limits of the product: how long after its end a lost shard may go unnoticed.
const (
	deadLimit    = time.Second
	stoppedLimit = 2 * time.Second
)

// untilBroken reads a survivor's frames up to its Broken. done is the Done frame
// that came before, if any.
func (c *child) untilBroken() (b wire.Broken, done *wire.Done, err error) {
	for {
		f, err := c.conn.Read()
		if err != nil {
			return b, done, fmt.Errorf("the survivor has ended: %w", err)
		}
		switch f.Type {
		case wire.TypeBeat, wire.TypeStep:
		case wire.TypeDone:
			done = &wire.Done{}
			if err := f.Decode(done); err != nil {
				return b, done, err
			}
		case wire.TypeBroken:
			return b, done, f.Decode(&b)
		default:
			return b, done, fmt.Errorf("frame type %d", f.Type)
		}
	}
}

// firstTokens waits until a generation has given some.
func (c *child) firstTokens(n int) {
	c.t.Helper()
	for got := 0; got < n; {
		f, err := c.conn.Read()
		if err != nil {
			c.t.Fatal(err)
		}
		if f.Type == wire.TypeStep {
			if err := wire.DecodeTokens(f.Body, func(wire.Token) { got++ }); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// TestLostShard ends or stops each shard of groups of all shapes while tokens
// are made: the others notice in time, say who it was, and stay; with a new
// process in its place the group answers as before.
func TestLostShard(t *testing.T) {
	path := demoModel(t)
	layers := layersOf(t, path)
	req := shardRequest(path)
	req.Context = 4096
	whole := startChild(t)
	info := whole.load(req)
	short := wire.GenerateRequest{ID: 1, Prompt: ids(40, 1, info.Vocabulary), Sampling: greedy(), MaxTokens: 10, IgnoreEnd: true}
	want := whole.generate(short)[1].tokens
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
			id := uint64(10)
			for victim := range g.procs {
				for k, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGKILL, syscall.SIGSTOP} {
					limit := deadLimit
					if sig == syscall.SIGSTOP {
						limit = stoppedLimit
					}
					id++
					long := wire.GenerateRequest{ID: id, Prompt: ids(30, int(id), info.Vocabulary), Sampling: greedy(), IgnoreEnd: true}
					prefill := k >= 2
					if prefill {
						long.Prompt = ids(4000, int(id), info.Vocabulary)
					}
					if err := g.headProc().conn.SendJSON(wire.TypeGenerate, id, long); err != nil {
						t.Fatal(err)
					}
					if prefill { // its prompt takes many times as long as this answer
						if err := g.headProc().call(wire.TypeStats, struct{}{}, &wire.Stats{}); err != nil {
							t.Fatal(err)
						}
					} else {
						g.headProc().firstTokens(5)
					}
					dead := g.procs[victim]
					begin := time.Now()
					if err := dead.cmd.Process.Signal(sig); err != nil {
						t.Fatal(err)
					}
					for i, c := range g.procs {
						if i == victim {
							continue
						}
						b, done, err := c.untilBroken()
						took := time.Since(begin)
						if err != nil {
							t.Fatalf("%v of shard %d, seen by shard %d: %v", sig, victim, i, err)
						}
						if took > limit || b.Epoch != g.epoch || b.Shard != victim || b.Cause == "" {
							t.Errorf("%v of shard %d: shard %d says %+v after %v", sig, victim, i, b, took)
						}
						if i == g.head && (done == nil || done.ID != id || done.Code != wire.CodeShard || done.Error == "") {
							t.Errorf("%v of shard %d: the generation ended with %+v, want code %s", sig, victim, done, wire.CodeShard)
						}
					}
					if victim != g.head {
						again := g.headProc().generate(short)[1]
						if again.done.Code != wire.CodeShard || again.done.Reason != wire.ReasonError {
							t.Errorf("without its shards the head answers %+v", again.done)
						}
					}
					if err := dead.cmd.Process.Kill(); err != nil && sig == syscall.SIGSTOP {
						t.Fatal(err)
					}
					g.replace(victim)
					if got := g.headProc().generate(short)[1]; !slices.Equal(got.tokens, want) {
						t.Errorf("after a new shard %d: %v %+v, the whole model gives %v", victim, got.tokens, got.done, want)
					}
				}
			}
		})
	}
}
