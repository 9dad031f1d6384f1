package executor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/generation/prefix"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/group/member"
)

// maxPrefixes is how many chunks of cached prompts a head tells of.
const maxPrefixes = 512

// Head gives the model of an instance whose head runs here and serves now. It
// serves until its process or a connection of its shards ends: then its streams
// end with an error, and Head has to be asked again.
func (e *Executor) Head(instance string) (generation.Model, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, s := range e.shards {
		if k.Instance == instance && s.serving != nil && s.drained == nil && s.local.Doing != plan.Stop {
			return &head{s: s, m: s.member, info: s.info, life: s.serving}, true
		}
	}
	return nil, false
}

// head is one term of serving.
type head struct {
	s    *shard
	m    *member.Member
	info wire.ModelInfo
	life context.Context // ends with a *generation.Error as its cause
}

var _ generation.Model = (*head)(nil)

// Info implements generation.Model.
func (h *head) Info() wire.ModelInfo {
	info := h.info
	info.Link = ""
	if n := len(h.s.instance.Shards); n > 1 {
		info.Layers = h.s.instance.Shards[n-1].Spec.End
	}
	return info
}

func (h *head) gone() error {
	if h.life.Err() != nil {
		return context.Cause(h.life)
	}
	return nil
}

// Tokenize implements generation.Model.
func (h *head) Tokenize(ctx context.Context, text string, addSpecial, parseSpecial bool) ([]int32, error) {
	if err := h.gone(); err != nil {
		return nil, err
	}
	ctx, told := member.Within(ctx, h.life)
	ids, err := h.m.Tokenize(ctx, text, addSpecial, parseSpecial)
	return ids, told(err)
}

// Detokenize implements generation.Model.
func (h *head) Detokenize(ctx context.Context, ids []int32) (string, error) {
	if err := h.gone(); err != nil {
		return "", err
	}
	ctx, told := member.Within(ctx, h.life)
	text, err := h.m.Detokenize(ctx, ids)
	return text, told(err)
}

// Stats asks the scheduler.
func (h *head) Stats(ctx context.Context) (wire.Stats, error) {
	if err := h.gone(); err != nil {
		return wire.Stats{}, err
	}
	ctx, told := member.Within(ctx, h.life)
	stats, err := h.m.Stats(ctx)
	return stats, told(err)
}

// Generate implements generation.Model. A stream that is lost with its head
// ends with a *generation.Error of KindFailed, or with wire.CodeShard.
func (h *head) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	s := h.s
	s.e.mu.Lock()
	err := h.gone()
	if err == nil && s.drained != nil {
		err = &generation.Error{Kind: generation.KindUnavailable, Message: fmt.Sprintf("%s is being unloaded; ask again to load it anew", s.instance.Model), RetryAfter: 1}
	}
	if err != nil {
		s.e.mu.Unlock()
		return nil, err
	}
	s.open++
	s.e.mu.Unlock()
	// The generation lives as long as the head serves, and the caller's ctx.
	both, told := member.Within(ctx, h.life)
	inner, err := h.m.Generate(both, req)
	if err != nil {
		h.leave()
		return nil, told(err)
	}
	return &stream{Stream: inner, h: h, tokens: append([]int32(nil), req.Prompt...), prompt: len(req.Prompt), release: func() { _ = told(nil) }, joint: member.NewJoint(h.life)}, nil
}

// leave counts a generation that has ended.
func (h *head) leave() {
	h.s.e.mu.Lock()
	defer h.s.e.mu.Unlock()
	h.s.open--
	if h.s.open == 0 && h.s.drained != nil {
		h.s.e.poke()
	}
}

// stream counts what comes, and remembers what is cached then.
type stream struct {
	generation.Stream
	h       *head
	tokens  []int32 // prompt and produced; the reader's
	prompt  int
	first   time.Time // of the first token
	once    sync.Once
	release func()
	joint   member.Joint
}

// Next implements generation.Stream.
func (s *stream) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	tokens, done, err := s.joint.Next(ctx, s.Stream.Next)
	if lost := s.h.gone(); lost != nil && done != nil && done.Reason == wire.ReasonCancelled && ctx.Err() == nil {
		done, err = nil, lost // the caller cancelled nothing
	}
	now := time.Now()
	if len(tokens) > 0 {
		if s.first.IsZero() {
			s.first = now
		}
		for i := range tokens {
			s.tokens = append(s.tokens, tokens[i].Token)
		}
		s.h.s.e.mu.Lock()
		s.h.s.tokens.Add(float64(len(tokens)), now)
		s.h.s.e.mu.Unlock()
	}
	if done != nil || err != nil && ctx.Err() == nil {
		s.end(now)
	}
	return tokens, done, err
}

// Close implements generation.Stream.
func (s *stream) Close() {
	s.Stream.Close()
	s.end(time.Now())
}

func (s *stream) end(now time.Time) {
	s.once.Do(func() {
		s.release()
		s.joint.End()
		chain := prefix.Chain(s.tokens, s.h.info.ChunkTokens)
		sh := s.h.s
		sh.e.mu.Lock()
		if s.h.gone() == nil {
			sh.cached.Add(chain)
		}
		if produced := len(s.tokens) - s.prompt; produced > 1 && now.After(s.first) {
			sh.stream = float64(produced-1) / now.Sub(s.first).Seconds()
		}
		sh.e.mu.Unlock()
		s.h.leave()
	})
}

func sortedKeys(m map[plan.Key]*shard) []plan.Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b plan.Key) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Shard, b.Shard))
	})
}
