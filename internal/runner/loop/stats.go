package loop

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

// statsMirror lets other goroutines read what the loop counts.
type statsMirror struct {
	decoded, prompt, cached atomic.Uint64

	mu   sync.Mutex // guards last
	last wire.Stats
}

// update is called by the loop after each step.
func (m *statsMirror) update(s *schedule.Scheduler) {
	entries, bytes := s.Cache()
	busy := len(s.Running())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.SlotsBusy, m.last.Pending, m.last.CacheEntries, m.last.CacheBytes = busy, s.Pending(), entries, bytes
}

// Stats counts what was done.
func (l *Loop) Stats() wire.Stats {
	l.stats.mu.Lock()
	s := l.stats.last
	l.stats.mu.Unlock()
	s.Steps = l.steps.Load()
	s.DecodedTokens, s.PromptTokens, s.CachedTokens = l.stats.decoded.Load(), l.stats.prompt.Load(), l.stats.cached.Load()
	s.GoroutinesCount = runtime.NumGoroutine()
	return s
}

// Beat is the sign of life: steps so far, and whether there is work.
func (l *Loop) Beat() wire.Beat { return wire.Beat{Steps: l.steps.Load(), Busy: l.busy.Load()} }
