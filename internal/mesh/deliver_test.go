package mesh

import (
	"net/http"
	"testing"
	"time"
)

// TestSlowListener: while Changed does not return, any number of changes may
// come: nobody who holds the lock waits, the gossip least of all. All are told
// afterwards, in order.
func TestSlowListener(t *testing.T) {
	const changes = 3000
	block, told := make(chan struct{}), make(chan Event, changes)
	n := start(t, "a", func(o *Options) {
		o.Changed = func(e Event) {
			<-block
			told <- e
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := &peer{member: Member{ID: "b"}, gossip: true}
		for range changes {
			n.mu.Lock()
			p.pulse = !p.pulse
			n.judge(p)
			n.mu.Unlock()
		}
		n.Members()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		close(block)
		t.Fatal("changes of membership wait for who is told of them")
	}
	close(block)
	for i := range changes {
		if e := <-told; e.Member.ID != "b" || e.Alive != (i%2 == 0) {
			t.Fatalf("change %d is %+v", i, e)
		}
	}
}

// TestCallerGivenUp: what a peer asked for ends when the gossip gives it up, and
// not when its connection runs out of time.
func TestCallerGivenUp(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	a := start(t, "a", func(o *Options) {
		o.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
			close(ended)
		})
	})
	b := start(t, "b", joins(a))
	a.expect(t, "b", true)
	b.expect(t, "a", true)
	go func() {
		if resp, err := b.Client().Get("https://a/"); err == nil {
			resp.Body.Close()
		}
	}()
	<-begun
	tick, limit := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for calls := 0; calls == 0; { // until b's pulse, over the same connection, is there
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("b's pulse never came")
		}
		a.mu.Lock()
		if calls = len(a.callers["b"]); calls > 0 {
			a.leave("b")
		}
		a.mu.Unlock()
	}
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		t.Error("the call goes on for a node that is gone")
	}
}
