// Package liveness asks the system about another process of this machine that says
// nothing: does it live and is only starved, was it stopped, is it gone? Who waits
// for it decides by that whether to wait longer.
//
// It imports nothing of ours; all of it may be called from any goroutine.
package liveness
