package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

// errBusy refuses what needs the model for itself.
var errBusy = errors.New("generations run; try again when none does")

// eval handles an Eval frame: the loop carries it out between its batches.
func (r *process) eval(f wire.Frame) error {
	var req wire.EvalRequest
	if err := f.Decode(&req); err != nil {
		return err
	}
	refuse := r.refusal(f.Ref)
	r.alone(refuse, func(l *loop) error {
		err := l.evaluate(req, r.model.info.ChunkTokens, func(token int32, row []float32) error {
			return r.conn.Send(wire.TypeLogits, f.Ref, appendLogits(nil, token, row))
		})
		var bad *badRequest
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
func (r *process) alone(refuse func(code string, err error), do func(l *loop) error) {
	r.mu.Lock()
	l := r.loop
	r.mu.Unlock()
	ok := l != nil && r.post(message{
		call: func() error {
			if len(l.gens) > 0 || len(l.flights) > 0 {
				refuse(wire.CodeBusy, errBusy)
				return nil
			}
			return do(l)
		},
		refuse: func(err error) { refuse(faultCode(err), err) },
	})
	if !ok {
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

func appendLogits(b []byte, token int32, row []float32) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(token))
	for _, v := range row {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// badRequest is a request that makes no sense.
type badRequest struct{ why string }

func (e *badRequest) Error() string { return e.why }

// evaluate computes tokens in slot 0 from an empty state and gives the whole
// row of each position from Prompt-1 on.
func (l *loop) evaluate(req wire.EvalRequest, chunk int, give func(token int32, row []float32) error) error {
	total, context := len(req.Tokens)+req.Greedy, l.sched.Config().Context
	switch {
	case req.Prompt < 1 || req.Prompt > len(req.Tokens) || req.Greedy < 0:
		return &badRequest{fmt.Sprintf("evaluate: a prompt of %d of %d tokens, and %d more", req.Prompt, len(req.Tokens), req.Greedy)}
	case total > context:
		return &badRequest{fmt.Sprintf("evaluate: %d tokens, the context holds %d", total, context)}
	}
	if err := validate(wire.GenerateRequest{Prompt: req.Tokens}, l.vocab.Vocabulary()); err != nil {
		return &badRequest{"evaluate: " + err.Error()}
	}
	l.busy.Store(true)
	l.sched.Forget(0) // what it held is overwritten
	batch := &schedule.Batch{Before: []schedule.Op{{Kind: schedule.OpRemove, Slot: 0}}}
	tokens := req.Tokens
	for done := 0; done < total; {
		n := 1
		if done < req.Prompt {
			n = min(chunk, req.Prompt-done)
		}
		batch.Items = batch.Items[:0]
		for k := range n {
			batch.Items = append(batch.Items, schedule.Item{Token: tokens[done+k], Position: done + k})
		}
		done += n
		row, err := l.evalBatch(batch, done >= req.Prompt)
		if err != nil {
			return err
		}
		l.steps.Add(1)
		batch.Before = nil
		if row == nil {
			continue
		}
		if err := give(tokens[done-1], row); err != nil {
			return err
		}
		if done == len(tokens) && done < total {
			tokens = append(tokens[:done:done], best(row))
		}
	}
	// Leave nothing behind that the scheduler does not know of.
	_, err := l.evalBatch(&schedule.Batch{Before: []schedule.Op{{Kind: schedule.OpRemove, Slot: 0}}}, false)
	return err
}

// evalBatch carries out a batch alone; with wanted it gives the last item's row.
func (l *loop) evalBatch(b *schedule.Batch, wanted bool) ([]float32, error) {
	var needs []sample.Need
	if wanted {
		b.Items[len(b.Items)-1].Output = true
		needs = []sample.Need{{Full: true}}
	}
	if err := l.eng.Start(b, needs); err != nil {
		return nil, err
	}
	_, rows, err := l.eng.Finish()
	if err != nil || !wanted {
		return nil, err
	}
	if len(rows) != 1 || rows[0].Full == nil {
		return nil, fmt.Errorf("evaluate: %d rows for one output", len(rows))
	}
	return rows[0].Full, nil
}

// best is the token with the largest logit, the lowest one on a tie.
func best(row []float32) int32 {
	at := 0
	for i, v := range row {
		if v > row[at] || row[at] != row[at] {
			at = i
		}
	}
	return int32(at)
}
