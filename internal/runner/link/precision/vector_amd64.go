package precision

// These take n values, a multiple of vector and not none. A prompt chunk sums
// up some megabytes, twice a layer.
//
//go:noescape
func addVector(dst *float32, src *byte, n int)

//go:noescape
func encodeVector(dst *byte, src *float32, n int)

//go:noescape
func decodeVector(dst *float32, src *byte, n int)

const vector = 16

// addMost adds as many values as go together, and tells how many those were.
func addMost(dst []float32, src []byte) int {
	n := len(dst) / vector * vector
	if n > 0 {
		addVector(&dst[0], &src[:4*n][0], n)
	}
	return n
}

// encodeMost writes as many values as go together, and tells how many those were.
func encodeMost(dst []byte, src []float32) int {
	n := len(src) / vector * vector
	if n > 0 {
		encodeVector(&dst[:4*n][0], &src[0], n)
	}
	return n
}

// decodeMost reads as many values as go together, and tells how many those were.
func decodeMost(dst []float32, src []byte) int {
	n := len(dst) / vector * vector
	if n > 0 {
		decodeVector(&dst[0], &src[:4*n][0], n)
	}
	return n
}
