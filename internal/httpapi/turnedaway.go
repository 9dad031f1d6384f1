package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// turnedAwayEvery is the shortest time between two lines about requests that
// were turned away: whoever tries keys fills no disk.
const turnedAwayEvery = 10 * time.Second

// strangers logs requests that were turned away at the door, so that an
// operator sees a key that was mistyped, revoked, or is being guessed. It may be
// used from any goroutine.
type strangers struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	told   time.Time // guarded by mu; zero: never
	silent int       // guarded by mu: how many since then were not told
}

// note tells of one, or counts it for the next line.
func (s *strangers) note(r *http.Request, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if !s.told.IsZero() && now.Sub(s.told) < turnedAwayEvery {
		s.silent++
		return
	}
	from := r.RemoteAddr
	if host, _, err := net.SplitHostPort(from); err == nil {
		from = host
	}
	s.log.Warn("a request was turned away", "from", from, "method", clip(r.Method, 20), "path", clip(r.URL.Path, 100), "reason", reason, "more_since_the_last_line", s.silent)
	s.told, s.silent = now, 0
}
