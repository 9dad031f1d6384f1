package control

import (
	"context"
	"fmt"

	"github.com/skein-run/skein/internal/cluster"
)

// eventsAtOnce is how many events are read from the disk at a time.
const eventsAtOnce = 256

// Events gives what is still kept of the cluster's log, up to what is applied
// now, oldest first.
func (c *Control) Events(ctx context.Context, each func(cluster.Event) error) error {
	_, applied := c.replica.State()
	next, err := c.oldest()
	if err != nil {
		return err
	}
	for next <= applied && ctx.Err() == nil {
		entries, kept, err := c.store.Entries(next, eventsAtOnce)
		if err != nil {
			return fmt.Errorf("read the cluster's log: %w", err)
		}
		if !kept { // compacted meanwhile: go on with what is left
			if next, err = c.oldest(); err != nil {
				return err
			}
			continue
		}
		if len(entries) == 0 {
			break
		}
		for _, entry := range entries {
			next = entry.Index + 1
			if entry.Index > applied {
				break
			}
			e, err := cluster.DecodeEvent(entry.Data)
			if err != nil {
				return fmt.Errorf("read the cluster's log: %w", err)
			}
			if err := each(e); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

// oldest is the first event that the log may still have.
func (c *Control) oldest() (uint64, error) {
	s, err := c.store.Snapshot()
	if err != nil {
		return 0, fmt.Errorf("read the cluster's log: %w", err)
	}
	return s.Index + 1, nil
}
