package replica

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/skein-run/skein/internal/ids"
)

// gather takes the freshest log among the live nodes. One with entries of a
// newer session than this is of a term that the election did not know of: it
// gives way when its node follows, and its commands are offered.
func (r *Replica[S]) gather(ctx context.Context, session ids.Session) error {
	r.mu.Lock()
	own := Status{Index: r.log.last, Session: r.log.session()}
	peers := slices.Sorted(maps.Keys(r.members))
	r.mu.Unlock()
	ask, cancel := context.WithTimeout(ctx, r.opts.Gather)
	defer cancel()
	answers := make([]Status, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() {
			s, err := r.opts.Transport.Status(ask, p)
			if err != nil {
				r.opts.Logger.Debug("a node does not say how fresh its log is", "node", p, "error", err)
				return
			}
			answers[i] = s
		})
	}
	wg.Wait()
	// The freshest first; one that goes in the middle leaves the next.
	order := make([]int, len(peers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case answers[a].fresher(answers[b]):
			return -1
		case answers[b].fresher(answers[a]):
			return 1
		}
		return 0
	})
	for _, i := range order {
		if answers[i].Session.Compare(session) > 0 {
			continue
		}
		if !answers[i].fresher(own) {
			break
		}
		err := r.copyFrom(ctx, peers[i], session, true)
		if errors.Is(err, errDisk) {
			return err
		}
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		r.opts.Logger.Warn("the freshest log could not be read; the next one is taken", "node", peers[i], "error", err)
	}
	return ctx.Err()
}
