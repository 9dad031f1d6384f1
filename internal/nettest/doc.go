// Package nettest makes bad networks for tests: a relay that delays, stalls,
// flips, drops, repeats and reorders the bytes between two ends, and networks of
// Linux namespaces with a rate of their own and cables that can be cut.
//
// The relay is a user-space program and costs something itself: about 20 µs a
// direction and a copy of the bytes on each of two sockets (BenchmarkRelay says
// how much on this machine). A delay that it is asked for comes on top.
//
// It is test support: product code must not import it. Everything may be called
// from any goroutine.
package nettest
