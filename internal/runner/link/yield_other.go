//go:build !linux

package link

// yield is nil: polling has its time limit only.
var yield func()
