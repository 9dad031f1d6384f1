package mesh

import (
	"context"
	"sync/atomic"
	"time"
)

// silence is how long nothing must have come from a node for the gossip to be
// believed that it is dead. It takes the gossip as long to say so where a cable is
// cut; a node that lives is heard each second, as connections are pinged then. On
// machines whose processors are overloaded probes come too late long before
// connections break: nodes that took each other for dead there would close all
// connections, and have more to do than before.
const silence = 1500 * time.Millisecond

// patience is for how many times the lateness of this process a verdict of the gossip
// waits to be taken back about a node that there was no time to connect to yet, and
// how much more time connections get.
const patience = 5

// again is how often a node that is in doubt is looked at.
const again = 100 * time.Millisecond

// alive tells whether a node that the gossip gave up may live all the same, as far
// as this process can notice. The caller holds mu.
func (m *Mesh) alive(p *peer) bool {
	late := m.late.worst()
	limit := time.Now().Add(-silence - late).UnixNano()
	connected := false
	for c := range m.conns[p.member.ID] {
		read := c.read.Load()
		if read > limit {
			return true
		}
		connected = connected || read > 0
	}
	return !connected && late > again && time.Since(p.verdict) < patience*late
}

// doubt gives a node up that the gossip gave up, as soon as it is heard no more,
// unless the gossip takes it back before. The caller holds mu.
func (m *Mesh) doubt(p *peer) {
	if p.doubted {
		return
	}
	p.doubted = true
	boot := p.member.Boot
	time.AfterFunc(again, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.stopped || p.stop == nil || p.member.Boot != boot {
			return
		}
		p.doubted = false
		switch {
		case p.gossip:
		case m.alive(p):
			m.doubt(p)
		default:
			m.giveUp(p.member.ID, p)
		}
	})
}

// lateness measures how late this process is: how much after its time a timer
// fires.
type lateness struct {
	recent [2]atomic.Int64 // the worst of this period and of the one before, ns
}

const (
	beat   = 200 * time.Millisecond
	period = 10 // beats
	// mostLate bounds what is believed: a machine that slept is not late.
	mostLate = 5 * time.Second
)

func (l *lateness) run(ctx context.Context) {
	t := time.NewTicker(beat)
	defer t.Stop()
	for n := 0; ; n++ {
		begin := time.Now()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if n%period == 0 {
			l.recent[1].Store(l.recent[0].Swap(0))
		}
		late := min(time.Since(begin)-beat, mostLate)
		if int64(late) > l.recent[0].Load() {
			l.recent[0].Store(int64(late))
		}
	}
}

// worst is the worst of the last seconds.
func (l *lateness) worst() time.Duration {
	return time.Duration(max(l.recent[0].Load(), l.recent[1].Load(), 0))
}
