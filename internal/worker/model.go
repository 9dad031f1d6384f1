package worker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// Status of a model, in the words of the management API.
type Status string

// Statuses of a listed model; one that is not listed is not loaded.
const (
	StatusLoading    Status = "loading"
	StatusReady      Status = "ready"      // loaded, nobody uses it
	StatusRunning    Status = "running"    // loaded, in use
	StatusRestarting Status = "restarting" // its runner died and is started again
	StatusFailed     Status = "failed"
	StatusUnloading  Status = "unloading"
)

// ModelState is a snapshot of a model.
type ModelState struct {
	Name     string
	Status   Status
	Since    time.Time // of Status
	Text     string    // Status for a person: "loading (25%)"
	Progress float64   // of the load, in [0, 1]
	Memory   int64     // bytes reserved
	Context  int       // tokens for each slot
	Slots    int
	Running  int            // requests with a slot, at most Slots
	Waiting  int            // requests beyond
	Warning  string         // what is not as it was asked for; "": nothing
	Error    string         // when failed or restarting
	Stderr   []string       // last lines of the runner, likewise
	PID      int            // of the runner; 0: none
	Info     wire.ModelInfo // zero before the first load
}

// Ready tells whether requests are served now.
func (s ModelState) Ready() bool { return s.Status == StatusReady || s.Status == StatusRunning }

// model is one listed model. What is not set before it is listed is guarded by
// Worker.mu.
type model struct {
	entry   Entry
	load    wire.LoadRequest
	need    int64  // bytes reserved; 0 once failed
	warning string // set before it is listed
	runner  Runner // set before it is listed

	status   Status
	since    time.Time
	progress float64
	loaded   bool // was ready once
	err      error
	pid      int
	info     wire.ModelInfo
	users    int           // handles and requests that wait for the load
	held     time.Duration // moving average of how long a request uses it
	phase    supervise.Phase
	gone     chan struct{} // closed when follow ended
}

// follow mirrors the runner's state until its final one.
func (w *Worker) follow(m *model) {
	defer close(m.gone)
	for {
		s, changed := m.runner.Watch()
		w.mu.Lock()
		m.phase, m.progress, m.err, m.pid = s.Phase, s.Progress, s.Err, s.PID
		if s.Phase == supervise.Ready {
			m.loaded, m.info = true, m.runner.Info()
		}
		w.settle(m)
		if s.Final() {
			m.need = 0
			if w.models[m.entry.Name] == m && m.status != StatusFailed {
				delete(w.models, m.entry.Name)
			}
		}
		w.notify()
		w.mu.Unlock()
		if s.Final() {
			return
		}
		<-changed
	}
}

// settle derives the status; w.mu is held.
func (w *Worker) settle(m *model) {
	status := m.status
	switch {
	case status == StatusUnloading || status == StatusFailed:
	case m.phase == supervise.Failed:
		status = StatusFailed
	case m.phase == supervise.Ready && m.users > 0:
		status = StatusRunning
	case m.phase == supervise.Ready:
		status = StatusReady
	case m.loaded || m.phase == supervise.Restarting:
		status = StatusRestarting
	default:
		status = StatusLoading
	}
	if status != m.status {
		m.status, m.since = status, time.Now()
		w.notify()
	}
}

// snapshot needs Worker.mu.
func (m *model) snapshot() ModelState {
	s := ModelState{
		Name: m.entry.Name, Status: m.status, Since: m.since, Text: string(m.status), Progress: m.progress,
		Memory: m.need, Context: m.load.Context, Slots: m.load.Slots, Warning: m.warning, PID: m.pid, Info: m.info,
		Running: min(m.users, m.load.Slots), Waiting: max(0, m.users-m.load.Slots),
	}
	if m.info.Context > 0 {
		s.Context = m.info.Context
	}
	switch {
	case m.status == StatusLoading && m.progress > 0:
		s.Text = fmt.Sprintf("loading (%d%%)", int(m.progress*100))
	case m.loaded && m.status != StatusRestarting:
		s.Progress = 1
	}
	if m.err != nil {
		s.Error, s.Stderr = m.err.Error(), lastLines(m.err)
		s.Text = fmt.Sprintf("%s: %v", m.status, m.err)
	}
	return s
}

// lastLines digs a runner's last words out of its error.
func lastLines(err error) []string {
	if crash, ok := errors.AsType[*supervise.Crash](err); ok {
		return crash.Stderr
	}
	if refused, ok := errors.AsType[*supervise.Refused](err); ok {
		return refused.Stderr
	}
	return nil
}

// failure is what clients of a failed model are told for so long.
func (m *model) failure(left time.Duration) error {
	e := &generation.Error{Kind: generation.KindUnavailable, RetryAfter: seconds(left), Err: m.err}
	refused, ok := errors.AsType[*supervise.Refused](m.err)
	switch {
	case ok && refused.Failure.Code == wire.CodeMemory:
		e.Kind = generation.KindNoMemory
		e.Message = fmt.Sprintf("%s cannot be loaded: %v; unload a model, or load it with a smaller context", m.entry.Name, refused)
	case ok && refused.Failure.Code == wire.CodeModel:
		e.Message = fmt.Sprintf("%s cannot be loaded: %v; choose another model, or another file of this one", m.entry.Name, refused)
	case ok:
		e.Message = fmt.Sprintf("%s cannot be loaded: %v", m.entry.Name, refused)
	default:
		e.Message = fmt.Sprintf("%s failed: %v; the next try is in %d s", m.entry.Name, m.err, e.RetryAfter)
		if lines := lastLines(m.err); len(lines) > 1 {
			e.Message += "; its last words: " + strings.Join(lines[max(0, len(lines)-summaryLines):], " | ")
		}
	}
	return e
}

// summaryLines of a runner's last ones go to clients; all go to Models.
const summaryLines = 3

func (m *model) unloading() error {
	return &generation.Error{Kind: generation.KindUnavailable, Message: m.entry.Name + " is being unloaded; ask again to load it anew", RetryAfter: 1}
}

// busy tells when a place in the queue is likely to be free: as long as one
// request takes, over the slots.
func (m *model) busy() error {
	return &generation.Error{
		Kind: generation.KindBusy,
		Message: fmt.Sprintf("%s is busy: %d requests run and %d wait; try again later, or start the node with a larger --queue",
			m.entry.Name, min(m.users, m.load.Slots), max(0, m.users-m.load.Slots)),
		RetryAfter: min(seconds(m.held/time.Duration(m.load.Slots)), 60),
	}
}

// seconds rounds up, to at least one.
func seconds(d time.Duration) int {
	return max(1, int((d+time.Second-1)/time.Second))
}

func listNames(names []string) string {
	if len(names) == 0 {
		return "nothing is"
	}
	slices.Sort(names)
	return "loaded: " + strings.Join(names, ", ")
}
