package loop

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/runner/wire"
)

// frames notes what is written, in order.
type frames []frame

func (f *frames) Send(kind wire.Type, ref uint64, body []byte) error {
	*f = append(*f, frame{kind, ref, slices.Clone(body)})
	return nil
}

// A batch's tokens are one frame, and none comes after the end of its generation.
func TestEmitterKeepsTheOrder(t *testing.T) {
	var out frames
	e := emitter{out: &out}
	for range 2 { // memory is used again
		out = nil
		e.token(&wire.Token{ID: 1, Token: 5})
		e.token(&wire.Token{ID: 2, Token: 6})
		e.done(wire.Done{ID: 1, Reason: wire.ReasonLength})
		e.token(&wire.Token{ID: 3, Token: 7})
		e.done(wire.Done{ID: 3, Reason: wire.ReasonStop})
		if len(out) != 0 {
			t.Fatal("written before the flush")
		}
		e.flush()
		e.flush()
		var got []string
		for _, f := range out {
			if f.kind == wire.TypeDone {
				got = append(got, fmt.Sprint("done ", f.ref))
				continue
			}
			if err := wire.DecodeTokens(f.body, func(tok wire.Token) { got = append(got, fmt.Sprint(tok.ID, ":", tok.Token)) }); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff([]string{"1:5", "2:6", "done 1", "3:7", "done 3"}, got); d != "" || len(out) != 4 {
			t.Errorf("%d frames:\n%s", len(out), d)
		}
	}
}
