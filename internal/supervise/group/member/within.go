package member

import (
	"context"
	"errors"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Within gives a context that ends with ctx or with life, that of a connection
// whose cause of death is a *generation.Error; told must be called with the
// outcome, and puts that cause in the place of the error that its end makes.
func Within(ctx, life context.Context) (both context.Context, told func(error) error) {
	both, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(life, func() { cancel(context.Cause(life)) })
	return both, func(err error) error {
		release()
		cancel(nil)
		var lost *generation.Error
		if err != nil && ctx.Err() == nil && errors.As(context.Cause(life), &lost) {
			return lost
		}
		return err
	}
}

// Joint is Within for the stream of a connection, whose Next is called with the same
// context again and again: it joins them once, so that a token costs no context
// of its own. It belongs to the stream's reader, who calls End last.
type Joint struct {
	life, ctx, both context.Context
	told            func(error) error // nil: nothing is joined
}

// NewJoint begins with nothing joined.
func NewJoint(life context.Context) Joint { return Joint{life: life} }

// Next calls next with a context that ends with ctx or the connection, and
// gives its error as Within's told does.
func (j *Joint) Next(ctx context.Context, next func(context.Context) ([]wire.Token, *wire.Done, error)) ([]wire.Token, *wire.Done, error) {
	if j.told == nil || j.ctx != ctx {
		j.End()
		j.ctx = ctx
		j.both, j.told = Within(ctx, j.life)
	}
	tokens, done, err := next(j.both)
	if err != nil {
		err = j.told(err)
		j.told = nil
	}
	return tokens, done, err
}

// End lets go of the contexts.
func (j *Joint) End() {
	if j.told != nil {
		_ = j.told(nil) // there is no outcome to be put right
		j.told = nil
	}
}
