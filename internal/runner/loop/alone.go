package loop

import (
	"fmt"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Chunk is how many tokens of a prompt a step computes.
func (l *Loop) Chunk() int { return l.sched.Config().Chunk }

// Kept lists what the prefix cache keeps; what is in the slots is put there first.
// To be called in Alone; an error means that the state is unknown.
func (l *Loop) Kept() ([]schedule.Kept, error) {
	if b := l.sched.KeepAll(); b != nil {
		if err := l.eng.Start(b, nil); err != nil {
			return nil, err
		}
		out, _, err := l.eng.Finish()
		if err != nil {
			return nil, err
		}
		l.sched.Finished(out, nil)
	}
	return l.sched.Kept(), nil
}

// Adopt makes kept states known to the scheduler. To be called in Alone.
func (l *Loop) Adopt(kept []schedule.Kept) error {
	for _, k := range kept {
		if err := validate(wire.GenerateRequest{Prompt: k.Tokens}, l.vocab.Vocabulary()); err != nil {
			return fmt.Errorf("adopt snapshot %d: %w", k.ID, err)
		}
	}
	return l.sched.Adopt(kept)
}

// BadRequest is a request that makes no sense.
type BadRequest struct{ why string }

func (e *BadRequest) Error() string { return e.why }

// Evaluate computes tokens in slot 0 from an empty state and gives the whole
// row of each position from Prompt-1 on. To be called in Alone; an error other than
// a *BadRequest means that the state is unknown.
func (l *Loop) Evaluate(req wire.EvalRequest, chunk int, give func(token int32, row []float32) error) error {
	total, context := len(req.Tokens)+req.Greedy, l.sched.Config().Context
	switch {
	case req.Prompt < 1 || req.Prompt > len(req.Tokens) || req.Greedy < 0:
		return &BadRequest{fmt.Sprintf("evaluate: a prompt of %d of %d tokens, and %d more", req.Prompt, len(req.Tokens), req.Greedy)}
	case total > context:
		return &BadRequest{fmt.Sprintf("evaluate: %d tokens, the context holds %d", total, context)}
	}
	if err := validate(wire.GenerateRequest{Prompt: req.Tokens}, l.vocab.Vocabulary()); err != nil {
		return &BadRequest{"evaluate: " + err.Error()}
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
			tokens = append(tokens[:done:done], sample.Argmax(row))
		}
	}
	// Leave nothing behind that the scheduler does not know of.
	_, err := l.evalBatch(&schedule.Batch{Before: []schedule.Op{{Kind: schedule.OpRemove, Slot: 0}}}, false)
	return err
}

// evalBatch carries out a batch alone; with wanted it gives the last item's row.
func (l *Loop) evalBatch(b *schedule.Batch, wanted bool) ([]float32, error) {
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
