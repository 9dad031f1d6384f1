package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/loop"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

const (
	fakeVocabulary = 32
	fakeEnd        = 31
)

// fakeBackend is a model whose next token is the last one plus one, modulo
// the vocabulary. Its hook sees every batch.
type fakeBackend struct {
	seqs    map[int][]int32
	last    []llama.Item
	rows    [][]float32
	hook    func(items []llama.Item) error
	restore error // what SetState returns
}

func newFakeBackend() *fakeBackend { return &fakeBackend{seqs: map[int][]int32{}} }

func (f *fakeBackend) Decode(items []llama.Item) error {
	if f.hook != nil {
		if err := f.hook(items); err != nil {
			return err
		}
	}
	f.rows, f.last = f.rows[:0], append(f.last[:0], items...)
	for _, it := range items {
		if it.Position != len(f.seqs[it.Sequence]) {
			return fmt.Errorf("position %d in a sequence of %d", it.Position, len(f.seqs[it.Sequence]))
		}
		f.seqs[it.Sequence] = append(f.seqs[it.Sequence], it.Token)
		row := make([]float32, fakeVocabulary)
		row[(it.Token+1)%fakeVocabulary] = 5
		f.rows = append(f.rows, row)
	}
	return nil
}

func (f *fakeBackend) Logits(i int) ([]float32, error) { return f.rows[i], nil }

func (f *fakeBackend) Remove(seq, from, _ int) bool {
	f.seqs[seq] = f.seqs[seq][:min(from, len(f.seqs[seq]))]
	return true
}
func (f *fakeBackend) Copy(src, dst int)             { f.seqs[dst] = slices.Clone(f.seqs[src]) }
func (f *fakeBackend) StateBytes(seq int) int64      { return int64(4 * len(f.seqs[seq])) }
func (f *fakeBackend) State(seq int) ([]byte, error) { return wire.AppendIDs(nil, f.seqs[seq]), nil }
func (f *fakeBackend) SetState(seq int, b []byte) error {
	if f.restore != nil {
		return f.restore
	}
	ids, err := wire.DecodeIDs(b)
	f.seqs[seq] = ids
	return err
}

func (*fakeBackend) Vocabulary() int              { return fakeVocabulary }
func (*fakeBackend) IsEnd(t int32) bool           { return t == fakeEnd }
func (*fakeBackend) Piece(t int32, _ bool) []byte { return []byte(fmt.Sprintf("<%d>", t)) }

// outbox collects what the loop sends.
type outbox struct {
	mu      sync.Mutex
	tokens  map[uint64][]wire.Token
	done    map[uint64]wire.Done
	prompts map[uint64][]wire.Prompt
	faults  []string
	changed chan struct{}
}

func newOutbox() *outbox {
	return &outbox{tokens: map[uint64][]wire.Token{}, done: map[uint64]wire.Done{}, prompts: map[uint64][]wire.Prompt{}, changed: make(chan struct{}, 1)}
}

func (o *outbox) notify() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *outbox) Send(kind wire.Type, ref uint64, body []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.notify()
	if kind == wire.TypeStep {
		return wire.DecodeTokens(slices.Clone(body), func(t wire.Token) {
			if o.done[t.ID].Reason != "" {
				o.faults = append(o.faults, fmt.Sprintf("token of generation %d after its end", t.ID))
			}
			o.tokens[t.ID] = append(o.tokens[t.ID], t)
		})
	}
	if kind == wire.TypePrompt {
		var p wire.Prompt
		if len(o.tokens[ref]) > 0 {
			o.faults = append(o.faults, fmt.Sprintf("progress of the prompt of generation %d after its first token", ref))
		}
		err := json.Unmarshal(body, &p)
		o.prompts[ref] = append(o.prompts[ref], p)
		return err
	}
	if _, dup := o.done[ref]; dup {
		o.faults = append(o.faults, fmt.Sprintf("generation %d ended twice", ref))
	}
	var d wire.Done
	err := json.Unmarshal(body, &d)
	o.done[ref] = d
	return err
}

// wait blocks until ok holds.
func (o *outbox) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		o.mu.Lock()
		good := ok()
		o.mu.Unlock()
		if good {
			return
		}
		select {
		case <-o.changed:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

type rig struct {
	*loop.Loop
	back  *fakeBackend
	out   *outbox
	ended chan error
}

func startLoop(t *testing.T, cfg schedule.Config, back *fakeBackend) *rig {
	t.Helper()
	r := startLoopOn(t, cfg, newWhole(back, cfg.CacheBytes), back)
	r.back = back
	return r
}

func testLoop(model loop.Backend, vocab loop.Vocabulary, out loop.Sender, sched *schedule.Scheduler) *loop.Loop {
	return loop.New(loop.Options{
		Model: model, Vocab: vocab, Out: out, Scheduler: sched, Now: time.Now, Code: faultCode,
		Warn: func(line string) { logLine(logWarn, line) },
	})
}

func startLoopOn(t *testing.T, cfg schedule.Config, eng loop.Backend, vocab loop.Vocabulary) *rig {
	t.Helper()
	sched, err := schedule.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	out := newOutbox()
	r := &rig{Loop: testLoop(eng, vocab, out, sched), out: out, ended: make(chan error, 1)}
	go func() { r.ended <- r.Run() }()
	t.Cleanup(func() {
		r.Stop()
		if err := <-r.ended; err != nil && !errors.Is(err, loop.ErrStopped) {
			t.Error(err)
		}
		for _, f := range out.faults {
			t.Error(f)
		}
	})
	return r
}

func small() schedule.Config {
	return schedule.Config{Slots: 2, Context: 64, Chunk: 8, Pending: 1, Rewindable: true, CacheBytes: 1 << 16}
}

func (r *rig) start(req wire.GenerateRequest) { r.Start(req) }

func request(id uint64, prompt ...int32) wire.GenerateRequest {
	return wire.GenerateRequest{ID: id, Prompt: prompt, Sampling: greedy()}
}

func TestLoopEndsWithItsReasons(t *testing.T) {
	r := startLoop(t, small(), newFakeBackend())
	stop := request(1, 25)
	length := request(2, 3)
	length.MaxTokens = 4
	r.start(stop)
	r.start(length)
	r.out.wait(t, "both done", func() bool { return len(r.out.done) == 2 })
	past := request(3, 29)
	past.MaxTokens, past.IgnoreEnd, past.Logprobs, past.TopLogprobs = 4, true, true, 2
	r.start(past)
	r.out.wait(t, "third done", func() bool { return len(r.out.done) == 3 })
	long := request(4, slices.Repeat([]int32{1}, 63)...)
	r.start(long)
	r.out.wait(t, "fourth done", func() bool { return len(r.out.done) == 4 })
	for id, want := range map[uint64]struct {
		tokens []int32
		reason string
	}{
		1: {[]int32{26, 27, 28, 29, 30}, wire.ReasonStop},
		2: {[]int32{4, 5, 6, 7}, wire.ReasonLength},
		3: {[]int32{30, 31, 0, 1}, wire.ReasonLength},
		4: {[]int32{2, 3}, wire.ReasonLength}, // the context is full
	} {
		var got []int32
		for _, tok := range r.out.tokens[id] {
			got = append(got, tok.Token)
			if string(tok.Piece) != fmt.Sprintf("<%d>", tok.Token) {
				t.Errorf("piece %q of token %d", tok.Piece, tok.Token)
			}
		}
		d := r.out.done[id]
		if !slices.Equal(got, want.tokens) || d.Reason != want.reason || d.Generated != len(want.tokens) {
			t.Errorf("generation %d: %v, %+v; want %v, %s", id, got, d, want.tokens, want.reason)
		}
	}
	if tok := r.out.tokens[3][0]; !tok.HasLogprob || len(tok.Top) != 2 || tok.Top[0].Token != tok.Token || tok.Logprob != tok.Top[0].Logprob {
		t.Errorf("logprobs %+v", tok)
	}
	if s := r.Stats(); s.DecodedTokens == 0 || s.SlotsBusy > 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestLoopRefuses(t *testing.T) {
	back := newFakeBackend()
	gate := make(chan struct{})
	var once sync.Once
	back.hook = func([]llama.Item) error { once.Do(func() { <-gate }); return nil }
	cfg := small()
	cfg.Slots = 1
	r := startLoop(t, cfg, back)
	bias := request(12, 1)
	bias.Sampling.LogitBias = map[int32]float32{99: 1}
	endless := request(1, 1)
	endless.IgnoreEnd = true
	r.start(endless)
	for _, req := range []wire.GenerateRequest{
		request(10, 1, fakeVocabulary), request(11, -1), bias, request(13), request(14, make([]int32, 64)...),
		request(20, 1), request(21, 1),
	} {
		r.start(req)
	}
	close(gate)
	r.out.wait(t, "all refused", func() bool { return len(r.out.done) >= 6 })
	r.out.wait(t, "all settled", func() bool { _, a := r.out.done[21]; return a })
	for id, code := range map[uint64]string{10: wire.CodeInvalid, 11: wire.CodeInvalid, 12: wire.CodeInvalid, 13: wire.CodeInvalid, 14: wire.CodeContextExceeded, 21: wire.CodeBusy} {
		if d := r.out.done[id]; d.Reason != wire.ReasonError || d.Code != code || d.Error == "" {
			t.Errorf("generation %d: %+v, want code %s", id, d, code)
		}
	}
}

func TestCancelTakesOneStep(t *testing.T) {
	back := newFakeBackend()
	steps := make(chan struct{})
	back.hook = func([]llama.Item) error { steps <- struct{}{}; return nil }
	r := startLoop(t, small(), back)
	endless := request(1, 1)
	endless.IgnoreEnd = true
	r.start(endless)
	for range 3 {
		<-steps
	}
	r.Cancel(1)
	waiting := true
	extra := 0
	for waiting {
		select {
		case <-steps:
			extra++
		case <-r.out.changed:
			r.out.mu.Lock()
			waiting = len(r.out.done) == 0
			r.out.mu.Unlock()
		}
	}
	if extra > 1 || r.out.done[1].Reason != wire.ReasonCancelled {
		t.Errorf("%d more steps after the cancel, %+v", extra, r.out.done[1])
	}
	r.Cancel(77)            // of nothing: no answer, no harm
	back2 := request(2, 30) // its slot is free again
	r.start(back2)
	go func() {
		for range steps {
		}
	}()
	r.out.wait(t, "the next is served", func() bool { return r.out.done[2].Reason == wire.ReasonStop })
}

func TestFailedDecodeEndsAllGenerations(t *testing.T) {
	back := newFakeBackend()
	n := 0
	back.hook = func([]llama.Item) error {
		if n++; n > 4 {
			return &llama.DecodeError{Code: -3, Cause: "compute failed"}
		}
		return nil
	}
	sched, err := schedule.New(small())
	if err != nil {
		t.Fatal(err)
	}
	out := newOutbox()
	l := testLoop(newWhole(back, sched.Config().CacheBytes), back, out, sched)
	for id := range uint64(3) {
		req := request(id+1, 1)
		req.IgnoreEnd = true
		l.Start(req)
	}
	err = l.Run()
	var de *llama.DecodeError
	if !errors.As(err, &de) {
		t.Fatalf("run ended with %v", err)
	}
	for id := range uint64(3) {
		if d := out.done[id+1]; d.Reason != wire.ReasonError || d.Code != wire.CodeInternal || !strings.Contains(d.Error, "compute failed") {
			t.Errorf("generation %d: %+v", id+1, d)
		}
	}
}

func TestSameIDTwiceIsAFault(t *testing.T) {
	back := newFakeBackend()
	sched, err := schedule.New(small())
	if err != nil {
		t.Fatal(err)
	}
	l := testLoop(newWhole(back, 0), back, newOutbox(), sched)
	for range 2 {
		req := request(1, 1)
		l.Start(req)
	}
	if err := l.Run(); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("run ended with %v", err)
	}
}

func TestFailedRestoreComputesThePrompt(t *testing.T) {
	back := newFakeBackend()
	cfg := small()
	cfg.Slots = 1
	r := startLoop(t, cfg, back)
	a, b := slices.Repeat([]int32{1, 2}, 12), slices.Repeat([]int32{3, 4}, 12)
	run := func(id uint64, prompt []int32) wire.Done {
		req := request(id, prompt...)
		req.MaxTokens = 2
		r.start(req)
		r.out.wait(t, "done", func() bool { return r.out.done[id].Reason != "" })
		return r.out.done[id]
	}
	run(1, a)
	run(2, b)
	if d := run(3, a); d.CachedTokens != 23 {
		t.Fatalf("the spilled prompt came back with %d tokens, want 23", d.CachedTokens)
	}
	back.restore = errors.New("refused")
	d := run(4, b)
	if d.CachedTokens != 0 || d.Reason != wire.ReasonLength || d.Generated != 2 {
		t.Errorf("after a failed restore: %+v", d)
	}
	if got := r.out.tokens[4][0].Token; got != 5 {
		t.Errorf("token %d, want 5", got)
	}
}

func TestParseReuse(t *testing.T) {
	for s, want := range map[string]schedule.Reuse{"": schedule.ReuseExact, "exact": schedule.ReuseExact, "longest": schedule.ReuseLongest, "off": schedule.ReuseOff} {
		if got, err := parseReuse(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	if _, err := parseReuse("some"); err == nil {
		t.Error("an unknown way was accepted")
	}
}

func TestChunkSize(t *testing.T) {
	for _, c := range []struct {
		want       int
		parameters uint64
		gpu        bool
		stages     int
		context    int
		chunk      int
	}{
		{0, 1e8, false, 1, 4096, 256}, {0, 7e9, false, 1, 4096, 64}, {0, 7e9, true, 1, 4096, 512}, {0, 1e8, true, 1, 256, 256},
		{16, 7e9, true, 1, 4096, 16}, {0, 1e8, false, 1, 64, 64}, {0, 1e8, false, 2, 4096, 256}, {0, 2e9, false, 2, 4096, 64}, {0, 2e9, false, 1, 4096, 256}, {0, 7e9, false, 3, 4096, 64},
	} {
		if got := chunkFor(c.want, c.parameters, c.gpu, c.stages, c.context); got != c.chunk {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// Who asks hears how far a long prompt is, and nobody else does.
func TestPromptProgress(t *testing.T) {
	r := startLoop(t, small(), newFakeBackend())
	prompt := make([]int32, 20)
	for i := range prompt {
		prompt[i] = int32(i % 7)
	}
	for id, c := range map[uint64]struct {
		asks   bool
		prompt []int32
		want   []wire.Prompt
	}{
		1: {true, prompt, []wire.Prompt{{Done: 8, Total: 20}, {Done: 16, Total: 20}}},
		2: {false, prompt, nil},
		3: {true, []int32{30, 1, 2}, nil}, // at once
	} {
		req := request(id, c.prompt...)
		req.MaxTokens, req.Progress, req.NoCache = 2, c.asks, true
		r.start(req)
		r.out.wait(t, "the end", func() bool { return r.out.done[id].Reason != "" })
		r.out.mu.Lock()
		if got := r.out.prompts[id]; !slices.Equal(got, c.want) {
			t.Errorf("generation %d: %v, want %v", id, got, c.want)
		}
		r.out.mu.Unlock()
	}
}
