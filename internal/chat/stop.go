package chat

// matcher finds the first of several stop strings in bytes that arrive in
// pieces. The stop whose last byte comes first wins; of several that end at
// the same byte, the longest. Bytes that could still belong to a stop are
// held back, and no others.
type matcher struct {
	stops []stop
	held  []byte // may still become part of a stop; within buffer
	// buffer is reused by every write, so what write returned is void then.
	buffer []byte
}

// stop is one string with its Knuth-Morris-Pratt automaton.
type stop struct {
	text string
	fail []int // fail[n]: longest proper border of text[:n]
	at   int   // bytes of text that the input ends with
}

func newMatcher(texts []string) *matcher {
	m := &matcher{}
	for _, text := range texts {
		if text == "" {
			continue
		}
		s := stop{text: text, fail: make([]int, len(text)+1)}
		for i, k := 1, 0; i < len(text); i++ {
			for k > 0 && text[i] != text[k] {
				k = s.fail[k]
			}
			if text[i] == text[k] {
				k++
			}
			s.fail[i+1] = k
		}
		m.stops = append(m.stops, s)
	}
	return m
}

// write takes p and gives the bytes that are certain not to belong to a stop.
// found is the stop that was met, or empty; after it nothing may be written.
// read is how many bytes of p were looked at, the stop's last one included.
// free is valid until the next call.
func (m *matcher) write(p []byte) (free []byte, found string, read int) {
	if len(m.stops) == 0 {
		return p, "", len(p)
	}
	m.buffer = append(append(m.buffer[:0], m.held...), p...)
	m.held = m.buffer
	base := len(m.held) - len(p)
	for i, b := range p {
		longest := ""
		for j := range m.stops {
			s := &m.stops[j]
			for s.at > 0 && s.text[s.at] != b {
				s.at = s.fail[s.at]
			}
			if s.text[s.at] == b {
				s.at++
			}
			if s.at == len(s.text) && len(s.text) > len(longest) {
				longest = s.text
			}
		}
		if longest != "" {
			return m.held[:base+i+1-len(longest)], longest, i + 1
		}
	}
	keep := 0
	for j := range m.stops {
		keep = max(keep, m.stops[j].at)
	}
	return m.take(len(m.held) - keep), "", len(p)
}

// flush gives what is held: no stop can come of it any more.
func (m *matcher) flush() []byte {
	for j := range m.stops {
		m.stops[j].at = 0
	}
	return m.take(len(m.held))
}

// take removes n bytes from the front of what is held.
func (m *matcher) take(n int) []byte {
	free := m.held[:n]
	m.held = m.held[n:]
	return free
}
