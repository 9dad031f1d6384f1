package nettest

import "sync"

// Tamper changes bytes that pass in a direction; offset is the place of b in
// it. It returns what is passed on, and whether the connection ends there. Calls
// of one direction come in order; those of several may come at once.
type Tamper func(d Direction, offset int64, b []byte) (out []byte, end bool)

// Edit replaces the bytes [from, to) of one direction by what change makes of
// them; they are held until all are there.
func Edit(where Direction, from, to int64, change func(b []byte) []byte) Tamper {
	var mu sync.Mutex // guards held
	var held []byte
	return func(d Direction, offset int64, b []byte) ([]byte, bool) {
		if d != where {
			return b, false
		}
		mu.Lock()
		defer mu.Unlock()
		end := offset + int64(len(b))
		if end <= from || offset >= to {
			return b, false
		}
		start, stop := max(from-offset, 0), min(to-offset, int64(len(b)))
		held = append(held, b[start:stop]...)
		out := append([]byte(nil), b[:start]...)
		if offset+stop == to {
			out = append(out, change(held)...)
			out = append(out, b[stop:]...)
		}
		return out, false
	}
}

// Flip flips one bit.
func Flip(where Direction, at int64, bit uint) Tamper {
	return Edit(where, at, at+1, func(b []byte) []byte { return []byte{b[0] ^ 1<<(bit%8)} })
}

// Drop leaves out the bytes [from, to).
func Drop(where Direction, from, to int64) Tamper {
	return Edit(where, from, to, func([]byte) []byte { return nil })
}

// Replay sends the bytes [from, to) twice.
func Replay(where Direction, from, to int64) Tamper {
	return Edit(where, from, to, func(b []byte) []byte { return append(b[:len(b):len(b)], b...) })
}

// Reorder exchanges [from, middle) with [middle, to).
func Reorder(where Direction, from, middle, to int64) Tamper {
	return Edit(where, from, to, func(b []byte) []byte {
		return append(b[middle-from:len(b):len(b)], b[:middle-from]...)
	})
}

// Truncate ends the connection after the byte before at.
func Truncate(where Direction, at int64) Tamper {
	return func(d Direction, offset int64, b []byte) ([]byte, bool) {
		if d != where || offset+int64(len(b)) <= at {
			return b, false
		}
		return b[:max(at-offset, 0)], true
	}
}
