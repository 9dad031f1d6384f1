package chat

import "unicode/utf8"

// assembler makes valid UTF-8 of bytes that arrive in pieces. A sequence that
// may still become a character is held back; what can no longer become one is
// replaced by U+FFFD, one for each maximal subpart as the Unicode Standard
// recommends (section 3.9), so that the result does not depend on the pieces.
type assembler struct {
	held  [utf8.UTFMax]byte
	count int
}

// write appends the text of p to dst.
func (a *assembler) write(dst []byte, p []byte) []byte {
	for _, b := range p {
		if a.count == 0 && b < utf8.RuneSelf {
			dst = append(dst, b)
			continue
		}
		a.held[a.count] = b
		a.count++
		switch state(a.held[:a.count]) {
		case complete:
			dst = append(dst, a.held[:a.count]...)
			a.count = 0
		case broken:
			// The last byte does not continue what was held: what was held is
			// one error, and the byte starts anew.
			first := a.count == 1
			dst = append(dst, string(utf8.RuneError)...)
			a.count = 0
			if !first {
				dst = a.write(dst, []byte{b})
			}
		case partial:
		}
	}
	return dst
}

// flush appends what is left at the end of the text.
func (a *assembler) flush(dst []byte) []byte {
	if a.count > 0 {
		a.count = 0
		dst = append(dst, string(utf8.RuneError)...)
	}
	return dst
}

type sequenceState int

const (
	partial sequenceState = iota
	complete
	broken
)

// state judges the bytes of one sequence, of which all but the last are known
// to be a partial one (Unicode Standard, table 3-7).
func state(p []byte) sequenceState {
	if utf8.Valid(p) {
		return complete
	}
	first, low, high, length := p[0], byte(0x80), byte(0xBF), 0
	switch {
	case first >= 0xC2 && first <= 0xDF:
		length = 2
	case first >= 0xE0 && first <= 0xEF:
		length = 3
		if first == 0xE0 {
			low = 0xA0
		} else if first == 0xED {
			high = 0x9F
		}
	case first >= 0xF0 && first <= 0xF4:
		length = 4
		if first == 0xF0 {
			low = 0x90
		} else if first == 0xF4 {
			high = 0x8F
		}
	default:
		return broken
	}
	last := p[len(p)-1]
	if len(p) > 2 {
		low, high = 0x80, 0xBF
	}
	if len(p) > 1 && (last < low || last > high) || len(p) >= length {
		return broken
	}
	return partial
}
