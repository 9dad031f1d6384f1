package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// ErrNoProcess tells that there is no process which could do what was asked:
// it died, or is not up yet.
var ErrNoProcess = errors.New("the runner does not run")

// Connect joins the runner, a shard that is Ready, with its group. It speaks
// to the process that is there now and to no later one: ErrNoProcess without.
// A refusal is a *wire.Failure, a death meanwhile a *Crash.
func (r *Runner) Connect(ctx context.Context, req wire.ConnectRequest) error {
	_, err := r.now(ctx, wire.TypeConnect, req, nil)
	return err
}

// Ping asks the process that is there now for a sign of life.
func (r *Runner) Ping(ctx context.Context) error {
	_, err := r.now(ctx, wire.TypeStats, nil, nil)
	return err
}

// now is a request with a JSON body (null without one) to the process that is there now.
func (r *Runner) now(ctx context.Context, t wire.Type, req any, before func(wire.Frame) error) (wire.Frame, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return wire.Frame{}, fmt.Errorf("encode request: %w", err)
	}
	r.mu.Lock()
	p := r.current
	r.mu.Unlock()
	if p == nil {
		return wire.Frame{}, ErrNoProcess
	}
	f, err := p.call(ctx, t, body, before)
	if errors.Is(err, errGone) || errors.Is(err, errStopping) {
		err = ErrNoProcess
	}
	return f, err
}

// Kill ends the process that is there now, for a reason that becomes the cause
// of its crash; the Runner starts the next one as after any other.
func (r *Runner) Kill(reason string) {
	r.mu.Lock()
	p := r.current
	r.mu.Unlock()
	if p != nil {
		p.fail(reason)
	}
}

// Eval computes tokens from an empty state; each gets the logits of one
// position after the other, its own copy, together with the token that was
// fed there. It runs in the process's reader and must not block. Errors are
// *generation.Error, or ctx's.
func (r *Runner) Eval(ctx context.Context, req wire.EvalRequest, each func(token int32, logits []float32)) error {
	f, err := r.now(ctx, wire.TypeEval, req, func(f wire.Frame) error {
		token, logits, err := wire.DecodeLogits(f.Body)
		if err == nil {
			each(token, logits)
		}
		return err
	})
	var failure *wire.Failure
	switch crash, died := errors.AsType[*Crash](err); {
	case died:
		return &generation.Error{Kind: generation.KindFailed, Message: fmt.Sprintf("the runner of %s died (%v)", r.opts.Name, crash), Err: crash}
	case errors.As(err, &failure):
		return &generation.Error{Kind: generation.KindOfCode(failure.Code), Message: failure.Message, Err: failure}
	case err != nil:
		return fmt.Errorf("evaluate: %w", err)
	case f.Type != wire.TypeResult:
		return fmt.Errorf("evaluate: %w: answer of type %d", wire.ErrFrame, f.Type)
	}
	return nil
}
