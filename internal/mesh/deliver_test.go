package mesh

import (
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
