package control

import (
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
	open map[string]*task
}

type task struct {
	cluster.Task
	begun time.Time
}

func newTasks() *Tasks { return &Tasks{open: map[string]*task{}} }

// Begin notes a request; the functions note that it runs, and its end.
func (t *Tasks) Begin(kind, model string) (running, end func()) {
	id := newID()
	x := &task{Task: cluster.Task{ID: id, Type: kind, Status: "waiting", Model: model}, begun: time.Now()}
	t.mu.Lock()
	t.open[id] = x
	t.mu.Unlock()
	running = func() {
		t.mu.Lock()
		x.Status = "running"
		t.mu.Unlock()
	}
	end = func() {
		t.mu.Lock()
		delete(t.open, id)
		t.mu.Unlock()
	}
	return running, end
}

// List gives the open requests, the oldest first.
func (t *Tasks) List() []cluster.Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []cluster.Task
	for _, x := range t.open {
		c := x.Task
		c.Age = time.Since(x.begun).Seconds()
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b cluster.Task) int {
		if a.Age != b.Age {
			if a.Age > b.Age {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}
