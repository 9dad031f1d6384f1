package shard

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// fakeEngine is a stage whose hidden states tell the whole history of their
// sequence through all stages, so that a shard out of step gives other rows.
type fakeEngine struct {
	layer        int // first one; part of what it computes
	first, count int // part of the vocabulary; last stage
	seqs         map[int][]float32
	hidden       []float32
	rows         [][]float32
	fault        error                       // of Decode
	noSave       map[int]bool                // slots that can't be saved
	noRemove     map[int]bool                // slots that can't be cut
	hook         func([]schedule.Item)       // sees every batch
	reduce       func([]schedule.Item) error // stands for the all-reduces
}

const (
	fakeWidth      = 2
	fakeVocabulary = 24
)

func newFakeEngine(layer, first, count int) *fakeEngine {
	return &fakeEngine{layer: layer, first: first, count: count, seqs: map[int][]float32{}}
}

func (f *fakeEngine) Decode(items []schedule.Item, hidden []float32) error {
	if f.hook != nil {
		f.hook(items)
	}
	if f.fault != nil {
		return f.fault
	}
	if f.reduce != nil {
		if err := f.reduce(items); err != nil {
			return err
		}
	}
	f.hidden, f.rows = f.hidden[:0], f.rows[:0]
	for i, it := range items {
		seq := f.seqs[it.Slot]
		if it.Position != len(seq) {
			return fmt.Errorf("position %d of slot %d, which holds %d", it.Position, it.Slot, len(seq))
		}
		acc := hidden[fakeWidth*i+1]
		seq = append(seq, hidden[fakeWidth*i])
		for k, v := range seq {
			acc = float32(int(acc*31+v*float32(k+1)+float32(f.layer)) % 9973)
		}
		f.seqs[it.Slot] = seq
		f.hidden = append(f.hidden, hidden[fakeWidth*i], acc)
		row := make([]float32, f.count)
		for v := range row {
			row[v] = float32(int(acc)*(f.first+v+1)%101) / 10
		}
		f.rows = append(f.rows, row)
	}
	return nil
}

func (f *fakeEngine) Hidden() ([]float32, error)      { return f.hidden, nil }
func (f *fakeEngine) Logits(i int) ([]float32, error) { return f.rows[i], nil }
func (f *fakeEngine) Remove(seq, from int) bool {
	if f.noRemove[seq] {
		return false
	}
	f.seqs[seq] = f.seqs[seq][:min(from, len(f.seqs[seq]))]
	return true
}
func (f *fakeEngine) Copy(src, dst int) { f.seqs[dst] = slices.Clone(f.seqs[src]) }
func (f *fakeEngine) State(seq int) ([]byte, error) {
	if f.noSave[seq] {
		return nil, errors.New("no memory")
	}
	return appendFloats(nil, f.seqs[seq]), nil
}
func (f *fakeEngine) StateBytes(seq int) int64 { return int64(4 * len(f.seqs[seq])) }
func (f *fakeEngine) SetState(seq int, b []byte) error {
	f.seqs[seq] = make([]float32, len(b)/4)
	readFloats(f.seqs[seq], b)
	return nil
}
func (f *fakeEngine) Clear() { f.seqs = map[int][]float32{} }

// Embed makes the fake its own embedder.
func (f *fakeEngine) Embed(dst []float32, items []schedule.Item) error {
	for i, it := range items {
		dst[fakeWidth*i], dst[fakeWidth*i+1] = float32(it.Token), float32(it.Token%7)
	}
	return nil
}

// fakeNet joins shards in one process.
type fakeNet struct {
	mu      sync.Mutex // guards all below
	changed *sync.Cond
	boxes   map[box][]letter
	err     *LostError
	meddle  func(from, to int, k Kind, n int, l letter) []letter // what becomes of the n-th letter of its kind
	count   map[box]int
}

type box struct {
	from, to int
	kind     Kind
}

type letter struct {
	seq    uint64
	body   []byte
	values []float32
}

func newFakeNet() *fakeNet {
	n := &fakeNet{boxes: map[box][]letter{}, count: map[box]int{}}
	n.changed = sync.NewCond(&n.mu)
	return n
}

// end is one shard's side.
type end struct {
	net      *fakeNet
	self     int
	deadline time.Duration // of the engine's goroutine
	bounds   []time.Duration
}

func (e *end) put(to int, k Kind, l letter) error {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if e.net.err != nil {
		return e.net.err
	}
	b := box{e.self, to, k}
	out := []letter{l}
	if e.net.meddle != nil {
		out = e.net.meddle(e.self, to, k, e.net.count[b], l)
	}
	e.net.count[b]++
	e.net.boxes[b] = append(e.net.boxes[b], out...)
	e.net.changed.Broadcast()
	return nil
}

func (e *end) get(from int, k Kind, seq uint64) (letter, error) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	b := box{from, e.self, k}
	for len(e.net.boxes[b]) == 0 {
		if e.net.err != nil {
			return letter{}, e.net.err
		}
		e.net.changed.Wait()
	}
	l := e.net.boxes[b][0]
	e.net.boxes[b] = e.net.boxes[b][1:]
	if l.seq != seq {
		return l, &LostError{Shard: from, Cause: fmt.Errorf("kind %d number %d, want %d", k, l.seq, seq)}
	}
	return l, nil
}

func (e *end) Send(to int, k Kind, seq uint64, body []byte) error {
	return e.put(to, k, letter{seq: seq, body: slices.Clone(body)})
}

func (e *end) SendFloats(to int, k Kind, seq uint64, values []float32) error {
	return e.put(to, k, letter{seq: seq, values: slices.Clone(values)})
}

func (e *end) Receive(from int, k Kind, seq uint64) ([]byte, error) {
	l, err := e.get(from, k, seq)
	return l.body, err
}

func (e *end) ReceiveFloats(from int, k Kind, seq uint64, values []float32) error {
	l, err := e.get(from, k, seq)
	if err == nil && len(l.values) != len(values) {
		err = &LostError{Shard: from, Cause: fmt.Errorf("%d values, want %d", len(l.values), len(values))}
	}
	copy(values, l.values)
	return err
}

func (e *end) SetDeadline(d time.Duration) {
	e.deadline = d
	e.bounds = append(e.bounds, d)
}

func (e *end) Fail(shard int, cause string) { e.net.fail(shard, cause) }

func (n *fakeNet) fail(shard int, cause string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.err = &LostError{Shard: shard, Cause: errors.New(cause)}
	}
	n.changed.Broadcast()
}

// fakeGroup is a group in one process.
type fakeGroup struct {
	net     *fakeNet
	engines []*fakeEngine
	ends    []*end
	head    *Head
	done    []chan error // of the followers; nil at the head
}

func layoutOf(stages, ranks int) []slice.Spec {
	var parts []int
	if ranks > 1 {
		parts = slices.Repeat([]int{1}, ranks)
	}
	var out []slice.Spec
	for s := range stages {
		for r := range ranks {
			out = append(out, slice.Spec{First: s, End: s + 1, Rank: r, Parts: parts})
		}
	}
	return out
}

// startFake starts the followers of a group. Stages of one layer each compute
// what the layers 0 to stages-1 compute, whatever the ranks.
func startFake(t testing.TB, stages, ranks int) *fakeGroup {
	t.Helper()
	specs := layoutOf(stages, ranks)
	g := &fakeGroup{net: newFakeNet()}
	head := len(specs) - ranks
	var vocab []VocabPart
	for r := range ranks {
		first := fakeVocabulary * r / ranks
		vocab = append(vocab, VocabPart{first, fakeVocabulary*(r+1)/ranks - first})
	}
	for i, s := range specs {
		o := Options{Layout: Layout{Shards: specs, Index: i, Head: head}, Embedding: fakeWidth, SnapshotBytes: 1 << 20, StepSeconds: 1}
		e := newFakeEngine(s.First, 0, 0)
		if s.First == 0 {
			o.Embed = e
		}
		if s.First == stages-1 {
			e.first, e.count = vocab[s.Rank].First, vocab[s.Rank].Count
			o.VocabFirst, o.VocabCount = e.first, e.count
		}
		o.Engine = e
		wire := &end{net: g.net, self: i}
		o.Link = wire
		g.engines, g.ends = append(g.engines, e), append(g.ends, wire)
		var done chan error
		if i == head {
			h, err := NewHead(o, vocab)
			if err != nil {
				t.Fatal(err)
			}
			g.head = h
		} else {
			f, err := NewFollower(o)
			if err != nil {
				t.Fatal(err)
			}
			done = make(chan error, 1)
			go func() { done <- f.Run() }()
		}
		g.done = append(g.done, done)
	}
	t.Cleanup(func() { g.stop(t) })
	return g
}

// stop ends the epoch, joins the followers and gives their errors.
func (g *fakeGroup) stop(t testing.TB) []error {
	g.net.fail(-1, "the test is over")
	var out []error
	for i, d := range g.done {
		if d == nil {
			out = append(out, nil)
			continue
		}
		select {
		case err := <-d:
			out = append(out, err)
			d <- err // for the next stop
		case <-time.After(20 * time.Second):
			t.Errorf("shard %d does not end", i)
		}
	}
	return out
}
