package generation

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Snapshot is an open generation as it stood at one moment: what is needed to
// go on with it elsewhere. Its slices belong to the receiver, but for Prompt,
// which is shared and must not be written.
type Snapshot struct {
	ID       uint64 // the generation's ID on its runner
	Model    string
	Choice   int
	Prompt   []int32
	Produced []int32 // generated so far
	// Sampling holds the choice's own seed; one random number was drawn for
	// each produced token.
	Sampling  wire.Sampling
	MaxTokens int // 0: up to the context
	Started   time.Time
}

// keeper records the open generations.
type keeper struct {
	mu      sync.Mutex
	records map[*record]struct{} // guarded by mu
}

// record is one open generation.
type record struct {
	mu       sync.Mutex
	snapshot Snapshot // Produced is guarded by mu, the rest never changes
}

func (k *keeper) open(s Snapshot) *record {
	r := &record{snapshot: s}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.records == nil {
		k.records = make(map[*record]struct{})
	}
	k.records[r] = struct{}{}
	return r
}

func (k *keeper) close(r *record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.records, r)
}

func (k *keeper) snapshots() []Snapshot {
	k.mu.Lock()
	out := make([]Snapshot, 0, len(k.records))
	for r := range k.records {
		r.mu.Lock()
		s := r.snapshot
		s.Produced = slices.Clone(s.Produced)
		r.mu.Unlock()
		out = append(out, s)
	}
	k.mu.Unlock()
	slices.SortFunc(out, func(a, b Snapshot) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (r *record) produced(tokens []wire.Token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range tokens {
		r.snapshot.Produced = append(r.snapshot.Produced, tokens[i].Token)
	}
}
