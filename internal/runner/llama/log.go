package llama

import (
	"strings"
	"sync"
)

// logRing keeps the library's last warnings and errors, since its calls
// return null without a reason: the reason is only in the log.
type logRing struct {
	forward func(level int, line string)

	mu      sync.Mutex // guards all below; the library logs from any thread
	level   int
	partial strings.Builder
	faults  []fault // last warnings and errors, oldest first
}

type fault struct {
	level int
	line  string
}

const keptFaults = 8

func newLogRing(forward func(int, string)) *logRing { return &logRing{forward: forward} }

func (r *logRing) write(level int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if level != logLevelContinued {
		r.level = level
	}
	r.partial.WriteString(text)
	if !strings.HasSuffix(text, "\n") {
		return
	}
	lines := strings.Split(strings.TrimRight(r.partial.String(), "\n"), "\n")
	r.partial.Reset()
	for _, line := range lines {
		if r.level == logLevelError || r.level == logLevelWarn {
			r.faults = append(r.faults, fault{r.level, line})
			if len(r.faults) > keptFaults {
				r.faults = r.faults[1:]
			}
		}
		if r.forward != nil {
			r.forward(r.level, line)
		}
	}
}

// reset forgets earlier faults, before a call whose faults are wanted.
func (r *logRing) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// cause joins the errors since reset, or the warnings if there were none.
func (r *logRing) cause() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs, warns []string
	for _, f := range r.faults {
		if f.level == logLevelError {
			errs = append(errs, f.line)
		} else {
			warns = append(warns, f.line)
		}
	}
	switch {
	case len(errs) > 0:
		return strings.Join(errs, "; ")
	case len(warns) > 0:
		return strings.Join(warns, "; ")
	}
	return "the library gave no reason"
}
