package access

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// limits counts what keys ask for at this node. Nodes do not tell each other:
// a key may ask each of them for as much.
type limits struct {
	mu   sync.Mutex // guards what follows, and what is in it
	used map[string]*usage
}

// usage is what one key has used: a bucket that holds what it may send in a
// minute and fills evenly, and its open requests.
type usage struct {
	id     string // of the key; another one of its name begins anew
	tokens float64
	at     time.Time // when tokens was right
	open   int
}

// maxUsed is how many keys are counted before those that are no more are
// forgotten: more than there may be keys.
const maxUsed = 1024

// Limited tells that a key has used up what it may.
type Limited struct {
	Limit      string // "requests_per_minute" or "concurrent"
	Message    string
	RetryAfter int // seconds
}

func (e *Limited) Error() string { return e.Message }

// Enter counts a request of c in; leave counts it out. A request beyond the
// limits of its key is refused with a *Limited and not counted.
func (d *Door) Enter(c Caller) (leave func(), err error) {
	if c.perMinute == 0 && c.concurrent == 0 {
		return func() {}, nil
	}
	now := d.now()
	l := &d.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.used[c.Name]
	if u == nil || u.id != c.id {
		if len(l.used) >= maxUsed {
			l.used = nil
		}
		if l.used == nil {
			l.used = map[string]*usage{}
		}
		u = &usage{id: c.id, tokens: float64(c.perMinute), at: now}
		l.used[c.Name] = u
	}
	if c.concurrent > 0 && u.open >= c.concurrent {
		return nil, &Limited{Limit: "concurrent", RetryAfter: 1, Message: fmt.Sprintf("key %s may have %d requests open at a node (concurrent), and has; wait until one has ended", c.Name, c.concurrent)}
	}
	if c.perMinute > 0 {
		perSecond := float64(c.perMinute) / 60
		if since := now.Sub(u.at).Seconds(); since > 0 { // a clock may be set back
			u.tokens = math.Min(float64(c.perMinute), u.tokens+since*perSecond)
		}
		u.at = now
		if u.tokens < 1 {
			wait := int(math.Ceil((1 - u.tokens) / perSecond))
			return nil, &Limited{Limit: "requests_per_minute", RetryAfter: max(wait, 1), Message: fmt.Sprintf("key %s may send %d requests a minute to a node (requests_per_minute), and has; send the next in %d s", c.Name, c.perMinute, max(wait, 1))}
		}
		u.tokens--
	}
	u.open++
	var once sync.Once
	return func() {
		once.Do(func() {
			l.mu.Lock()
			u.open--
			l.mu.Unlock()
		})
	}, nil
}
