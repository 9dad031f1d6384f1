// Package power sums up what the cluster's machines took while an answer was
// computed, in the shape of exo's bench: looks at their power once a second, and
// what lies between two of them.
//
// It asks nobody itself: a Look is handed in. A Meter's methods may be called
// from any goroutine, Stop once.
package power

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// Usage is what the cluster's machines took while an answer was computed.
type Usage struct {
	Elapsed          float64 `json:"elapsed_seconds"`
	Nodes            []Node  `json:"nodes"` // those that measure power
	TotalWatts       float64 `json:"total_avg_sys_power_watts"`
	TotalJoules      float64 `json:"total_energy_joules"`
	PrefillSeconds   float64 `json:"prefill_seconds"`
	DecodeSeconds    float64 `json:"generation_seconds"`
	PrefillJoules    float64 `json:"prefill_energy_joules"`
	GenerationJoules float64 `json:"generation_energy_joules"`
	PrefillWatts     float64 `json:"prefill_avg_sys_power_watts"`
	GenerationWatts  float64 `json:"generation_avg_sys_power_watts"`
}

// Node is the part of one node.
type Node struct {
	NodeID           string  `json:"node_id"`
	Samples          int     `json:"samples"`
	Watts            float64 `json:"avg_sys_power"`
	PrefillWatts     float64 `json:"prefill_avg_sys_power"`
	GenerationWatts  float64 `json:"generation_avg_sys_power"`
	PrefillJoules    float64 `json:"prefill_energy_joules"`
	GenerationJoules float64 `json:"generation_energy_joules"`
}

// sample is the power of a node at a moment.
type sample struct {
	at    time.Time
	watts float64
}

// Meter looks at the nodes' power once a second. One goroutine belongs to
// it; Stop joins it.
type Meter struct {
	now    func() time.Time
	begin  time.Time
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	first   time.Time             // guarded by mu: of the first text
	samples map[ids.Node][]sample // guarded by mu
}

// Look gives the power of all nodes that measure it now, W; an error where that
// is not known.
type Look func(context.Context) (map[ids.Node]float64, error)

// Begin begins. Where no node measures power, nothing is asked again.
func Begin(ctx context.Context, now func() time.Time, look Look) *Meter {
	ctx, cancel := context.WithCancel(ctx)
	m := &Meter{now: now, begin: now(), cancel: cancel, samples: map[ids.Node][]sample{}}
	if !m.take(ctx, look) {
		return m
	}
	m.done.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				m.take(ctx, look)
			case <-ctx.Done():
				return
			}
		}
	})
	return m
}

// take notes what a look gives, and tells whether it was anything.
func (m *Meter) take(ctx context.Context, look Look) bool {
	watts, err := look(ctx)
	if err != nil {
		return false
	}
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, w := range watts {
		m.samples[id] = append(m.samples[id], sample{now, w})
	}
	return len(watts) > 0
}

// Answer notes the first text: what came before was the prompt's.
func (m *Meter) Answer() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first.IsZero() {
		m.first = m.now()
	}
}

// Stop ends the measurement and sums it up.
func (m *Meter) Stop() Usage {
	m.cancel()
	m.done.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	end := m.now()
	first := m.first
	if first.IsZero() {
		first = end
	}
	out := Usage{Elapsed: end.Sub(m.begin).Seconds(), Nodes: []Node{}, PrefillSeconds: first.Sub(m.begin).Seconds(), DecodeSeconds: end.Sub(first).Seconds()}
	for _, id := range slices.Sorted(maps.Keys(m.samples)) {
		list := m.samples[id]
		n := Node{NodeID: string(id), Samples: len(list), PrefillJoules: energy(list, m.begin, first), GenerationJoules: energy(list, first, end)}
		n.PrefillWatts, n.GenerationWatts = over(n.PrefillJoules, out.PrefillSeconds), over(n.GenerationJoules, out.DecodeSeconds)
		n.Watts = over(n.PrefillJoules+n.GenerationJoules, out.Elapsed)
		out.Nodes = append(out.Nodes, n)
		out.PrefillJoules += n.PrefillJoules
		out.GenerationJoules += n.GenerationJoules
	}
	out.TotalJoules = out.PrefillJoules + out.GenerationJoules
	out.TotalWatts, out.PrefillWatts, out.GenerationWatts = over(out.TotalJoules, out.Elapsed), over(out.PrefillJoules, out.PrefillSeconds), over(out.GenerationJoules, out.DecodeSeconds)
	return out
}

func over(joules, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return joules / seconds
}

// energy is the integral of the power from one moment to another, J: between
// samples it is taken to change evenly, before the first and after the last
// not at all.
func energy(list []sample, from, to time.Time) float64 {
	if len(list) == 0 || !to.After(from) {
		return 0
	}
	at := func(t time.Time) float64 {
		for i, s := range list {
			if t.After(s.at) {
				continue
			}
			if i == 0 {
				return s.watts
			}
			before := list[i-1]
			share := t.Sub(before.at).Seconds() / max(s.at.Sub(before.at).Seconds(), 1e-9)
			return before.watts + share*(s.watts-before.watts)
		}
		return list[len(list)-1].watts
	}
	sum, last := 0.0, from
	for _, s := range append(slices.Clone(list), sample{at: to}) {
		if !s.at.After(last) {
			continue
		}
		next := s.at
		if next.After(to) {
			next = to
		}
		sum += (at(last) + at(next)) / 2 * next.Sub(last).Seconds()
		last = next
	}
	return sum
}
