package control

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// A warning that a node is gone does not stand there for ever: who comes back is
// told of as loudly, once.
func TestComings(t *testing.T) {
	var log bytes.Buffer
	c := comings{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	c.note("a", true, "10.0.0.1:1", "v1")
	c.note("b", true, "10.0.0.2:1", "v1")
	if log.Len() > 0 {
		t.Errorf("joining is no warning: %s", &log)
	}
	c.note("a", false, "10.0.0.1:1", "")
	c.note("a", true, "10.0.0.1:2", "v2")
	c.note("a", true, "10.0.0.1:2", "v2")
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `msg="node gone" node=a`) || !strings.Contains(lines[1], `msg="node is back" node=a address=10.0.0.1:2 version=v2`) {
		t.Errorf("%q", lines)
	}
}
