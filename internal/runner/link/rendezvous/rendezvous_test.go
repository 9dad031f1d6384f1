package rendezvous

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/runner/link/frame"
)

// FuzzGreeting: any greeting is judged without harm.
func FuzzGreeting(f *testing.F) {
	o := Party{Group: "test", Epoch: 1, Self: 1, Addresses: make([]string, 2)}
	f.Add(appendGreeting(nil, frame.Hello, marshal(hello{Group: "test", Epoch: 1, To: 1, Shards: 2})))
	f.Add(appendGreeting(nil, frame.Refusal, marshal(refusal{Cause: "no"})))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01"))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readGreeting(bytes.NewReader(b))
		if err != nil || got.Kind != frame.Hello {
			return
		}
		var h hello
		if err := json.Unmarshal(got.Payload, &h); err != nil {
			return
		}
		if h.judge(o) == nil {
			want := hello{Group: "test", Epoch: 1, From: 0, To: 1, Shards: 2, Bulk: h.Bulk}
			if diff := cmp.Diff(want, h); diff != "" {
				t.Errorf("a stranger is welcome: %s", diff)
			}
		}
	})
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

// TestMeet: each lane of one side is that lane of the other, in one epoch after
// another; who left an epoch unfinished does not keep the others from the next.
func TestMeet(t *testing.T) {
	listeners, addresses := two(t)
	gone, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("enough"))
	for self, l := range listeners {
		if _, err := l.Meet(gone, Party{Group: "test", Self: self, Addresses: addresses}); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("shard %d, told to stop: %v", self, err)
		}
	}
	for epoch := uint64(1); epoch <= 2; epoch++ {
		pairs, errs := make([][]Pair, 2), make([]error, 2)
		var work sync.WaitGroup
		for self, l := range listeners {
			work.Go(func() {
				pairs[self], errs[self] = l.Meet(context.Background(), Party{Group: "test", Epoch: epoch, Self: self, Addresses: addresses})
			})
		}
		work.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		there, here := pairs[0][1], pairs[1][0]
		for name, ends := range map[string][2]net.Conn{"fast": {there.Fast, here.Fast}, "bulk": {there.Bulk, here.Bulk}} {
			if _, err := ends[0].Write([]byte(name)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4)
			if _, err := io.ReadFull(ends[1], b); err != nil || string(b) != name {
				t.Errorf("epoch %d: the %s lane brings %q, %v", epoch, name, b, err)
			}
		}
		there.Close()
		here.Close()
	}
}

// TestJudge: who does not belong here is told why, and whether it may try again.
func TestJudge(t *testing.T) {
	party := Party{Group: "test", Epoch: 3, Self: 1, Addresses: make([]string, 2)}
	good := hello{Group: "test", Epoch: 3, From: 0, To: 1, Shards: 2}
	if err := good.judge(party); err != nil {
		t.Fatalf("a shard of the group is refused: %v", err)
	}
	for _, c := range []struct {
		change func(h *hello)
		want   string
		early  bool
	}{
		{func(h *hello) { h.Group = strings.Repeat("x", 100) }, `of group "test", not of "xxx`, false},
		{func(h *hello) { h.Epoch = 2 }, "epoch 2 of the group is over, this is 3", false},
		{func(h *hello) { h.Epoch = 4 }, "still in epoch 3, not in 4", true},
		{func(h *hello) { h.To = 0 }, "addresses are mixed up", false},
		{func(h *hello) { h.Shards = 3 }, "this group has 2 shards, not 3", false},
		{func(h *hello) { h.From = 1 }, "shard 1 does not call shard 1", false},
		{func(h *hello) { h.From = -1 }, "shard -1 does not call shard 1", false},
		{func(h *hello) { h.Half = true }, "give all shards the same precision", false},
	} {
		h := good
		c.change(&h)
		err := h.judge(party)
		if err == nil || !strings.Contains(err.Error(), c.want) || early(err) != c.early {
			t.Errorf("%+v: %v, early %v; want %q, %v", h, err, early(err), c.want, c.early)
		}
	}
}

// TestOtherVersion: both learn which versions they have.
func TestOtherVersion(t *testing.T) {
	listeners, addresses := two(t)
	heard := make(chan string, 1)
	go func() {
		defer close(heard)
		c, err := net.Dial("tcp", addresses[1])
		if err != nil {
			return
		}
		defer c.Close()
		b := appendGreeting(nil, frame.Hello, []byte("{}"))
		binary.LittleEndian.PutUint16(b[len(magic):], frame.Version+1)
		if _, err := c.Write(b); err != nil {
			return
		}
		f, err := readGreeting(c)
		if err == nil {
			heard <- string(f.Payload)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := listeners[1].Meet(ctx, Party{Group: "test", Epoch: 1, Self: 1, Addresses: addresses})
	want := "speaks version 2 of the link protocol, this one 1; use one release"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the called one says %v", err)
	}
	if got := <-heard; !strings.Contains(got, want) {
		t.Errorf("the caller hears %q", got)
	}
}
