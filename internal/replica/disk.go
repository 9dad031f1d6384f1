package replica

import (
	"context"
	"errors"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// errDisk wraps errors of this node's storage, which no reconnecting heals.
var errDisk = errors.New("storage")

// Pauses between two attempts to write again.
const (
	firstTry = 200 * time.Millisecond
	lastTry  = 5 * time.Second
)

// handover is how long a command waits for another node to lead in place of a
// master that can't write.
const handover = 1500 * time.Millisecond

// fail notes that this node's log can't be written, and has it tried again.
func (r *Replica[S]) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broke(err, true)
}

// broke is fail. In doubt the log is read again before anything else is
// written: what failed may be on the disk all the same. The caller holds mu.
func (r *Replica[S]) broke(err error, doubt bool) {
	r.doubt = r.doubt || doubt
	first := r.failed == nil
	r.failed = err
	if !first || r.life.Err() != nil {
		return
	}
	r.opts.Logger.Error("the cluster's state can't be written; this node confirms and orders nothing until it can", "error", err)
	r.note()
	r.mender.Go(r.mend)
}

// mend tries until the log can be written.
func (r *Replica[S]) mend() {
	for pause := firstTry; ; pause = min(2*pause, lastTry) {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-r.life.Done():
			t.Stop()
			return
		}
		if r.try() == nil {
			return
		}
	}
}

// try finds out whether a log that failed can be written again, and then lets
// this node go on.
func (r *Replica[S]) try() error {
	r.trying.Lock()
	defer r.trying.Unlock()
	if r.Failed() == nil {
		return nil
	}
	r.disk.Lock()
	defer r.disk.Unlock()
	err := r.opts.Storage.Probe()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && r.doubt {
		err = r.load(r.applied)
	}
	if err == nil {
		err = r.compact() // which may be what failed
	}
	r.failed = err
	if err != nil {
		return err
	}
	r.doubt = false
	r.opts.Logger.Warn("the cluster's state can be written again")
	r.note()
	return nil
}

// writable waits until the log can be written; false: the term ended first.
func (r *Replica[S]) writable(ctx context.Context) bool {
	for ctx.Err() == nil {
		r.mu.Lock()
		failed, changed := r.failed, r.changed
		r.mu.Unlock()
		if failed == nil {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return false
}

// elsewhere waits until another session than one whose master can't write; false:
// there is none soon, and who asks next in that session need not wait.
func (r *Replica[S]) elsewhere(ctx context.Context, session ids.Session) bool {
	t := time.NewTimer(handover)
	defer t.Stop()
	for {
		r.mu.Lock()
		other, vain, changed := r.leader != session || r.turning, r.vain == session, r.changed
		r.mu.Unlock()
		if other || vain {
			return other
		}
		select {
		case <-changed:
		case <-t.C:
			r.mu.Lock()
			r.vain = session
			r.mu.Unlock()
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// SetUnfit tells which of the live peers can't write their logs: no command
// waits for their disks.
func (r *Replica[S]) SetUnfit(peers []ids.Node) { r.retell(&r.unfit, peers) }

// Failed is the error of the disk for which this node's log can't be written now,
// nil if it can.
func (r *Replica[S]) Failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}
