package llama

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/skein-run/skein/internal/gguf/slice"
)

// Hooks make a context one shard of a model: what its graph computes is taken
// out, or replaced, while Decode runs. All are called on the goroutine of
// Decode, and none after it has returned.
type Hooks struct {
	// Capture is the graph node that ends the computation ("l_out-13"); its
	// value is Captured, the rest of the graph is skipped. All items of a
	// Decode are outputs then, flagged or not. "": to the end, for logits.
	Capture string
	// Enter is the graph node whose value the hidden states of DecodeEmbd
	// replace once it is computed (slice.Run.Enter); "": none.
	Enter string
	// Positions is how many position values the library wants for each hidden
	// state (slice.Run.Positions); 0 counts as 1.
	Positions int
	// Reduce are the nodes whose values Exchange replaces.
	Reduce []slice.Reduction
	// Exchange gets the partial sum of a node of Reduce, in the order of the
	// graph, f32, one row of the model's width after another for the tokens of
	// the batch, and must replace it in place by the total. In a last layer
	// whose rest matters to the outputs only there is a row for each output. The
	// slice is the library's memory: it is void when Exchange returns. After an
	// error nothing more is computed and Decode returns it. Needed if Reduce is
	// not empty.
	Exchange func(data []float32) error
}

func (h *Hooks) validate() error {
	if len(h.Reduce) > 0 && h.Exchange == nil {
		return errors.New("open a context: hooks reduce without an Exchange")
	}
	for _, r := range h.Reduce {
		if (r.Weight == "") == (r.Node == "") {
			return fmt.Errorf("open a context: a reduction names one weight or one node, not %+v", r)
		}
	}
	return nil
}

// hooked is a context's side of the callback. It is pinned while the context
// lives: the library hands its address back as the callback's user data.
type hooked struct {
	filter // first: the assembly takes the address of one for that of the other

	lib      *Library
	capture  []byte
	enter    []byte
	always   bool // more names than the filter holds
	weights  [][]byte
	nodes    [][]byte
	exchange func([]float32) error
	pin      runtime.Pinner

	// Of the Decode that runs; its goroutine owns them.
	want     int       // elements that Capture gives in all
	fed      []float32 // hidden states that Enter has still to take
	err      error     // of Exchange, or a node of another form
	captured []float32 // the library's memory, or kept
	kept     []float32
	scratch  []float32 // a node's value, if the host can't address it
}

func newHooked(l *Library, o *Hooks) *hooked {
	h := &hooked{lib: l, exchange: o.Exchange}
	if o.Capture != "" {
		h.capture = []byte(o.Capture)
	}
	if o.Enter != "" {
		h.enter = []byte(o.Enter)
	}
	for _, r := range o.Reduce {
		if r.Weight != "" {
			h.weights = append(h.weights, []byte(r.Weight))
		} else {
			h.nodes = append(h.nodes, []byte(r.Node))
		}
	}
	h.call, h.byWeight = l.evalCallback, len(h.weights) > 0
	fits := h.capture == nil || h.match(h.capture)
	fits = (h.enter == nil || h.match(h.enter)) && fits
	for _, n := range h.nodes {
		fits = fits && h.match(n)
	}
	h.always = !fits
	h.stopped = h.always
	h.pin.Pin(h)
	return h
}

// callback is what the library calls.
func (h *hooked) callback() uintptr {
	if f := evalFilter(); f != 0 {
		return f
	}
	return h.call
}

// begin readies h for a Decode of so many elements of hidden states, those of
// embd unless it decodes tokens.
func (h *hooked) begin(elements int, embd []float32) {
	h.want, h.err, h.captured, h.fed = elements, nil, nil, embd
	h.stopped = h.always
}

// newEvalCallback makes the one callback of the process that all contexts
// share: purego never frees one.
func newEvalCallback() uintptr {
	return purego.NewCallback(func(node, ask, user uintptr) uintptr {
		h := *(**hooked)(unsafe.Pointer(&user)) // pinned, see hooked
		t := *(**tensor)(unsafe.Pointer(&node)) // C's memory
		if ask&0xff != 0 {
			return uintptr(cbool(h.wants(t)))
		}
		return uintptr(cbool(h.reached(t)))
	})
}

// wants decides whether the graph is to stop after t. It is asked about the
// nodes of every batch that the filter lets pass.
func (h *hooked) wants(t *tensor) bool {
	// A graph that is spread over devices goes on with the next device after
	// the callback ended one: stop there at the first node.
	if h.err != nil {
		return true
	}
	if h.isCapture(t) || h.isEnter(t) || h.isNode(t) {
		return true
	}
	yes := h.isProduct(t)
	if w := t.src[0]; t.op == opMulMat && w != nil && w.isWeight() {
		h.remember(uintptr(unsafe.Pointer(w)), yes)
	}
	return yes
}

func (h *hooked) isCapture(t *tensor) bool {
	return h.capture != nil && bytes.Equal(t.label(), h.capture)
}

func (h *hooked) isEnter(t *tensor) bool {
	return h.enter != nil && h.fed != nil && bytes.Equal(t.label(), h.enter)
}

func (h *hooked) isReduced(t *tensor) bool {
	return h.isProduct(t) || h.isNode(t)
}

func (h *hooked) isProduct(t *tensor) bool {
	if len(h.weights) > 0 && t.op == opMulMat && t.src[0] != nil {
		name := blockTensor(original(t.src[0].label()))
		for _, w := range h.weights {
			if bytes.Equal(name, w) {
				return true
			}
		}
	}
	return false
}

func (h *hooked) isNode(t *tensor) bool {
	if len(h.nodes) == 0 {
		return false
	}
	name := withoutLayer(t.label())
	for _, w := range h.nodes {
		if bytes.Equal(name, w) {
			return true
		}
	}
	return false
}

// blockTensor is "attn_output.weight" for "blk.3.attn_output.weight", nil for
// what is no layer's tensor.
func blockTensor(name []byte) []byte {
	rest, ok := bytes.CutPrefix(name, blkPrefix)
	if !ok {
		return nil
	}
	dot := bytes.IndexByte(rest, '.')
	if dot < 1 || !digits(rest[:dot]) {
		return nil
	}
	return rest[dot+1:]
}

// original is "blk.3.ffn_down.weight" for "CUDA0#blk.3.ffn_down.weight#0", as
// the scheduler calls its copy of a weight on another device.
func original(name []byte) []byte {
	first, last := bytes.IndexByte(name, '#'), bytes.LastIndexByte(name, '#')
	if first < last {
		return name[first+1 : last]
	}
	return name
}

// withoutLayer is "ffn_moe_out" for "ffn_moe_out-3".
func withoutLayer(name []byte) []byte {
	if dash := bytes.LastIndexByte(name, '-'); dash > 0 && digits(name[dash+1:]) {
		return name[:dash]
	}
	return name
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

var blkPrefix = []byte("blk.")

// reached has t computed, and decides whether the graph goes on.
func (h *hooked) reached(t *tensor) bool {
	if h.err != nil {
		return false
	}
	if h.isEnter(t) {
		if h.err = h.feed(t); h.err != nil {
			h.stopped = true
			return false
		}
	}
	if h.isReduced(t) {
		if h.err = h.reduce(t); h.err != nil {
			h.stopped = true
			return false
		}
	}
	if h.isCapture(t) {
		h.err = h.take(t)
		h.stopped = h.stopped || h.err != nil
		return false
	}
	return true
}

func (h *hooked) reduce(t *tensor) error {
	n, err := t.elements()
	if err != nil || n == 0 { // no outputs: an empty node
		return err
	}
	if h.lib.bufferIsHost(t.owner()) {
		return h.exchange(unsafe.Slice((*float32)(t.data), n))
	}
	if cap(h.scratch) < n {
		h.scratch = make([]float32, n)
	}
	data := h.scratch[:n]
	h.lib.tensorGet(t, unsafe.Pointer(&data[0]), 0, uint64(4*n))
	if err := h.exchange(data); err != nil {
		return err
	}
	h.lib.tensorSet(t, unsafe.Pointer(&data[0]), 0, uint64(4*n))
	runtime.KeepAlive(data)
	return nil
}

// feed writes the hidden states over a node's value. If the library computes a
// batch in several pieces, each takes its part, in the order of the items.
func (h *hooked) feed(t *tensor) error {
	n, err := t.elements()
	if err != nil || n == 0 {
		return err
	}
	if n > len(h.fed) {
		return fmt.Errorf("graph node %s takes %d elements, and %d hidden ones are left; this model can't be cut there", h.enter, n, len(h.fed))
	}
	data := h.fed[:n]
	h.fed = h.fed[n:]
	if h.lib.bufferIsHost(t.owner()) {
		copy(unsafe.Slice((*float32)(t.data), n), data)
		return nil
	}
	h.lib.tensorSet(t, unsafe.Pointer(&data[0]), 0, uint64(4*n))
	runtime.KeepAlive(data)
	return nil
}

// take keeps the value of the node that ends the graph. If the library computes
// a batch in several pieces, each gives its part, in the order of the items
// (see DecodeEmbd); the next piece takes the memory of the last, so parts are
// copied. What is left of a graph on other devices is computed: a norm and the
// few rows of a stage's vocabulary.
func (h *hooked) take(t *tensor) error {
	n, err := t.elements()
	if err != nil || n == 0 {
		return err
	}
	host := h.lib.bufferIsHost(t.owner())
	if n == h.want && host {
		h.captured = unsafe.Slice((*float32)(t.data), n)
		return nil
	}
	done := len(h.captured)
	if done+n > h.want {
		return fmt.Errorf("graph node %s gave %d elements, of a batch that has %d", h.capture, done+n, h.want)
	}
	h.kept = slices.Grow(h.kept[:done], n)[:done+n]
	if host {
		copy(h.kept[done:], unsafe.Slice((*float32)(t.data), n))
	} else {
		h.lib.tensorGet(t, unsafe.Pointer(&h.kept[done]), 0, uint64(4*n))
	}
	h.captured = h.kept
	return nil
}

// close ends h after its context.
func (h *hooked) close() {
	if h != nil {
		h.pin.Unpin()
	}
}
