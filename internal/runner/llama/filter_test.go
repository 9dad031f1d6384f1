package llama

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"unsafe"

	"github.com/ebitengine/purego"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/gguf/slice"
)

// sharedCallback is one for all runs: purego never frees them.
var sharedCallback = sync.OnceValue(newEvalCallback)

// The filter in assembly, called as C calls it, says what Go alone would say,
// whatever it remembers.
func TestFilterAgreesWithGo(t *testing.T) {
	if evalFilter() == 0 {
		t.Skip("no filter for " + runtime.GOARCH)
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"l_out", "l_out-1", "l_out-13", "l_out-139", "ffn_moe_out-2", "ffn_moe_out", "ffn_moe_x-2", "abc-7", "abcd-7", "ab", ""})
		weight := rapid.SampledFrom([]string{"blk.0.ffn_down.weight", "blk.1.ffn_down.weight", "blk.1.ffn_up.weight", "GPU#blk.1.ffn_down.weight#0", "cache_k_l0 (view)", "output.weight", ""})
		o := &Hooks{Capture: rapid.SampledFrom([]string{"", "l_out-1", "l_out-13", "ab"}).Draw(t, "capture")}
		for range rapid.IntRange(0, 3).Draw(t, "weights") {
			o.Reduce = append(o.Reduce, slice.Reduction{Weight: rapid.SampledFrom([]string{"ffn_down.weight", "attn_output.weight"}).Draw(t, "weight")})
		}
		for i := range rapid.IntRange(0, filterWords+2).Draw(t, "nodes") {
			o.Reduce = append(o.Reduce, slice.Reduction{Node: []string{"abc", "ffn_moe_out"}[i%2]})
		}
		h := newHooked(&Library{evalCallback: sharedCallback()}, o)
		defer h.close()
		var pin runtime.Pinner
		defer pin.Unpin()
		// Few tensors, so that their addresses come again.
		weights := make([]*tensor, 4)
		for i := range weights {
			weights[i] = &tensor{}
			copy(weights[i].name[:], weight.Draw(t, "name of a weight"))
			pin.Pin(weights[i])
		}
		node := &tensor{}
		pin.Pin(node)
		h.begin(0, nil)
		for i := range 80 {
			*node = tensor{op: rapid.SampledFrom([]int32{opMulMat, opMulMat, 0, 2}).Draw(t, "op")}
			n := copy(node.name[:], name.Draw(t, "name"))
			for i := n + 1; i < len(node.name); i++ {
				node.name[i] = 'x' // what an earlier, longer name left
			}
			if rapid.IntRange(0, 4).Draw(t, "no operand") < 4 {
				w := rapid.SampledFrom(weights).Draw(t, "which")
				if !w.isWeight() { // what is no weight may be another tensor next time
					clear(w.name[:])
					copy(w.name[:], rapid.SampledFrom([]string{"GPU#blk.0.ffn_down.weight#1", "kq-0"}).Draw(t, "renamed"))
				}
				node.src[0] = w
			}
			if i == 70 { // an exchange failed
				h.err, h.stopped = fmt.Errorf("stop"), true
			}
			want := h.err != nil || h.isCapture(node) || h.isReduced(node)
			got, _, _ := purego.SyscallN(evalFilter(), uintptr(unsafe.Pointer(node)), 1, uintptr(unsafe.Pointer(h)))
			if got&0xff != uintptr(cbool(want)) {
				t.Fatalf("node %q (op %d): the filter says %d, Go says %v", node.label(), node.op, got&0xff, want)
			}
		}
	})
}
