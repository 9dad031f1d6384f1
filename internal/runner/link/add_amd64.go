package link

// addVector adds n values, a multiple of 16, at least 16.
//
//go:noescape
func addVector(dst *float32, src *byte, n int)

// addMost adds as many values as go together, and tells how many those were.
func addMost(dst []float32, src []byte) int {
	n := len(dst) &^ 15
	if n > 0 {
		addVector(&dst[0], &src[:4*n][0], n)
	}
	return n
}
