package errands

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
)

// Tasks are the requests that this node's clients have open. They live here
// alone: others ask for them.
type Tasks struct {
	mu   sync.Mutex // guards open
	open map[*task]bool
}

type task struct {
	cluster.Task
	begun  time.Time
	owner  string // access.Caller.Owner of who opened it
	cancel func()
}

// Canceller is who wants a request to end.
type Canceller struct {
	Any   bool   // may end anybody's
	Owner string // may end those of this owner; "": of nobody
}

func (c Canceller) may(x *task) bool { return c.Any || c.Owner != "" && c.Owner == x.owner }

// NewTasks makes an empty list.
func NewTasks() *Tasks { return &Tasks{open: map[*task]bool{}} }

// Begin notes a request; the functions note that it runs, and its end. The id
// is what its client knows it by, "": one is made up. Several may have one id:
// they are parts of one request. owner is access.Caller.Owner of its client.
// cancel ends it; nil: nobody can.
func (t *Tasks) Begin(kind, model, id, owner string, cancel func()) (running, end func()) {
	x := &task{Task: cluster.Task{ID: cmp.Or(id, rand.Text()), Type: kind, Status: "waiting", Model: model}, begun: time.Now(), owner: owner, cancel: cancel}
	t.mu.Lock()
	t.open[x] = true
	t.mu.Unlock()
	running = func() {
		t.mu.Lock()
		x.Status = "running"
		t.mu.Unlock()
	}
	end = func() {
		t.mu.Lock()
		delete(t.open, x)
		t.mu.Unlock()
	}
	return running, end
}

// Cancel ends a request; false: there is none of that id that by may end.
func (t *Tasks) Cancel(id string, by Canceller) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := false
	for x := range t.open {
		if x.ID == id && x.cancel != nil && by.may(x) {
			x.cancel()
			found = true
		}
	}
	return found
}

// List gives the open requests, the oldest first.
func (t *Tasks) List() []cluster.Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []cluster.Task
	for x := range t.open {
		c := x.Task
		c.Age = time.Since(x.begun).Seconds()
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b cluster.Task) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), strings.Compare(a.ID, b.ID))
	})
	return out
}
