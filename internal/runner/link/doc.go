// Package link carries frames between the shards of one group: plans,
// activations, results, and the sums of an all-reduce.
//
// Each pair of shards has two TCP connections. The fast lane takes small frames
// and all-reduces; nobody reads it but the goroutine that waits for something,
// which polls the socket for a short while before it sleeps, so that no other
// thread has to be woken in between. The bulk lane takes large frames, beats and
// aborts, and has a reader and a writer of its own, so that it moves while the
// shard computes. A frame's order among those of its kind does not depend on
// the lane it took.
//
// Both have TCP_NODELAY, which Go sets by itself. On plain TCP every frame has
// checksums (CRC-32C); with TLS its records guard the payloads. Counts and
// orders catch what is repeated, left out or exchanged.
//
// A mesh breaks once, with a culprit and a cause, and never heals: everything
// that waits ends, the others are told, and the next Join (of a larger epoch)
// makes a new one.
//
// Goroutines: Receive, Poll and AllReduce belong to one goroutine, the one that
// computes; the other methods may be called from any.
//
// It must not import the runner, the library's binding, or the wire to the
// node: it moves bytes and knows nothing of models.
package link
