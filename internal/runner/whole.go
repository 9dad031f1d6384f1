package runner

import (
	"fmt"

	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/shard"
)

// library is the part of llama.Context that a whole model needs.
type library interface {
	Decode([]llama.Item) error
	Logits(i int) ([]float32, error)
	Remove(seq, from, to int) bool
	Copy(src, dst int)
	State(seq int) ([]byte, error)
	StateBytes(seq int) int64
	SetState(seq int, b []byte) error
}

// whole is the backend of a model that is whole in this process. Its batches
// are computed in Finish, on the loop's thread.
type whole struct {
	lib    library
	limit  int64        // bytes of the largest state worth keeping
	states *shard.Store // by Snapshot.ID

	kept  map[int][]float32 // logits by slot, see schedule.Item.Keep
	batch *schedule.Batch   // started; nil: none
	items []llama.Item      // reused
	rows  []sample.Row      // reused
}

func newWhole(lib library, cacheBytes int64) *whole {
	return &whole{lib: lib, limit: cacheBytes, states: shard.NewStore(), kept: map[int][]float32{}}
}

func (*whole) Stages() int { return 1 }
func (*whole) Depth() int  { return 1 }

func (w *whole) Start(b *schedule.Batch, _ []sample.Need) error {
	if w.batch != nil {
		return fmt.Errorf("start a batch: one is in flight, a whole model has a depth of 1")
	}
	w.batch = b
	return nil
}

func (w *whole) Finish() (out schedule.Outcome, rows []sample.Row, err error) {
	b := w.batch
	w.batch = nil
	for _, op := range b.Before {
		if err := w.apply(op, &out); err != nil {
			return out, nil, err
		}
	}
	w.rows = w.rows[:0]
	if len(b.Items) > 0 {
		if err := w.compute(b.Items); err != nil {
			return out, nil, err
		}
	}
	for _, op := range b.After {
		if err := w.apply(op, &out); err != nil {
			return out, nil, err
		}
	}
	return out, w.rows, nil
}

func (w *whole) compute(items []schedule.Item) error {
	if it := items[0]; it.Recall {
		row := w.kept[it.Slot]
		if row == nil {
			return fmt.Errorf("no logits are kept of slot %d", it.Slot)
		}
		w.rows = append(w.rows, sample.Row{Full: row})
		return nil
	}
	w.items = w.items[:0]
	for _, it := range items {
		w.items = append(w.items, llama.Item{Token: it.Token, Sequence: it.Slot, Position: it.Position, Output: it.Output})
	}
	if err := w.lib.Decode(w.items); err != nil {
		return err
	}
	for i, it := range items {
		if it.Output {
			row, err := w.lib.Logits(i)
			if err != nil {
				return err
			}
			w.rows = append(w.rows, sample.Row{Full: row})
			if it.Keep {
				w.kept[it.Slot] = append(w.kept[it.Slot][:0], row...)
			}
		}
	}
	return nil
}

// Row gives what Finish gave: a whole model's rows are whole.
func (w *whole) Row(i int) ([]float32, error) {
	if i < 0 || i >= len(w.rows) {
		return nil, fmt.Errorf("row %d of a batch with %d", i, len(w.rows))
	}
	return w.rows[i].Full, nil
}

// apply carries out one KV edit. A failed save costs only time later, after a
// failed restore the prompt is computed instead. A failed removal would leave a
// wrong state, so it is an error that ends the runner.
func (w *whole) apply(op schedule.Op, out *schedule.Outcome) error {
	switch op.Kind {
	case schedule.OpRemove:
		for _, slot := range out.Lost {
			if slot == op.Slot {
				return nil // the scheduler clears it with the next batch
			}
		}
		if !w.lib.Remove(op.Slot, op.From, -1) {
			return fmt.Errorf("the memory of slot %d could not go back to token %d", op.Slot, op.From)
		}
	case schedule.OpCopy:
		w.lib.Copy(op.Source, op.Slot)
	case schedule.OpSave:
		out.Saved = append(out.Saved, w.save(op))
	case schedule.OpRestore:
		if err := w.lib.SetState(op.Slot, w.states.Get(op.Snapshot.ID)); err != nil {
			logLine(logWarn, "prefix not restored, the prompt is computed again: "+err.Error())
			out.Lost = append(out.Lost, op.Slot)
		}
	case schedule.OpDrop:
		w.states.Drop(op.Snapshot.ID)
	}
	return nil
}

// save keeps a slot's state and gives its size, 0 if it is not kept.
func (w *whole) save(op schedule.Op) int64 {
	if w.lib.StateBytes(op.Slot) > w.limit {
		return 0
	}
	b, err := w.lib.State(op.Slot)
	if err != nil {
		logLine(logWarn, "prefix not kept: "+err.Error())
		return 0
	}
	w.states.Put(op.Snapshot.ID, b)
	return int64(len(b))
}
