package runner

import (
	"errors"

	"github.com/skein-run/skein/internal/runner/loop"
	"github.com/skein-run/skein/internal/runner/wire"
)

// eval handles an Eval frame: the loop carries it out between its batches.
func (r *process) eval(f wire.Frame) error {
	var req wire.EvalRequest
	if err := f.Decode(&req); err != nil {
		return err
	}
	refuse := r.refusal(f.Ref)
	r.alone(refuse, func(l *loop.Loop) error {
		err := l.Evaluate(req, r.model.info.ChunkTokens, func(token int32, row []float32) error {
			return r.conn.Send(wire.TypeLogits, f.Ref, wire.AppendLogits(nil, token, row))
		})
		var bad *loop.BadRequest
		switch {
		case errors.As(err, &bad):
			refuse(wire.CodeInvalid, err)
			return nil
		case err != nil:
			refuse(faultCode(err), err)
			return err
		}
		return r.conn.SendJSON(wire.TypeResult, f.Ref, struct{}{})
	})
	return nil
}

// alone has do carried out on the loop's goroutine while nothing is generated,
// or refuses it. An error of do ends the loop.
func (r *process) alone(refuse func(code string, err error), do func(l *loop.Loop) error) {
	if !r.withLoop(func(l *loop.Loop) { l.Alone(do, refuse) }) {
		code, why := r.noLoop()
		refuse(code, errors.New(why))
	}
}

// refusal answers a request with a Failure.
func (r *process) refusal(ref uint64) func(code string, err error) {
	return func(code string, err error) {
		if err := r.fail(ref, code, err); err != nil {
			logLine(logWarn, err.Error())
		}
	}
}
