package llama

import (
	"fmt"
	"runtime"
	"unsafe"
)

// ContextOptions size a context.
type ContextOptions struct {
	Sequences   int // streams that have a state at once
	ContextSeq  int // tokens of each
	BatchTokens int // most tokens of one Decode
	Threads     int
	Unified     bool // one buffer for all sequences instead of one each
	SWAFull     bool // sliding-window layers keep the whole context
	// PlainAttention computes attention by the library's plain kernels instead
	// of its flash ones: the same result, rounded otherwise.
	PlainAttention bool
	// Exact keeps keys and values in f32, and implies PlainAttention: flash
	// kernels round them to f16.
	Exact bool
	// Outputs is the most items of one Decode that are outputs; 0: one a
	// sequence. Their logits lie in memory, a row each.
	Outputs int
	// Hooks make the context a shard's; nil: it computes a whole model.
	Hooks *Hooks
}

// Context is the state of a model's sequences. One goroutine, locked to its
// thread, owns it.
type Context struct {
	model     *Model
	handle    uintptr
	mem       uintptr
	vocab     int
	width     int // of a hidden state, elements
	positions int // values of each hidden state's place
	most      int // outputs of one Decode
	batch     *batchMemory
	pool      uintptr // of compute threads; 0: none
	hooks     *hooked // nil: none
}

// NewContext allocates state for o.Sequences sequences.
func (m *Model) NewContext(o ContextOptions) (*Context, error) {
	l := m.lib
	var hooks *hooked
	if o.Hooks != nil {
		if err := o.Hooks.validate(); err != nil {
			return nil, err
		}
		if err := l.checkTensor(); err != nil {
			return nil, err
		}
		hooks = newHooked(l, o.Hooks)
	}
	p := l.contextDefaults()
	p.nCtx = uint32(o.Sequences * o.ContextSeq)
	p.nBatch = uint32(o.BatchTokens)
	p.nUbatch = uint32(o.BatchTokens)
	p.nSeqMax = uint32(o.Sequences)
	p.nThreads = int32(o.Threads)
	p.nThreadsBatch = int32(o.Threads)
	outputs := min(max(o.Outputs, o.Sequences), o.BatchTokens)
	if hooks != nil && hooks.capture != nil {
		outputs = o.BatchTokens
	}
	p.nOutputsMax = uint32(outputs)
	if hooks != nil {
		p.cbEval, p.cbEvalData = hooks.callback(), uintptr(unsafe.Pointer(hooks))
	}
	p.kvUnified = cbool(o.Unified)
	p.swaFull = cbool(o.SWAFull)
	if o.PlainAttention || o.Exact {
		p.flashAttn = flashAttnOff
	}
	if o.Exact {
		p.typeK, p.typeV = ggmlTypeF32, ggmlTypeF32
	}
	positions := 1
	if o.Hooks != nil {
		positions = max(positions, o.Hooks.Positions)
	}
	l.logs.reset()
	h := l.contextNew(m.handle, p)
	if h == 0 {
		hooks.close()
		return nil, fmt.Errorf("open a context of %d x %d tokens: %s", o.Sequences, o.ContextSeq, l.logs.cause())
	}
	c := &Context{model: m, handle: h, mem: l.contextMemory(h), vocab: m.Vocabulary(), width: m.Embedding(), most: outputs, batch: newBatchMemory(o.BatchTokens, positions), positions: positions, hooks: hooks}
	c.attachPool(o.Threads)
	return c, nil
}

// attachPool gives the context compute threads of its own. Without them the
// library starts and joins threads for every batch, which costs a small model
// a tenth of its speed (docs/benchmarks.md).
func (c *Context) attachPool(threads int) {
	l := c.model.lib
	if threads < 1 || l.poolNew == nil {
		return
	}
	var params [poolParamsSize]byte
	l.poolParams(unsafe.Pointer(&params[0]), int32(threads))
	if c.pool = l.poolNew(unsafe.Pointer(&params[0])); c.pool != 0 {
		l.attachPool(c.handle, c.pool, c.pool)
	}
}

func cbool(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// Close frees the state.
func (c *Context) Close() {
	c.model.lib.contextFree(c.handle)
	c.handle = 0
	if c.pool != 0 {
		c.model.lib.poolFree(c.pool)
	}
	c.batch.pin.Unpin()
	c.hooks.close()
}

// ContextSeq is the number of tokens each sequence really has.
func (c *Context) ContextSeq() int { return int(c.model.lib.nCtxSeq(c.handle)) }

// Item is one token of a Decode.
type Item struct {
	Token    int32
	Sequence int
	Position int
	// Output asks for the logits of this token; Logits takes the item's index.
	Output bool
}

// batchMemory holds the arrays of a llama_batch. They are allocated and
// pinned once: C reads them in every step.
type batchMemory struct {
	token, pos, nSeq, seq []int32
	seqPtr                []unsafe.Pointer
	output                []int8
	pin                   runtime.Pinner // of the arrays
	input                 runtime.Pinner // of the hidden states of one Decode
}

func newBatchMemory(n, positions int) *batchMemory {
	b := &batchMemory{
		token: make([]int32, n), pos: make([]int32, n*positions), nSeq: make([]int32, n), seq: make([]int32, n),
		seqPtr: make([]unsafe.Pointer, n), output: make([]int8, n),
	}
	b.pin.Pin(&b.token[0])
	b.pin.Pin(&b.pos[0])
	b.pin.Pin(&b.nSeq[0])
	b.pin.Pin(&b.seq[0])
	b.pin.Pin(&b.seqPtr[0])
	b.pin.Pin(&b.output[0])
	for i := range n {
		b.nSeq[i] = 1
		b.seqPtr[i] = unsafe.Pointer(&b.seq[i])
	}
	return b
}

// DecodeError is a failed llama_decode.
type DecodeError struct {
	Code  int // 1: no room in the KV cache, 2: aborted, negative: fatal
	Cause string
}

func (e *DecodeError) Error() string {
	if e.Code == 1 {
		return "decode: no room left in the KV cache"
	}
	return fmt.Sprintf("decode: the library returned %d (%s)", e.Code, e.Cause)
}

// Decode computes items, at most BatchTokens of them, the items of one
// sequence in order of position. Logits of earlier calls are void afterwards.
// An error of Hooks.Exchange comes back as it is; the state of the sequences in
// items is not to be trusted then.
func (c *Context) Decode(items []Item) error {
	return c.decode(items, nil)
}

// DecodeEmbd is Decode with hidden states instead of tokens: one row of the
// model's width for each item, whose Token is ignored.
func (c *Context) DecodeEmbd(items []Item, embd []float32) error {
	if len(embd) != len(items)*c.width {
		return fmt.Errorf("decode %d hidden states of %d elements: got %d elements", len(items), c.width, len(embd))
	}
	return c.decode(items, embd)
}

func (c *Context) decode(items []Item, embd []float32) error {
	if len(items) == 0 {
		return nil
	}
	b := c.batch
	if len(items) > len(b.token) {
		return fmt.Errorf("decode %d tokens: a batch holds %d", len(items), len(b.token))
	}
	all := c.hooks != nil && c.hooks.capture != nil
	if (all || c.hooks != nil && c.hooks.enter != nil) && !inOrder(items) {
		return fmt.Errorf("decode %d tokens for hidden states: they must be of one sequence, or one of each sequence in ascending order", len(items))
	}
	outputs := 0
	for i := range items {
		it := &items[i]
		outputs += int(cbool(it.Output || all))
		b.token[i], b.pos[i], b.seq[i], b.output[i] = it.Token, int32(it.Position), int32(it.Sequence), int8(cbool(it.Output || all))
	}
	if outputs > c.most {
		return fmt.Errorf("decode %d tokens, %d of them outputs: the context was opened for %d", len(items), outputs, c.most)
	}
	in := batch{
		n:   int32(len(items)),
		pos: unsafe.Pointer(&b.pos[0]), nSeq: unsafe.Pointer(&b.nSeq[0]),
		seqID: unsafe.Pointer(&b.seqPtr[0]), logits: unsafe.Pointer(&b.output[0]),
	}
	if embd != nil {
		b.input.Pin(&embd[0])
		defer b.input.Unpin()
		in.embd = unsafe.Pointer(&embd[0])
		b.spread(len(items), c.positions)
	} else {
		in.token = unsafe.Pointer(&b.token[0])
	}
	if c.hooks != nil {
		c.hooks.begin(len(items)*c.width, embd)
	}
	r := c.model.lib.decode(c.handle, in)
	if c.hooks != nil && c.hooks.err != nil {
		return c.hooks.err
	}
	if r != 0 {
		return &DecodeError{Code: int(r), Cause: c.model.lib.logs.cause()}
	}
	if all && len(c.hooks.captured) != len(items)*c.width {
		return fmt.Errorf("decode %d tokens: graph node %s gave %d elements, not %d; this model can't be cut there",
			len(items), c.hooks.capture, len(c.hooks.captured), len(items)*c.width)
	}
	return nil
}

// spread gives each of n hidden states as many position values as M-RoPE wants,
// all the first of every item before all the second: those of text are the
// position three times and then 0. For tokens the library does this itself.
func (b *batchMemory) spread(n, positions int) {
	for k := 1; k < positions; k++ {
		values := b.pos[k*n : (k+1)*n]
		if k < 3 {
			copy(values, b.pos[:n])
		} else {
			clear(values)
		}
	}
}

// inOrder tells whether the library, which groups a batch by sequences and may
// compute it in pieces, keeps the order of items.
func inOrder(items []Item) bool {
	one, each := true, true
	for i := 1; i < len(items); i++ {
		one = one && items[i].Sequence == items[0].Sequence
		each = each && items[i].Sequence > items[i-1].Sequence
	}
	return one || each
}

// Captured gives the value of Hooks.Capture for the items of the last Decode,
// row after row. The slice is the library's memory: it is void at the next
// Decode.
func (c *Context) Captured() []float32 {
	if c.hooks == nil {
		return nil
	}
	return c.hooks.captured
}

// Logits gives the logits of the item at index i of the last Decode, one for
// each entry of the file's vocabulary (of a rank: its part of the rows). The
// slice is the library's memory: it is void at the next Decode.
func (c *Context) Logits(i int) ([]float32, error) {
	p := c.model.lib.logitsIth(c.handle, int32(i))
	if p == nil {
		return nil, fmt.Errorf("logits of token %d: not computed", i)
	}
	return unsafe.Slice((*float32)(p), c.vocab), nil
}

// Synchronize waits for a device that computes in the background.
func (c *Context) Synchronize() { c.model.lib.synchronize(c.handle) }

// Remove forgets the positions [from, to) of a sequence, to < 0: to its end.
// It reports whether the memory could: a recurrent state cannot go back.
func (c *Context) Remove(seq, from, to int) bool {
	return c.model.lib.memSeqRemove(c.mem, int32(seq), int32(from), int32(to))
}

// Copy makes dst a copy of the whole of src.
func (c *Context) Copy(src, dst int) { c.model.lib.memSeqCopy(c.mem, int32(src), int32(dst), -1, -1) }

// Clear forgets everything.
func (c *Context) Clear() { c.model.lib.memClear(c.mem, true) }

// Range gives the smallest and largest position that a sequence holds, -1
// if none.
func (c *Context) Range(seq int) (lo, hi int) {
	return int(c.model.lib.memSeqMin(c.mem, int32(seq))), int(c.model.lib.memSeqMax(c.mem, int32(seq)))
}

// State copies a sequence's state out.
func (c *Context) State(seq int) ([]byte, error) {
	n := c.model.lib.stateSeqSize(c.handle, int32(seq))
	if n == 0 {
		return nil, fmt.Errorf("save sequence %d: it has no state", seq)
	}
	b := make([]byte, n)
	if got := c.model.lib.stateSeqGet(c.handle, unsafe.Pointer(&b[0]), n, int32(seq)); got == 0 || got > n {
		return nil, fmt.Errorf("save sequence %d: the library wrote %d of %d bytes", seq, got, n)
	} else {
		b = b[:got]
	}
	return b, nil
}

// StateBytes is the size that State would give.
func (c *Context) StateBytes(seq int) int64 {
	return int64(c.model.lib.stateSeqSize(c.handle, int32(seq)))
}

// SetState replaces a sequence's state by one that State gave.
func (c *Context) SetState(seq int, b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("restore sequence %d: empty state", seq)
	}
	if got := c.model.lib.stateSeqSet(c.handle, unsafe.Pointer(&b[0]), uint64(len(b)), int32(seq)); got == 0 {
		return fmt.Errorf("restore sequence %d: the library refused %d bytes", seq, len(b))
	}
	return nil
}
