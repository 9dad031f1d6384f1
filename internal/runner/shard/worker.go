package shard

import (
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/runner/sample"
)

// Options are what a Follower and a Head are made of.
type Options struct {
	Layout Layout
	Engine Engine
	Embed  Embedder // first stage only
	Link   Link     // may be nil for a group of one

	Embedding  int // width of a hidden state
	VocabFirst int // this shard's part of the output head; last stage only
	VocabCount int

	// States keeps this shard's snapshots; nil: a store of its own.
	States *Store
	// SnapshotBytes is the size of the largest state worth keeping.
	SnapshotBytes int64
	// StepSeconds is the predicted time of a step; 0: not known.
	StepSeconds float64
	// TokenSeconds is what this shard needed for one token when it warmed up.
	TokenSeconds float64
}

func (o *Options) validate() error {
	if err := o.Layout.Validate(); err != nil {
		return err
	}
	switch {
	case o.Engine == nil:
		return errors.New("shard: no engine")
	case o.Link == nil && len(o.Layout.Shards) > 1:
		return errors.New("shard: a group of several needs a link")
	case o.Layout.First() && o.Embed == nil:
		return errors.New("shard: the first stage needs embeddings")
	case o.Embedding < 1:
		return fmt.Errorf("shard: hidden states of width %d", o.Embedding)
	case o.Layout.Last() && (o.VocabCount < 1 || o.VocabFirst < 0):
		return fmt.Errorf("shard: the last stage has tokens %d to %d", o.VocabFirst, o.VocabFirst+o.VocabCount)
	}
	return nil
}

// outcome is how a save or restore went.
type outcome struct {
	ok    bool
	bytes int64 // size of the snapshot
	cause string
}

// worker computes steps on one shard. It belongs to the engine's goroutine.
type worker struct {
	Options
	seq    uint64    // last step that was carried out
	rows   rowStore  // of the last step
	parts  []part    // reused
	hidden []float32 // reused
}

func newWorker(o Options) *worker {
	if o.States == nil {
		o.States = NewStore()
	}
	return &worker{Options: o}
}

// limit is how long step p may take: ten times the predicted time, at least
// 5 s. The prediction covers a step of one token for sure; for more it is what
// this shard would need one by one, on each stage.
func (w *worker) limit(p *Plan) time.Duration {
	const least, factor = 5.0, 10
	own := w.TokenSeconds * float64(len(p.Items)*w.Layout.Stages())
	return time.Duration(max(least, factor*max(w.StepSeconds, own)) * float64(time.Second))
}

// deadline bounds the step that begins, see Link.SetDeadline.
func (w *worker) deadline(d time.Duration) {
	if w.Link != nil {
		w.Link.SetDeadline(d)
	}
}

// ended makes err, which ended the epoch, known to the other shards.
func (w *worker) ended(err error) error {
	err = lost(w.Layout.Index, err)
	var l *LostError
	if errors.As(err, &l) && w.Link != nil {
		w.Link.Fail(l.Shard, l.Cause.Error())
	}
	return err
}

// carryOut does one step: edits, the batch, edits. parts are this shard's
// parts of the outputs, in the last stage; they may be the engine's memory.
func (w *worker) carryOut(p *Plan) (parts []part, outcomes []outcome, err error) {
	if p.Seq != w.seq+1 {
		return nil, nil, &LostError{Shard: w.Layout.Head, Cause: fmt.Errorf("step %d came after step %d", p.Seq, w.seq)}
	}
	if outcomes, err = w.edit(p.Before, nil); err != nil {
		return nil, nil, err
	}
	if len(p.Items) > 0 {
		if parts, err = w.compute(p); err != nil {
			return nil, nil, err
		}
	}
	if outcomes, err = w.edit(p.After, outcomes); err != nil {
		return nil, nil, err
	}
	w.seq = p.Seq
	return parts, outcomes, nil
}

func (w *worker) compute(p *Plan) ([]part, error) {
	in, err := w.input(p)
	if err != nil {
		return nil, err
	}
	if err := w.Engine.Decode(p.Items, in); err != nil {
		return nil, lost(w.Layout.Index, fmt.Errorf("step %d: %w", p.Seq, err))
	}
	if !w.Layout.Last() {
		return nil, w.pass(p)
	}
	w.rows.begin(p.Seq, w.VocabCount)
	parts := w.parts[:0]
	for i := range p.Items {
		if !p.Items[i].Output {
			continue
		}
		l, err := w.Engine.Logits(i)
		if err == nil && len(l) != w.VocabCount {
			err = fmt.Errorf("a row of %d logits, want %d", len(l), w.VocabCount)
		}
		if err != nil {
			return nil, lost(w.Layout.Index, fmt.Errorf("step %d: %w", p.Seq, err))
		}
		parts = append(parts, w.extract(&p.Needs[len(parts)], l))
	}
	w.parts = parts
	return parts, nil
}

// extract takes what is needed of a row of this shard's part. Without other ranks
// that is the row itself. With them, the head may ask for the rest later.
func (w *worker) extract(n *sample.Need, logits []float32) part {
	if w.Layout.ranks() == 1 {
		return part{full: logits}
	}
	w.rows.add(logits)
	return extract(n, w.VocabFirst, logits)
}

// input gives the hidden states that the step starts from.
func (w *worker) input(p *Plan) ([]float32, error) {
	n := len(p.Items) * w.Embedding
	if cap(w.hidden) < n {
		w.hidden = make([]float32, n)
	}
	in := w.hidden[:n]
	if w.Layout.First() {
		if err := w.Embed.Embed(in, p.Items); err != nil {
			return nil, lost(w.Layout.Index, fmt.Errorf("step %d: %w", p.Seq, err))
		}
		return in, nil
	}
	if err := w.Link.ReceiveFloats(w.Layout.prev(), KindHidden, p.Seq, in); err != nil {
		return nil, lost(w.Layout.prev(), err)
	}
	return in, nil
}

// pass sends what the step gave to the next stage.
func (w *worker) pass(p *Plan) error {
	h, err := w.Engine.Hidden()
	if want := len(p.Items) * w.Embedding; err == nil && len(h) != want {
		err = fmt.Errorf("%d elements of hidden states, want %d", len(h), want)
	}
	if err != nil {
		return lost(w.Layout.Index, fmt.Errorf("step %d: %w", p.Seq, err))
	}
	if err := w.Link.SendFloats(w.Layout.next(), KindHidden, p.Seq, h); err != nil {
		return lost(w.Layout.next(), err)
	}
	return nil
}

// edit applies edits and appends the outcomes of those that report. A removal
// that the memory can't do would leave a wrong state, so it is an error.
func (w *worker) edit(edits []Edit, out []outcome) ([]outcome, error) {
	for _, e := range edits {
		switch e.Kind {
		case EditRemove:
			if !w.Engine.Remove(e.Slot, e.From) {
				return nil, &LostError{Shard: w.Layout.Index, Cause: fmt.Errorf("the memory of slot %d could not go back to token %d", e.Slot, e.From)}
			}
		case EditCopy:
			w.Engine.Copy(e.Source, e.Slot)
		case EditDrop:
			w.States.Drop(e.ID)
		case EditSave:
			if n := w.Engine.StateBytes(e.Slot); n > w.SnapshotBytes {
				out = append(out, outcome{cause: fmt.Sprintf("a state of %d bytes is larger than the cache", n)})
				continue
			}
			b, err := w.Engine.State(e.Slot)
			if err != nil {
				out = append(out, outcome{cause: err.Error()})
				continue
			}
			w.States.Put(e.ID, b)
			out = append(out, outcome{ok: true, bytes: int64(len(b))})
		case EditRestore:
			b, err := w.States.Get(e.ID), error(nil)
			if b == nil {
				err = fmt.Errorf("snapshot %d is not here", e.ID)
			} else {
				err = w.Engine.SetState(e.Slot, b)
			}
			if err != nil {
				w.Engine.Remove(e.Slot, 0) // of no state at all, forgetting it can't fail
				out = append(out, outcome{cause: err.Error()})
				continue
			}
			out = append(out, outcome{ok: true, bytes: int64(len(b))})
		}
	}
	return out, nil
}
