package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/nettest"
	"github.com/skein-run/skein/internal/runner/link/frame"
	"github.com/skein-run/skein/internal/runner/link/lane"
	"github.com/skein-run/skein/internal/runner/link/rendezvous"
)

// wired is a group over pipes, for a fake clock. wires[i][j] are those between i and j.
type wired struct {
	meshes []*Mesh
	wires  map[[2]int][]*nettest.Relay
}

func newWired(t *testing.T, n int) *wired {
	t.Helper()
	w := &wired{wires: map[[2]int][]*nettest.Relay{}}
	pairs := make([][]rendezvous.Pair, n)
	for i := range pairs {
		pairs[i] = make([]rendezvous.Pair, n)
	}
	wire := func(i, j int) (net.Conn, net.Conn) {
		a, one := net.Pipe()
		two, b := net.Pipe()
		r := nettest.Splice(one, two, nettest.Path{Delay: time.Millisecond})
		t.Cleanup(func() { r.Close() })
		w.wires[[2]int{i, j}] = append(w.wires[[2]int{i, j}], r)
		w.wires[[2]int{j, i}] = append(w.wires[[2]int{j, i}], r)
		return a, b
	}
	for i := range n {
		for j := range i {
			pairs[i][j].Fast, pairs[j][i].Fast = wire(i, j)
			pairs[i][j].Bulk, pairs[j][i].Bulk = wire(i, j)
		}
	}
	for i := range n {
		o := Options{Group: "test", Epoch: 1, Self: i, Addresses: make([]string, n), Spin: -1}
		if err := o.validate(); err != nil {
			t.Fatal(err)
		}
		m, err := startMesh(o, pairs[i], lane.NewBell(), lane.NewBell())
		if err != nil {
			t.Fatal(err)
		}
		w.meshes = append(w.meshes, m)
	}
	for _, m := range w.meshes {
		<-m.joined
	}
	t.Cleanup(func() { closeMeshes(w.meshes) })
	return w
}

// cut cuts all cables of a shard.
func (w *wired) cut(shard int) {
	for k, wires := range w.wires {
		if k[0] == shard {
			for _, r := range wires {
				r.Cut()
			}
		}
	}
}

// verdict is what a mesh broke of.
func verdict(t *testing.T, err error) *BrokenError {
	t.Helper()
	var broken *BrokenError
	if !errors.As(err, &broken) {
		t.Errorf("got %v, want a BrokenError", err)
		return &BrokenError{Culprit: -2}
	}
	return broken
}

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWired(t, 3)
		// Nothing happens for long while all live, whether they compute or wait.
		errs := make([]error, 3)
		var work sync.WaitGroup
		for i, m := range w.meshes {
			if i != 1 {
				work.Go(func() { _, errs[i] = m.Receive(1, KindPlan, 7) })
			}
		}
		<-time.After(time.Hour)
		for i, m := range w.meshes {
			if err := m.Err(); err != nil {
				t.Fatalf("shard %d: %v", i, err)
			}
		}
		begin := time.Now()
		w.cut(1)
		work.Wait()
		if took := time.Since(begin); took > 1800*time.Millisecond {
			t.Errorf("it took %v to notice", took)
		}
		<-w.meshes[1].Broken()
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took the cut one %v to notice", took)
		}
		errs[1] = w.meshes[1].Err()
		for i, err := range errs {
			if v := verdict(t, err); v.Culprit != 1 {
				t.Errorf("shard %d blames shard %d: %v", i, v.Culprit, err)
			}
		}
		mustMention(t, errs[0], "shard 1", "is cut")
		mustMention(t, errs[1], "its network is down")
	})
}

// TestDeadline: shard 2 computes for ever; 0 waits for 1, and 1 for 2.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWired(t, 3)
		begin := time.Now()
		var work sync.WaitGroup
		errs := make([]error, 3)
		w.meshes[0].SetDeadline(5 * time.Second)
		work.Go(func() { _, errs[0] = w.meshes[0].Receive(1, KindActivation, 1) })
		work.Go(func() { errs[1] = w.meshes[1].AllReduce([]int{1, 2}, []float32{1}) })
		<-w.meshes[2].Broken()
		work.Wait()
		errs[2] = w.meshes[2].Err()
		for i, err := range errs {
			if v := verdict(t, err); v.Culprit != 2 {
				t.Errorf("shard %d blames shard %d: %v", i, v.Culprit, err)
			}
			mustMention(t, err, "not done after 5s")
		}
		if took := time.Since(begin); took < 5*time.Second || took > 5500*time.Millisecond {
			t.Errorf("the deadline of 5s ended the step after %v", took)
		}
	})
}

// TestDeadlineIsLifted: one that was met breaks nothing; two that wait for each
// other are nobody's fault.
func TestDeadlineIsLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWired(t, 2)
		w.meshes[0].SetDeadline(5 * time.Second)
		<-time.After(4 * time.Second)
		w.meshes[0].SetDeadline(0)
		<-time.After(time.Hour)
		if err := w.meshes[0].Err(); err != nil {
			t.Fatal(err)
		}
		w.meshes[0].SetDeadline(5 * time.Second)
		errs := make([]error, 2)
		each(w.meshes, func(i int, m *Mesh) { _, errs[i] = m.Receive(1-i, KindPlan, 0) })
		for _, err := range errs {
			if v := verdict(t, err); v.Culprit != -1 {
				t.Errorf("shard %d is blamed", v.Culprit)
			}
		}
	})
}

// TestOneTellsAll: who breaks the mesh is named by everybody, also by those who
// have no connection that broke.
func TestOneTellsAll(t *testing.T) {
	for _, how := range []string{"fail", "close", "dies", "sequence"} {
		t.Run(how, func(t *testing.T) {
			meshes := group(t, 4, nil)
			errs := make([]error, 4)
			var work sync.WaitGroup
			for i, m := range meshes {
				if i == 2 {
					continue
				}
				work.Go(func() {
					if i == 3 {
						errs[i] = m.AllReduce([]int{2, 3}, make([]float32, 100_000))
						return
					}
					_, errs[i] = m.Receive(2, KindPlan, 5)
				})
			}
			var want string
			switch how {
			case "fail":
				meshes[2].Fail(2, "out of memory")
				want = "shard 2: out of memory"
			case "close":
				meshes[2].Close()
				want = "shard 2: left the group"
			case "dies":
				die(meshes[2])
				want = "shard 2: "
			case "sequence":
				want = "shard 2: sent plan 6 where 5 was expected"
				// The answer may be here before the send has returned.
				if err := meshes[2].Send(0, KindPlan, 6, nil); err != nil {
					mustMention(t, err, want)
				}
			}
			work.Wait()
			for i, err := range errs {
				if i == 2 {
					continue
				}
				mustMention(t, err, want)
				if v := verdict(t, err); v.Culprit != 2 {
					t.Errorf("shard %d blames %d", i, v.Culprit)
				}
				if again := meshes[i].Send(1-min(i, 1), KindPlan, 0, nil); again == nil || again.Error() != err.Error() {
					t.Errorf("shard %d: then %v, after %v", i, again, err)
				}
			}
		})
	}
}

// die ends all connections as the kernel does for a killed process.
// The mesh itself must not tell the others, as a dead one does not.
func die(m *Mesh) {
	m.once.Do(func() {
		m.cause.Store(&BrokenError{Culprit: m.o.Self, Cause: "dead"})
		close(m.broken)
	})
	for _, p := range m.peers {
		if p != nil {
			p.out.Lock()
			p.queue, p.last = nil, true
			close(p.work)
			p.out.Unlock()
			p.fast.Shut()
			p.bulk.Close()
		}
	}
}

// TestDeathInMidExchange: at any moment of all-reduces under way.
func TestDeathInMidExchange(t *testing.T) {
	for _, n := range []int{3, 3000, 300_000} {
		for round := range 5 {
			t.Run(fmt.Sprintf("%d values, after %d", n, round), func(t *testing.T) {
				meshes := group(t, 3, nil)
				each(meshes, func(i int, m *Mesh) {
					for k := 0; ; k++ {
						if i == 1 && k == round {
							if n > 3 { // in the middle of one
								go die(m)
							} else {
								die(m)
							}
						}
						if err := m.AllReduce([]int{0, 1, 2}, make([]float32, n)); err != nil {
							if v := verdict(t, err); i != 1 && v.Culprit != 1 {
								t.Errorf("shard %d blames shard %d: %v", i, v.Culprit, err)
							}
							return
						}
					}
				})
			})
		}
	}
}

func TestInterrupt(t *testing.T) {
	meshes := group(t, 2, nil)
	done := make(chan error)
	go func() {
		_, err := meshes[0].Receive(1, KindPlan, 0)
		done <- err
	}()
	meshes[0].Interrupt()
	if err := <-done; !errors.Is(err, ErrInterrupted) {
		t.Errorf("got %v", err)
	}
	// It is over then, and nothing is lost.
	if err := meshes[1].Send(0, KindPlan, 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := meshes[0].Receive(1, KindPlan, 0); err != nil || string(b) != "x" {
		t.Errorf("got %q, %v", b, err)
	}
	meshes[0].Close()
	meshes[0].Interrupt() // of a closed one does nothing
}

// TestManInTheMiddle: whatever a middle man does to a byte, no shard believes
// it; both sides get an error, plain and sealed.
func TestManInTheMiddle(t *testing.T) {
	ca := newAuthority(t)
	const size = frame.HeaderSize + 100
	const greeting = int64(len("SKLINK") + 2 + frame.HeaderSize + len(`{"group":"test","epoch":1,"from":0,"to":1,"shards":2,"bulk":false,"half":false}`))
	for _, secure := range []bool{false, true} {
		// A size's place in the fast lane; sealed ones lie somewhere near.
		at := greeting + 5*size
		if secure {
			at += 2000
		}
		where := nettest.Direction{Connection: 0}
		for name, tamper := range map[string]func() nettest.Tamper{
			"flip in a header":   func() nettest.Tamper { return nettest.Flip(where, at+2, 3) },
			"flip in a payload":  func() nettest.Tamper { return nettest.Flip(where, at+frame.HeaderSize+50, 7) },
			"replay a frame":     func() nettest.Tamper { return nettest.Replay(where, at, at+size) },
			"drop a frame":       func() nettest.Tamper { return nettest.Drop(where, at, at+size) },
			"drop a byte":        func() nettest.Tamper { return nettest.Drop(where, at+40, at+41) },
			"exchange frames":    func() nettest.Tamper { return nettest.Reorder(where, at, at+size, at+2*size) },
			"truncate":           func() nettest.Tamper { return nettest.Truncate(where, at+60) },
			"flip in the answer": func() nettest.Tamper { return nettest.Flip(nettest.Direction{Connection: 0, Back: true}, 3, 3) },
		} {
			t.Run(fmt.Sprintf("tls=%v/%s", secure, name), func(t *testing.T) {
				t.Parallel() // some wait for their limit
				listeners, addresses := two(t)
				// Connection 0 is the fast lane: it is let through first.
				r, err := nettest.NewRelay(addresses[1], nettest.Path{Tamper: onlyFast(t, tamper())})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				addresses[1] = r.Addr()
				errs := make([]error, 2)
				var work sync.WaitGroup
				for i, l := range listeners {
					work.Go(func() {
						o := Options{Group: "test", Epoch: 1, Self: i, Addresses: addresses, Limit: 2 * time.Second}
						if secure {
							o.TLS = ca.config(t)
						}
						var m *Mesh
						m, errs[i] = l.Join(context.Background(), o)
						if errs[i] != nil {
							return
						}
						defer m.Close()
						errs[i] = talk(m)
					})
				}
				work.Wait()
				for i, err := range errs {
					if err == nil {
						t.Errorf("shard %d believed it", i)
					}
					t.Logf("shard %d: %v", i, err)
				}
			})
		}
	}
}

// talk sends and checks small frames until the mesh breaks.
func talk(m *Mesh) error {
	other := 1 - m.Self()
	for seq := range uint64(100_000) {
		payload := make([]byte, 100)
		for i := range payload {
			payload[i] = byte(seq) + byte(i)
		}
		if err := m.Send(other, KindActivation, seq, payload); err != nil {
			return err
		}
		got, err := m.Receive(other, KindActivation, seq)
		if err != nil {
			return err
		}
		if string(got) != string(payload) {
			return nil // the caller reports that it was believed
		}
	}
	return nil
}

// onlyFast applies a tamper of connection 0 to each connection, by its own
// offsets: which of the two is the fast lane is decided by a race.
func onlyFast(t *testing.T, tamper nettest.Tamper) nettest.Tamper {
	var mu sync.Mutex // guards first
	first := map[bool]int{}
	return func(d nettest.Direction, offset int64, b []byte) ([]byte, bool) {
		mu.Lock()
		if _, ok := first[d.Back]; !ok && offset > 1500 {
			first[d.Back] = d.Connection // the busy one
		}
		fast, known := first[d.Back]
		mu.Unlock()
		if known && d.Connection != fast {
			return b, false
		}
		d.Connection = 0
		return tamper(d, offset, b)
	}
}
