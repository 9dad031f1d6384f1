package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// follow copies the master's log for as long as the term lasts.
func (r *Replica[S]) follow(ctx context.Context, session ids.Session) {
	pause := 20 * time.Millisecond
	for r.writable(ctx) {
		begin := time.Now()
		err := r.copyFrom(ctx, session.Master, session, false)
		if errors.Is(err, errDisk) {
			r.fail(err)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		r.opts.Logger.Debug("the stream from the master ended", "session", session, "error", err)
		if time.Since(begin) > 5*time.Second {
			pause = 20 * time.Millisecond
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		pause = min(2*pause, time.Second)
	}
}

// copyFrom copies a node's log: once (fetch), or until the stream ends.
func (r *Replica[S]) copyFrom(ctx context.Context, node ids.Node, session ids.Session, fetch bool) error {
	r.mu.Lock()
	req := FollowRequest{From: r.opts.Self, Session: session, Fetch: fetch, Runs: append([]Run(nil), r.log.runs...)}
	r.mu.Unlock()
	stream, err := r.opts.Transport.Follow(ctx, node, req)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() }) // wakes the read below
	defer stop()
	defer stream.Close()
	in, out := newFrames(stream, maxFrame), json.NewEncoder(stream)
	first := true
	for {
		var f frame
		if err := in.decode(&f); err != nil {
			return err
		}
		if f.Refused != "" {
			return errors.New(f.Refused)
		}
		if first && f.Match == nil {
			return errors.New("the master's stream begins without a match")
		}
		grew, err := r.take(f)
		if err != nil {
			return err
		}
		if first && !fetch {
			r.offers.Go(func() { r.offer(ctx) }) // what an earlier term left unanswered
		}
		first = false
		if grew && !fetch {
			r.mu.Lock()
			last := r.log.last
			r.mu.Unlock()
			if err := out.Encode(ack{Index: last}); err != nil {
				return err
			}
		}
		if f.Commit > 0 {
			if err := r.commit(f.Commit); err != nil {
				return fmt.Errorf("%w: %w", errDisk, err)
			}
		}
	}
}

// take carries out what a frame says about the log, and tells whether to
// confirm.
func (r *Replica[S]) take(f frame) (bool, error) {
	grew := false
	if f.Match != nil || f.Snapshot != nil {
		if err := r.rewind(f); err != nil {
			return false, err
		}
		grew = true
	}
	if len(f.Entries) > 0 {
		// Told apart from an error of the disk: a stream that skips something is
		// begun anew, and this node goes on.
		r.mu.Lock()
		last := r.log.last
		r.mu.Unlock()
		for i, e := range f.Entries {
			if want := last + 1 + uint64(i); e.Index != want {
				return false, fmt.Errorf("the stream gives entry %d where entry %d comes next", e.Index, want)
			}
		}
		if err := r.append(f.Entries); err != nil {
			return false, fmt.Errorf("%w: %w", errDisk, err)
		}
		grew = true
	}
	return grew, nil
}

// rewind makes this node's log a prefix of the master's: what follows Match is
// forgotten, or all of it is replaced by a snapshot. Commands that get lost so
// are offered to the master again.
func (r *Replica[S]) rewind(f frame) error {
	r.mu.Lock()
	keep := r.log.last
	if f.Match != nil {
		keep = min(keep, *f.Match)
	}
	var lost []Entry
	if keep < r.log.last {
		entries, _, err := r.opts.Storage.Entries(max(keep+1, r.log.first), int(r.log.last-keep))
		if err != nil {
			r.mu.Unlock()
			return fmt.Errorf("%w: %w", errDisk, err)
		}
		lost = entries
	}
	var err error
	switch {
	case f.Snapshot != nil:
		err = r.opts.Storage.Install(*f.Snapshot)
	case keep < r.log.last:
		err = r.opts.Storage.Truncate(keep)
	default:
		r.mu.Unlock()
		return nil
	}
	r.rewound++ // streams that read this log end
	if err == nil {
		// What was applied and is gone now can't be taken out of a value: it
		// is made again.
		err = r.load(^uint64(0))
		r.note()
	}
	r.mu.Unlock()
	r.keep(lost) // also when the disk failed: it may have forgotten them all the same
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	return nil
}

// keep notes the commands of lost entries.
func (r *Replica[S]) keep(lost []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.lost)
	for _, c := range r.opts.Machine.Undo(lost) {
		if !slices.ContainsFunc(r.lost, func(x Command) bool { return x.ID == c.ID }) { // one command may have several entries
			c.Offered = true
			r.lost = append(r.lost, c)
		}
	}
	if n = len(r.lost) - n; n > 0 {
		r.opts.Logger.Warn("two halves of the cluster met; this half's commands are offered to the master again", "commands", n)
	}
}

// offer hands lost commands to the master, in order. It runs beside the
// stream, since an answer needs this node's confirmation in turn. What is not
// answered in this term is offered again in the next.
func (r *Replica[S]) offer(ctx context.Context) {
	r.offering.Lock()
	defer r.offering.Unlock()
	for ctx.Err() == nil {
		r.mu.Lock()
		if len(r.lost) == 0 {
			r.mu.Unlock()
			return
		}
		c := r.lost[0]
		r.mu.Unlock()
		_, err := r.Submit(ctx, c)
		var no *Refusal
		switch {
		case errors.As(err, &no):
			r.opts.Logger.Warn("a command from before the halves met no longer fits", "command_id", c.ID, "kind", c.Kind, "error", err)
		case err != nil:
			return
		}
		r.mu.Lock()
		r.lost = r.lost[1:]
		r.mu.Unlock()
	}
}
