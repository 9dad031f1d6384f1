package shard

import (
	"encoding/binary"
	"fmt"
)

// Follower carries out the head's plans.
type Follower struct {
	w    *worker
	plan Plan   // reused
	body []byte // reused
	// Done, if set, is called after each step, on the engine's goroutine.
	Done func(seq uint64)
}

// NewFollower returns a follower for one epoch, with no snapshots.
func NewFollower(o Options) (*Follower, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Layout.Index == o.Layout.Head {
		return nil, fmt.Errorf("shard %d is the head", o.Layout.Index)
	}
	return &Follower{w: newWorker(o)}, nil
}

// Run carries out plans until the epoch ends. Its error is never nil and a
// *LostError.
func (f *Follower) Run() error {
	for {
		body, err := f.w.Link.Receive(f.w.Layout.Head, KindPlan, 0)
		if err == nil && len(body) > 1 && body[1] == tagWanted {
			err = f.sendRow(body)
		} else if err == nil {
			err = f.step(body)
		}
		if err != nil {
			return f.w.ended(err)
		}
	}
}

// sendRow gives the head a whole row of the last step.
func (f *Follower) sendRow(body []byte) error {
	w := f.w
	seq, i, err := decodeWanted(body)
	if err != nil {
		return lost(w.Layout.Head, err)
	}
	row, err := w.rows.row(seq, i)
	if err != nil {
		return lost(w.Layout.Head, err)
	}
	f.body = appendWhole(f.body[:0], row)
	return w.Link.Send(w.Layout.Head, KindResult, seq, f.body)
}

func (f *Follower) step(body []byte) error {
	w := f.w
	if err := DecodePlan(body, &f.plan); err != nil {
		return lost(w.Layout.Head, err)
	}
	w.deadline(w.limit(&f.plan))
	parts, outcomes, err := w.carryOut(&f.plan)
	if err != nil {
		return err
	}
	if len(parts) > 0 {
		f.body = appendParts(f.body[:0], parts)
		if err := w.Link.Send(w.Layout.Head, KindResult, f.plan.Seq, f.body); err != nil {
			return err
		}
	}
	if len(outcomes) > 0 {
		f.body = appendOutcomes(f.body[:0], outcomes)
		if err := w.Link.Send(w.Layout.Head, KindResult, f.plan.Seq, f.body); err != nil {
			return err
		}
	}
	w.deadline(0)
	if f.Done != nil {
		f.Done(w.seq)
	}
	return nil
}

func appendOutcomes(b []byte, out []outcome) []byte {
	b = begin(b, tagOutcomes)
	b = binary.AppendUvarint(b, uint64(len(out)))
	for _, o := range out {
		ok := byte(0)
		if o.ok {
			ok = 1
		}
		b = append(b, ok)
		b = binary.AppendUvarint(b, uint64(o.bytes))
		b = binary.AppendUvarint(b, uint64(len(o.cause)))
		b = append(b, o.cause...)
	}
	return b
}

func decodeOutcomes(body []byte, want int) ([]outcome, error) {
	r := reader{b: body}
	r.begin(tagOutcomes)
	if n := r.count(3); r.err == nil && n != want {
		r.fail(fmt.Sprintf("%d outcomes for %d edits", n, want))
	}
	out := make([]outcome, want)
	for i := range out {
		ok := r.u8()
		if ok > 1 {
			r.fail("an outcome's flag")
		}
		size := r.uvarint()
		if size > 1<<50 {
			r.fail("a snapshot's size")
		}
		out[i] = outcome{ok: ok == 1, bytes: int64(size), cause: string(r.take(r.small()))}
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("outcomes: %w", err)
	}
	return out, nil
}
