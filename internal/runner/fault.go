package runner

import (
	"errors"

	"github.com/skein-run/skein/internal/runner/shard"
	"github.com/skein-run/skein/internal/runner/wire"
)

// faultCode is the code of generations that a fault of the loop ends.
func faultCode(err error) string {
	var lost *shard.LostError
	if errors.As(err, &lost) {
		return wire.CodeShard
	}
	return wire.CodeInternal
}

// drain refuses what was posted after run ended, on its goroutine. Nothing may
// be posted any more.
func (l *loop) drain(err error) {
	l.mu.Lock()
	mail := l.mail
	l.mail = nil
	l.mu.Unlock()
	for _, m := range mail {
		switch {
		case m.start != nil:
			l.done(wire.Done{ID: m.start.ID, Reason: wire.ReasonError, Code: faultCode(err), Error: err.Error(), PromptTokens: len(m.start.Prompt)})
		case m.refuse != nil:
			m.refuse(err)
		}
	}
	l.out.flush()
}
