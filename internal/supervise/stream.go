package supervise

import (
	"context"
	"fmt"
	"sync"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// stream is one generation. The process's reader puts tokens in and never
// waits; Next takes them out.
type stream struct {
	id    uint64
	p     *process
	limit int           // tokens the runner may send at most; 0: unknown
	wake  chan struct{} // capacity 1: something to take
	note  func(generation.PromptProgress)

	mu        sync.Mutex // guards all below
	tokens    []wire.Token
	received  int
	done      *wire.Done
	err       error
	cancelled bool        // Cancel was sent
	closed    bool        // nobody reads: tokens are dropped
	release   func() bool // lets go of the caller's context; nil: not held
}

// hold cancels the generation when ctx ends, until the stream does.
func (s *stream) hold(ctx context.Context) {
	release := context.AfterFunc(ctx, s.cancel)
	s.mu.Lock()
	ended := s.done != nil || s.err != nil
	s.release = release
	s.mu.Unlock()
	if ended {
		release()
	}
}

// letGo is the end of hold.
func (s *stream) letGo() {
	s.mu.Lock()
	release := s.release
	s.mu.Unlock()
	if release != nil {
		release()
	}
}

// push appends a token; it reports false when the runner sends more than was
// asked for.
func (s *stream) push(t wire.Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received++
	if s.limit > 0 && s.received > s.limit {
		return false
	}
	if !s.closed && s.err == nil {
		s.tokens = append(s.tokens, t)
		s.signal()
	}
	return true
}

// finish ends the stream, with done or with err.
func (s *stream) finish(done *wire.Done, err error) {
	s.mu.Lock()
	if s.done == nil && s.err == nil {
		s.done, s.err = done, err
	}
	s.signal()
	s.mu.Unlock()
	s.letGo()
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next implements generation.Stream.
func (s *stream) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	for {
		s.mu.Lock()
		tokens, done, err := s.tokens, s.done, s.err
		s.tokens = nil
		s.mu.Unlock()
		switch {
		case err != nil && len(tokens) > 0:
			return tokens, nil, nil // the error comes with the next call
		case err != nil:
			return nil, nil, err
		case done != nil || len(tokens) > 0:
			return tokens, done, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for tokens: %w", context.Cause(ctx))
		}
	}
}

// Close implements generation.Stream.
func (s *stream) Close() {
	s.mu.Lock()
	s.closed = true
	s.tokens = nil
	if s.done == nil && s.err == nil {
		s.err = &generation.Error{Kind: generation.KindFailed, Message: "the generation was closed"}
		s.signal()
		s.mu.Unlock()
		s.cancel()
	} else {
		s.mu.Unlock()
	}
	s.letGo()
}

// cancel asks the runner to end the generation; the stream stays known until
// Done arrives, so that late tokens are not taken for a fault.
func (s *stream) cancel() {
	s.mu.Lock()
	sent := s.cancelled || s.done != nil
	s.cancelled = true
	s.mu.Unlock()
	if !sent {
		// A process that is gone has nothing left to cancel.
		_ = s.p.send(wire.TypeCancel, s.id, nil)
	}
}
