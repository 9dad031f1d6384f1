// Package lane moves the bytes of a link's fast connections without waiting,
// and lets one goroutine wait for several of them: a Spinner says how long to
// poll, a Sleeper sleeps after that.
//
// A socket is taken out of Go's poller, so that a byte that arrives wakes the
// thread that waits for it and no other; TLS lies over it. Where sockets can't
// be polled, and in tests with a clock of their own, a pump does the same with
// two goroutines.
//
// It knows nothing of frames and must not import the rest of the link.
package lane
