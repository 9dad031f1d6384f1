//go:build !linux

package lane

// yield is nil: polling has its time limit only.
var yield func()
