package access

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
)

// Refusals remembers which commands this node refused lately, and whose key
// they came with. Anybody with a key can be refused as fast as it likes, so
// they are counted, and there is a bound to what is kept: they are no part of
// the cluster's log. All methods may be called from any goroutine.
type Refusals struct {
	now  func() time.Time
	tell func(cluster.Refusal)

	mu   sync.Mutex         // guards kept
	kept []*cluster.Refusal // in the order in which they began
}

// Bounds of Refusals.
const (
	together   = time.Minute // the same again within it is counted, not kept anew
	maxOfAKey  = 8           // kinds of one key at a time; what is more is counted as otherKinds
	maxRefused = 128
	maxReason  = 200 // bytes
	otherKinds = "other commands"
)

// NewRefusals makes a record. tell is called, without locks, for a refusal that
// is new, and again whenever its count has doubled; nil: nobody is told.
func NewRefusals(now func() time.Time, tell func(cluster.Refusal)) *Refusals {
	if now == nil {
		now = time.Now
	}
	if tell == nil {
		tell = func(cluster.Refusal) {}
	}
	return &Refusals{now: now, tell: tell}
}

// Add notes that a command of c was refused. what is its method and route,
// of which there are few.
func (r *Refusals) Add(c Caller, what string, status int, code, reason string) {
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "..."
	}
	if x, told := r.add(cluster.Refusal{Key: c.Name, What: what, Status: status, Code: code, Reason: reason}); told {
		r.tell(x)
	}
}

func (r *Refusals) add(n cluster.Refusal) (_ cluster.Refusal, told bool) {
	now := r.now().UTC().Round(0)
	r.mu.Lock()
	defer r.mu.Unlock()
	same := func(what, code string) *cluster.Refusal {
		for _, x := range r.kept {
			if x.Key == n.Key && x.What == what && x.Code == code && now.Sub(x.Last) < together {
				return x
			}
		}
		return nil
	}
	x := same(n.What, n.Code)
	if x == nil && r.recent(n.Key, now) >= maxOfAKey {
		n.What, n.Code = otherKinds, ""
		x = same(n.What, n.Code)
	}
	if x == nil {
		n.First = now
		x = &n
		r.kept = append(r.kept, x)
		if len(r.kept) > maxRefused {
			oldest := slices.MinFunc(r.kept, func(a, b *cluster.Refusal) int { return a.Last.Compare(b.Last) })
			r.kept = slices.DeleteFunc(r.kept, func(k *cluster.Refusal) bool { return k == oldest })
		}
	}
	x.Count++
	x.Last, x.Status, x.Reason = now, n.Status, n.Reason
	return *x, bits.OnesCount(uint(x.Count)) == 1
}

// recent counts the kinds of a key that may still grow, with mu held.
func (r *Refusals) recent(key string, now time.Time) (n int) {
	for _, x := range r.kept {
		if x.Key == key && x.What != otherKinds && now.Sub(x.Last) < together {
			n++
		}
	}
	return n
}

// List gives what is kept, the newest last.
func (r *Refusals) List() []cluster.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]cluster.Refusal, len(r.kept))
	for i, x := range r.kept {
		out[i] = *x
	}
	slices.SortStableFunc(out, func(a, b cluster.Refusal) int { return cmp.Compare(a.Last.UnixNano(), b.Last.UnixNano()) })
	return out
}
