package link

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/skein-run/skein/internal/liveness"
	"github.com/skein-run/skein/internal/runner/link/frame"
	"github.com/skein-run/skein/internal/runner/link/place"
)

// How long a broken mesh goes on, to tell the others and to hear from them.
const (
	lastWords = 300 * time.Millisecond
	maxCause  = 1 << 10
)

// fail breaks the mesh once and tells all others. It returns the error that
// all calls give from now on.
func (m *Mesh) fail(culprit int, cause string) error {
	m.once.Do(func() {
		if len(cause) > maxCause {
			cause = cause[:maxCause]
		}
		m.cause.Store(&BrokenError{Culprit: culprit, Cause: cause})
		body := marshal(abortBody{Culprit: culprit, Cause: cause})
		for _, p := range m.peers {
			if p == nil {
				continue
			}
			p.out.Lock()
			clear(p.queue)
			p.queue, p.last = p.queue[:0], true
			p.enqueue(frame.Header{Kind: frame.Abort}, append(make([]byte, frame.HeaderSize), body...))
			p.out.Unlock()
			// A peer that does not read must not keep the writer; an error here
			// ends the writer sooner.
			_ = p.bulk.SetWriteDeadline(time.Now().Add(lastWords))
		}
		close(m.broken)
		m.sleeper.Wake()
		m.flusher.Wake()
	})
	return m.Err()
}

// lost takes the end of a fast lane. Whose fault it is the bulk lane knows
// better: an abort may have come before the end.
func (m *Mesh) lost(p *peer, err error) error {
	if damaged(err) {
		return m.fail(p.index, "its bytes are damaged: "+err.Error())
	}
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-m.broken:
		return m.Err()
	case <-timer.C:
		return m.fail(p.index, ended(err))
	}
}

// lostLater is lost of a goroutine that nobody waits for.
func (m *Mesh) lostLater(p *peer, err error) { _ = m.lost(p, err) }

// damaged tells an error in what came from an end of what comes. A "local
// error" is what this side's TLS has against a record.
func damaged(err error) bool {
	var op *net.OpError
	return errors.Is(err, frame.ErrDamaged) || errors.As(err, &op) && op.Op == "local error"
}

// ended says what the end of a connection means.
func ended(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE): // it ended with bytes unread
		return "closed its connection: its process has ended, or something between cut it off"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer: " + err.Error()
	}
	return "its connection broke: " + err.Error()
}

// hearing notes that bytes came.
type hearing struct{ p *peer }

func (h hearing) Read(b []byte) (int, error) {
	n, err := h.p.bulk.Read(b)
	if n > 0 {
		h.p.silent.Store(0)
	}
	return n, err
}

// bulkReading takes frames off a bulk lane until it ends.
func (m *Mesh) bulkReading(p *peer) {
	r := bufio.NewReaderSize(hearing{p}, 64<<10)
	for count := uint32(0); ; count++ {
		f, err := frame.Read(r, frame.MaxPayload, count, m.summed)
		switch {
		case m.cause.Load() != nil:
		case err == nil:
			err = m.bulkFrame(p, f)
		case damaged(err):
			_ = m.fail(p.index, "its bytes are damaged: "+err.Error())
		default:
			_ = m.fail(p.index, ended(err))
		}
		if err != nil || m.cause.Load() != nil {
			break
		}
	}
	// What is unread when a socket is closed would reset the connection, and
	// take our abort with it.
	_, _ = io.Copy(io.Discard, r)
}

func (m *Mesh) bulkFrame(p *peer, f frame.Frame) error {
	switch f.Kind {
	case frame.Beat:
		if len(f.Payload) != 2 {
			return m.fail(p.index, fmt.Sprintf("sent a beat of %d bytes", len(f.Payload)))
		}
		p.waiting.Store(int64(f.Payload[0]) + int64(f.Payload[1])<<8 - 1)
	case frame.Ready:
		var at place.Place
		if err := json.Unmarshal(f.Payload, &at); err != nil {
			return m.fail(p.index, "says where it runs in a way that can't be read")
		}
		p.near.Store(int64(at.Near(place.Here())))
		p.ready.Store(true)
		m.countReady()
	case frame.Abort:
		var a abortBody
		if err := json.Unmarshal(f.Payload, &a); err != nil || a.Culprit < -1 || a.Culprit >= len(m.peers) {
			return m.fail(p.index, "sent an abort that can't be read")
		}
		return m.fail(a.Culprit, strings.ToValidUTF8(a.Cause, "?"))
	default:
		if f.Kind > frame.LastPublic {
			return m.fail(p.index, fmt.Sprintf("sent %v on the bulk lane", f.Kind))
		}
		if err := p.store(f); err != nil {
			return m.fail(p.index, err.Error())
		}
		m.wake()
	}
	return nil
}

func (m *Mesh) countReady() {
	for _, p := range m.peers {
		if p != nil && !p.ready.Load() {
			return
		}
	}
	m.allReady.Do(func() { close(m.joined) })
}

// bulkWriting sends what is queued for a bulk lane until the last frame.
func (m *Mesh) bulkWriting(p *peer) {
	for count := uint32(0); ; {
		p.out.Lock()
		if len(p.queue) == 0 {
			last := p.last
			p.out.Unlock()
			if last {
				if half, ok := p.bulk.(interface{ CloseWrite() error }); ok {
					_ = half.CloseWrite() // the connection may have ended before
				}
				return
			}
			<-p.work
			continue
		}
		s := p.queue[0]
		p.queue[0] = sending{}
		p.queue = p.queue[1:]
		p.queued -= len(s.bytes)
		p.out.Unlock()
		frame.Seal(s.bytes, s.Header, &count, m.summed)
		if _, err := p.bulk.Write(s.bytes); err != nil {
			// The reader of this lane, or the beats, will say what happened.
			m.lostLater(p, err)
			return
		}
	}
}

// watching sends beats and counts the silence of others and the step's time,
// in ticks: a process that was stopped does not blame the others for the time
// it missed itself.
func (m *Mesh) watching() {
	ticker := time.NewTicker(m.tick)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-m.broken:
			return
		case <-ticker.C:
		}
		if n%2 == 0 {
			m.beat()
		}
		select {
		case <-m.joined:
			m.checkSilence()
			m.checkDeadline()
		default:
		}
	}
}

func (m *Mesh) beat() {
	body := beatBody(m.waitingFor.Load())
	for _, p := range m.peers {
		if p == nil {
			continue
		}
		p.out.Lock()
		// Where frames wait, their bytes show that this shard lives.
		if len(p.queue) == 0 && !p.last {
			p.enqueue(frame.Header{Kind: frame.Beat}, append(make([]byte, frame.HeaderSize), body...))
		}
		p.out.Unlock()
	}
}

// patience is how many times as long a shard may be silent that this machine
// knows to be alive: other programs leave it no processor.
const patience = 3

// tooSilent tells whether so many ticks without a sign of p mean its loss.
func (m *Mesh) tooSilent(p *peer, ticks int64) bool {
	limit := int64(m.o.Silence / m.tick)
	return ticks >= limit && (ticks >= patience*limit || !liveness.Lives(int(p.near.Load())))
}

func (m *Mesh) checkSilence() {
	worst, heard, others, longest := -1, 0, 0, int64(0)
	for _, p := range m.peers {
		if p == nil {
			continue
		}
		others++
		silent := p.silent.Add(1)
		if m.tooSilent(p, silent) {
			worst, longest = p.index, silent
		}
		if silent <= 4 {
			heard++
		}
	}
	switch {
	case worst < 0:
	case heard == 0 && others > 1:
		_ = m.fail(m.o.Self, fmt.Sprintf("hears nobody since %v: its network is down", m.o.Silence))
	default:
		_ = m.fail(worst, fmt.Sprintf("silent for %v: it is stopped, or the network between is cut", time.Duration(longest)*m.tick))
	}
}

func (m *Mesh) checkDeadline() {
	// A caller may set another one at the same moment, which counts then.
	left := m.deadline.Load()
	if left == 0 || !m.deadline.CompareAndSwap(left, left-1) || left > 1 {
		return
	}
	// Who waits is not to blame: follow the chain to one who computes.
	at, seen := int64(m.o.Self), make([]bool, len(m.peers))
	next := m.waitingFor.Load()
	for next >= 0 && next < int64(len(m.peers)) && !seen[at] {
		seen[at] = true
		at = next
		if p := m.peers[at]; p != nil {
			next = p.waiting.Load()
		} else {
			next = m.waitingFor.Load()
		}
	}
	if seen[at] {
		at = -1 // they wait for each other
	}
	_ = m.fail(int(at), fmt.Sprintf("the step is not done after %v", time.Duration(m.bound.Load())))
}

// Close leaves the group and joins all goroutines. Calls of other goroutines
// end first.
func (m *Mesh) Close() {
	m.closing.Do(func() {
		_ = m.fail(m.o.Self, "left the group")
		m.writers.Wait()
		for _, p := range m.peers {
			if p != nil {
				p.fast.Shut()
				_ = p.bulk.SetReadDeadline(time.Now().Add(lastWords))
			}
		}
		m.readers.Wait()
		m.others.Wait()
		m.receiving.Lock()
		defer m.receiving.Unlock()
		for _, p := range m.peers {
			if p != nil {
				p.out.Lock() // a Send may be in the lane
				p.fast.Free()
				p.out.Unlock()
				_ = p.bulk.Close()
			}
		}
		m.sleeper.Close()
		m.flusher.Close()
	})
}
