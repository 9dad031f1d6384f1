package shard

import (
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// Head starts steps on all shards of the group and completes them in order: it
// is the model, as far as the runner's loop sees. It belongs to the engine's
// goroutine.
type Head struct {
	w       *worker
	started uint64  // number of the last step that was sent
	queue   []*Plan // sent and not finished, oldest first
	free    []*Plan // to be used again
	others  []VocabPart
	last    *Plan  // the step that was finished last
	body    []byte // reused
	row     []float32
	broken  error
}

// VocabPart is the part of the output head that a shard of the last stage has.
type VocabPart struct{ First, Count int }

// NewHead returns the head of one epoch. vocab are the parts of the output head
// of all ranks of the last stage, in order, the head's own first.
func NewHead(o Options, vocab []VocabPart) (*Head, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	l := o.Layout
	if l.Index != l.Head {
		return nil, fmt.Errorf("shard %d is not the head", l.Index)
	}
	if len(vocab) != l.ranks() || vocab[0] != (VocabPart{o.VocabFirst, o.VocabCount}) {
		return nil, fmt.Errorf("the last stage has %d ranks, and %d parts of the vocabulary", l.ranks(), len(vocab))
	}
	return &Head{w: newWorker(o), others: vocab[1:]}, nil
}

// Stages is how many steps compute at the same time.
func (h *Head) Stages() int { return h.w.Layout.Stages() }

// Depth is how many steps may be in flight. With several stages it is one more
// than those: a finished step is sampled while all stages compute.
func (h *Head) Depth() int {
	if n := h.Stages(); n > 1 {
		return n + 1
	}
	return 1
}

// Start sends a batch to all earlier stages, which carry it out after those
// before. The other ranks of the last stage hear of it when the head begins it
// itself: they could not get further than to the first all-reduce anyway, and
// until then they hold the rows that Row may ask for.
func (h *Head) Start(b *schedule.Batch, needs []sample.Need) error {
	if h.broken != nil {
		return h.broken
	}
	if len(h.queue) >= h.Depth() {
		return fmt.Errorf("start a step: %d are in flight, the most of this group", len(h.queue))
	}
	p := h.plan(b, needs)
	if n := p.outputs(); n != len(needs) {
		return fmt.Errorf("start a step: %d needs for %d outputs", len(needs), n)
	}
	h.started++
	p.Seq = h.started
	if err := h.send(p, 0, h.w.Layout.Head); err != nil {
		return h.fail(err)
	}
	h.queue = append(h.queue, p)
	return nil
}

// send gives a plan to the shards [from, to).
func (h *Head) send(p *Plan, from, to int) error {
	h.body = AppendPlan(h.body[:0], p)
	for i := from; i < to; i++ {
		if err := h.w.Link.Send(i, KindPlan, 0, h.body); err != nil {
			return lost(i, err)
		}
	}
	return nil
}

// plan makes a batch a plan, all but its number.
func (h *Head) plan(b *schedule.Batch, needs []sample.Need) *Plan {
	p := &Plan{}
	if n := len(h.free); n > 0 {
		p, h.free = h.free[n-1], h.free[:n-1]
	}
	p.Before = edits(p.Before[:0], b.Before)
	p.Items = append(p.Items[:0], b.Items...)
	p.After = edits(p.After[:0], b.After)
	p.Needs = append(p.Needs[:0], needs...)
	return p
}

func edits(out []Edit, ops []schedule.Op) []Edit {
	for _, op := range ops {
		switch op.Kind {
		case schedule.OpRemove:
			out = append(out, Edit{Kind: EditRemove, Slot: op.Slot, From: op.From})
		case schedule.OpCopy:
			out = append(out, Edit{Kind: EditCopy, Slot: op.Slot, Source: op.Source})
		case schedule.OpSave:
			out = append(out, Edit{Kind: EditSave, Slot: op.Slot, ID: op.Snapshot.ID})
		case schedule.OpRestore:
			out = append(out, Edit{Kind: EditRestore, Slot: op.Slot, ID: op.Snapshot.ID})
		case schedule.OpDrop:
			out = append(out, Edit{Kind: EditDrop, ID: op.Snapshot.ID})
		}
	}
	return out
}

// Finish completes the oldest step: it computes the head's own part and waits
// for the others. After an error the epoch is over, and every call returns it;
// it is a *LostError unless the call itself was wrong.
func (h *Head) Finish() (schedule.Outcome, []sample.Row, error) {
	var out schedule.Outcome
	if h.broken != nil {
		return out, nil, h.broken
	}
	if len(h.queue) == 0 {
		return out, nil, errors.New("finish a step: none is in flight")
	}
	p := h.queue[0]
	h.queue = append(h.queue[:0], h.queue[1:]...)
	h.w.deadline(h.w.limit(p))
	defer h.w.deadline(0)
	if err := h.send(p, h.w.Layout.Head+1, len(h.w.Layout.Shards)); err != nil {
		return out, nil, h.fail(err)
	}
	own, outcomes, err := h.w.carryOut(p)
	if err != nil {
		return out, nil, h.fail(err)
	}
	rows, err := h.gather(p, own)
	if err != nil {
		return out, nil, h.fail(err)
	}
	if len(outcomes) > 0 {
		if out, err = h.collect(p, outcomes); err != nil {
			return out, nil, h.fail(err)
		}
	}
	if h.last != nil {
		h.free = append(h.free, h.last)
	}
	h.last = p
	return out, rows, nil
}

func (h *Head) fail(err error) error {
	h.broken = h.w.ended(err)
	return h.broken
}

// gather joins the head's own parts with those of the other ranks.
func (h *Head) gather(p *Plan, own []part) ([]sample.Row, error) {
	if len(own) == 0 {
		return nil, nil
	}
	rows := make([]sample.Row, len(own))
	if len(h.others) == 0 {
		for i := range own {
			rows[i].Full = own[i].full
		}
		return rows, nil
	}
	parts := make([][]part, len(own))
	for i := range own {
		parts[i] = append(parts[i], own[i])
	}
	for k, v := range h.others {
		from := h.w.Layout.Head + 1 + k
		body, err := h.w.Link.Receive(from, KindResult, p.Seq)
		if err != nil {
			return nil, lost(from, err)
		}
		theirs, err := decodeParts(body, p.Needs, v.First, v.Count)
		if err != nil {
			return nil, lost(from, err)
		}
		for i := range parts {
			parts[i] = append(parts[i], theirs[i])
		}
	}
	for i := range rows {
		rows[i] = join(&p.Needs[i], parts[i])
	}
	return rows, nil
}

// Row gives the whole row of output i of the step that was finished last.
func (h *Head) Row(i int) ([]float32, error) {
	if h.broken != nil {
		return nil, h.broken
	}
	if h.last == nil || i < 0 || i >= len(h.last.Needs) {
		return nil, fmt.Errorf("row %d: the last step has no such output", i)
	}
	p := h.last
	if len(h.others) == 0 {
		return h.w.parts[i].full, nil
	}
	h.w.deadline(h.w.limit(p))
	defer h.w.deadline(0)
	h.body = appendWanted(h.body[:0], p.Seq, i)
	for k := range h.others {
		to := h.w.Layout.Head + 1 + k
		if err := h.w.Link.Send(to, KindPlan, 0, h.body); err != nil {
			return nil, h.fail(lost(to, err))
		}
	}
	own, err := h.w.rows.row(p.Seq, i)
	if err != nil {
		return nil, h.fail(err)
	}
	h.row = append(h.row[:0], own...)
	for k, v := range h.others {
		from := h.w.Layout.Head + 1 + k
		body, err := h.w.Link.Receive(from, KindResult, p.Seq)
		if err != nil {
			return nil, h.fail(lost(from, err))
		}
		if h.row, err = decodeWhole(h.row, body, v.Count); err != nil {
			return nil, h.fail(lost(from, err))
		}
	}
	return h.row, nil
}

// collect joins the outcomes of all shards: an edit went well if it did
// everywhere.
func (h *Head) collect(p *Plan, own []outcome) (schedule.Outcome, error) {
	for i := range h.w.Layout.Shards {
		if i == h.w.Layout.Index {
			continue
		}
		body, err := h.w.Link.Receive(i, KindResult, p.Seq)
		if err != nil {
			return schedule.Outcome{}, lost(i, err)
		}
		theirs, err := decodeOutcomes(body, len(own))
		if err != nil {
			return schedule.Outcome{}, lost(i, err)
		}
		for k, o := range theirs {
			own[k].ok = own[k].ok && o.ok
			own[k].bytes += o.bytes
		}
	}
	var out schedule.Outcome
	k := 0
	for _, list := range [][]Edit{p.Before, p.After} {
		for _, e := range list {
			if !e.reports() {
				continue
			}
			o := own[k]
			k++
			switch {
			case e.Kind == EditSave && o.ok:
				out.Saved = append(out.Saved, o.bytes)
			case e.Kind == EditSave:
				out.Saved = append(out.Saved, 0) // what some have kept is dropped as the scheduler says
			case !o.ok:
				out.Lost = append(out.Lost, e.Slot)
			}
		}
	}
	return out, nil
}
