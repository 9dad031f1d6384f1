//go:build !amd64

package link

// addMost adds as many values as go together, and tells how many those were:
// here, none.
func addMost([]float32, []byte) int { return 0 }
