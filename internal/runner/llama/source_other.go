//go:build !linux && !darwin && !freebsd

package llama

// openStreams is nil: this C library's streams can't call back.
func openStreams() *streams { return nil }
