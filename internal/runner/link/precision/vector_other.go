//go:build !amd64

package precision

// How many values go together here: none.

func addMost([]float32, []byte) int { return 0 }

func encodeMost([]byte, []float32) int { return 0 }

func decodeMost([]float32, []byte) int { return 0 }
