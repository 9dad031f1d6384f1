package control

import (
	"log/slog"

	"github.com/skein-run/skein/internal/ids"
)

// comings tells the log who comes and who goes. Whoever reads a warning that a
// node is gone is told too when it is back; that others join is for those who
// want to see all. It is used by one goroutine at a time.
type comings struct {
	log  *slog.Logger
	gone map[ids.Node]bool // of which a warning was written
}

func (c *comings) note(id ids.Node, alive bool, address, version string) {
	switch {
	case !alive:
		c.log.Warn("node gone", "node", id, "address", address)
		if c.gone == nil {
			c.gone = map[ids.Node]bool{}
		}
		c.gone[id] = true
	case c.gone[id]:
		c.log.Warn("node is back", "node", id, "address", address, "version", version)
		delete(c.gone, id)
	default:
		c.log.Info("node joined", "node", id, "address", address, "version", version)
	}
}
