// Package calm keeps a process from waking threads that nobody waits for, where
// all cores are busy computing the next token: each of them pushes a compute
// thread aside, for which the other ones then wait (docs/benchmarks.md). It is for the
// way of a token, and for nothing else.
//
// File, ReadConn and WriteConn read and write pipes and sockets by system calls
// that Go's scheduler is not told of. They are made on descriptors that never
// block, so there is nothing that the scheduler would have to do about them;
// waiting is left to Go's poller, as always. A runtime whose threads are all
// idle, as they are between two tokens, lets its monitor thread sleep, and an
// ordinary system call wakes it. A goroutine that computes for long after a call of this package
// is preempted later than usual, so a server reads its requests by ordinary calls.
//
// Start is for a program that is away in long calls of the library.
//
// On systems other than Linux all of it does nothing.
package calm
