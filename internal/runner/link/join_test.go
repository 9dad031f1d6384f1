package link

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/nettest"
)

func mustMention(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one about %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

// two gives two listeners and their addresses.
func two(t *testing.T) ([]*Listener, []string) {
	t.Helper()
	var listeners []*Listener
	var addresses []string
	for range 2 {
		l, err := Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		listeners, addresses = append(listeners, l), append(addresses, l.Addr())
	}
	return listeners, addresses
}

// TestStrangers: two shards that do not belong together both say why.
func TestStrangers(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	for _, c := range []struct {
		name        string
		caller      func(*Options) // of shard 0, which calls
		called      func(*Options) // of shard 1
		says, hears string         // what shard 0 reports, what shard 1 does
	}{
		{name: "another group", caller: func(o *Options) { o.Group = "red" }, says: `a shard of group "test", not of "red"`, hears: `not of "red"`},
		{name: "an old epoch", called: func(o *Options) { o.Epoch = 5 }, says: "epoch 1 of the group is over, this is 5", hears: "epoch 1 of the group is over"},
		{name: "a new epoch", caller: func(o *Options) { o.Epoch = 5 }, says: "still in epoch 1, not in 5", hears: "still in epoch 1, not in 5"},
		{name: "another size", called: func(o *Options) { o.Addresses = append(o.Addresses[:2:2], o.Addresses[0]) }, says: "this group has 3 shards, not 2", hears: "this group has 3 shards, not 2"},
		{name: "another precision", called: func(o *Options) { o.HalfPrecision = true }, says: "one side sends f16", hears: "one side sends f16"},
		{name: "TLS at one", caller: func(o *Options) { o.TLS = ca.config(t) }, says: "TLS: the other side speaks none", hears: "the other side speaks TLS"},
		{name: "TLS at the other", called: func(o *Options) { o.TLS = ca.config(t) }, says: "it speaks TLS only", hears: "TLS: the other side speaks none"},
		{name: "another authority", caller: func(o *Options) { o.TLS = ca.config(t) }, called: func(o *Options) { o.TLS = other.config(t) }, says: "unknown authority", hears: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // they wait for their limit
			listeners, addresses := two(t)
			errs := make([]error, 2)
			var work sync.WaitGroup
			for i, change := range []func(*Options){c.caller, c.called} {
				work.Go(func() {
					o := Options{Group: "test", Epoch: 1, Self: i, Addresses: addresses, Limit: time.Second}
					if change != nil {
						change(&o)
					}
					var m *Mesh
					if m, errs[i] = listeners[i].Join(context.Background(), o); errs[i] == nil {
						m.Close()
					}
				})
			}
			work.Wait()
			mustMention(t, errs[0], "shard 1 at "+addresses[1], c.says)
			mustMention(t, errs[1], "no connection with shard 0", c.hears)
		})
	}
}

func TestOptions(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for want, o := range map[string]Options{
		"needs a name":           {Addresses: []string{"a"}},
		"is not among":           {Group: "g", Self: 1, Addresses: []string{"a"}},
		"at most 256":            {Group: "g", Addresses: make([]string, 257)},
		"at least twice as long": {Group: "g", Addresses: []string{"a"}, Beat: time.Second},
	} {
		_, err := l.Join(context.Background(), o)
		mustMention(t, err, want)
	}
	if _, err := Listen("no such host:1"); err == nil {
		t.Error("listens on nonsense")
	}
	if _, err := NewTLS("", "", ""); err == nil {
		t.Error("an empty identity is accepted")
	}
}

// TestNoShard: somebody else's connections, silent or loud, do no harm.
func TestNoShard(t *testing.T) {
	listeners, addresses := two(t)
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", "SK"} {
		c, err := net.Dial("tcp", addresses[1])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range joinAll(t, listeners, addresses, nil) {
		if err := m.Err(); err != nil {
			t.Errorf("shard %d: %v", i, err)
		}
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	listeners, addresses := two(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("enough"))
	for i, l := range listeners {
		_, err := l.Join(ctx, Options{Group: "test", Self: i, Addresses: addresses})
		mustMention(t, err, "enough")
	}
}

func TestNobodyThere(t *testing.T) {
	listeners, addresses := two(t)
	listeners[1].Close()
	_, err := listeners[0].Join(context.Background(), Options{Group: "test", Addresses: addresses})
	mustMention(t, err, "shard 1 at "+addresses[1])
}

// TestEpochs: the same listeners carry one mesh after another; who comes first
// into a new epoch waits for the others.
func TestEpochs(t *testing.T) {
	listeners, addresses := two(t)
	for epoch := uint64(1); epoch <= 3; epoch++ {
		meshes := joinAll(t, listeners, addresses, func(o *Options) { o.Epoch = epoch })
		each(meshes, func(i int, m *Mesh) {
			data := []float32{float32(i), float32(epoch)}
			if err := m.AllReduce([]int{0, 1}, data); err != nil || data[0] != 1 {
				t.Errorf("epoch %d: %v, %v", epoch, data, err)
			}
		})
		meshes[epoch%2].Fail(1, "a test")
		closeMeshes(meshes)
	}
}

// TestEarlyCaller: shard 1 still joins an older epoch when shard 0 calls.
func TestEarlyCaller(t *testing.T) {
	listeners, addresses := two(t)
	ctx, cancel := context.WithCancel(context.Background())
	old := make(chan error, 1)
	go func() {
		_, err := listeners[1].Join(ctx, Options{Group: "test", Epoch: 1, Self: 1, Addresses: addresses, Limit: time.Minute})
		old <- err
	}()
	first := make(chan *Mesh, 1)
	go func() {
		defer close(first)
		m, err := listeners[0].Join(context.Background(), Options{Group: "test", Epoch: 2, Addresses: addresses, Limit: time.Minute, Silence: time.Minute})
		if err != nil {
			t.Error(err)
			return
		}
		first <- m
	}()
	cancel()
	if err := <-old; err == nil {
		t.Error("a cancelled join succeeded")
	}
	m, err := listeners[1].Join(context.Background(), Options{Group: "test", Epoch: 2, Self: 1, Addresses: addresses, Limit: time.Minute, Silence: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if other := <-first; other != nil {
		other.Close()
	}
}

// TestLostGreeting: the first call ends before it was understood, as when the
// called one gives up an older epoch just then.
func TestLostGreeting(t *testing.T) {
	listeners, addresses := two(t)
	r, err := nettest.NewRelay(addresses[1], nettest.Path{Tamper: nettest.Truncate(nettest.Direction{Connection: 0}, 3)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	addresses[1] = r.Addr()
	for i, m := range joinAll(t, listeners, addresses, nil) {
		if err := m.Err(); err != nil {
			t.Errorf("shard %d: %v", i, err)
		}
		defer m.Close()
	}
}
