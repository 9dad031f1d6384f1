package llama

import "encoding/binary"

// filter is what the assembly in filter_*.s looks at before it troubles Go: a
// callback into Go costs some 400 ns, a graph has about a thousand nodes, and
// hardly any of them matters. What the filter can't rule out comes to Go, where
// wants decides, so that a match too many costs time and nothing else. One
// Decode at a time reads and writes it, on its own thread.
type filter struct {
	call     uintptr // the callback in Go
	stopped  bool    // ask Go about every node
	byWeight bool    // matrix products are to be looked at
	nWords   uint64
	words    [filterWords]filterWord
	// known remembers what Go said about matrix products, by the address of
	// their first operand: the address for no, one more for yes. Only weights
	// are in it: the address of one is nothing else's while the model lives.
	known [filterKnown]uintptr
}

// filterWord matches the first eight bytes of a node's name.
type filterWord struct{ word, mask uint64 }

const (
	filterWords = 8
	filterKnown = 1024 // a power of two
	filterShift = 4    // tensors lie 368 bytes apart, an odd multiple of 16
)

// match lets names that begin with b pass. It reports false if there is no room.
func (f *filter) match(b []byte) bool {
	if f.nWords == filterWords {
		return false
	}
	var word, mask [8]byte
	n := copy(word[:], b)
	for i := range n {
		mask[i] = 0xff
	}
	f.words[f.nWords] = filterWord{binary.NativeEndian.Uint64(word[:]), binary.NativeEndian.Uint64(mask[:])}
	f.nWords++
	return true
}

// remember keeps Go's decision about a matrix product.
func (f *filter) remember(operand uintptr, yes bool) {
	f.known[operand>>filterShift%filterKnown] = operand + uintptr(cbool(yes))
}
