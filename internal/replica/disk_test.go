package replica

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skein-run/skein/internal/ids"
)

// TestFullFollowerOfTwo: the only other node can't write; once that is known its
// disk is waited for no longer, and the answer says so. With room it has everything,
// and counts as soon as it writes, though it is still told of as unfit.
func TestFullFollowerOfTwo(t *testing.T) {
	c := newCluster(t, "a", "b")
	c.elect("a")
	c.must("a", word("1", "one"))
	c.agree("one")
	full := syscall.ENOSPC
	c.node("b").disk.Store(&full)
	got := make(chan error, 1)
	go func() {
		a, err := c.submit("a", word("2", "two"))
		if err == nil && a.Copies != 1 {
			err = errors.New("more copies are told than there are")
		}
		got <- err
	}()
	for changes := c.node("b").Changes(); c.node("b").Failed() == nil; changes = c.node("b").Changes() {
		<-changes
	}
	select {
	case err := <-got:
		t.Fatalf("answered before it was known that the other node can't write: %v", err)
	default:
	}
	c.node("a").SetUnfit([]ids.Node{"b"})
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	c.node("b").disk.Store(nil)
	c.agree("one", "two")
	if a := c.must("a", word("3", "three")); a.Copies != 2 {
		t.Errorf("%+v", a)
	}
}

// TestCommandFollowsTheLead: a command that the master can't write is done by who
// takes over within moments; nobody is told no.
func TestCommandFollowsTheLead(t *testing.T) {
	for _, at := range []ids.Node{"a", "b", "c"} {
		c := newCluster(t, "a", "b", "c")
		c.elect("a")
		c.must("b", word("1", "one"))
		full := syscall.ENOSPC
		c.node("a").disk.Store(&full)
		got := make(chan error, 1)
		go func() {
			_, err := c.submit(at, word("2", "two"))
			got <- err
		}()
		for changes := c.node("a").Changes(); c.node("a").Failed() == nil; changes = c.node("a").Changes() {
			<-changes
		}
		c.elect("b")
		if err := <-got; err != nil {
			t.Errorf("at %s: %v", at, err)
		}
		if _, err := c.submit("c", word("3", "three")); err != nil {
			t.Errorf("the new master: %v", err)
		}
		c.node("a").disk.Store(nil)
		if b := c.agree("one", "two", "three"); len(b.Words) != 3 {
			t.Errorf("words %v", b.Words)
		}
	}
}

// TestElectedWithAFullDisk: where nobody can write, who is elected refuses with
// the reason, at once after the first time, and begins its term when it can.
func TestElectedWithAFullDisk(t *testing.T) {
	c := newCluster(t, "a", "b")
	c.elect("a")
	c.must("a", word("1", "one"))
	c.agree("one")
	full := syscall.ENOSPC
	c.node("a").disk.Store(&full)
	c.node("b").disk.Store(&full)
	s := c.elect("b")
	for range 2 {
		var no *UnwritableError
		if _, err := c.submit("a", word("2", "two")); !errors.As(err, &no) || no.Node != "b" || !strings.Contains(err.Error(), full.Error()) {
			t.Fatalf("%v", err)
		}
	}
	c.node("b").disk.Store(nil)
	c.node("b").SetUnfit([]ids.Node{"a"})
	c.must("b", word("3", "three"))
	c.node("a").disk.Store(nil)
	if b := c.agree("one", "three"); slices.Contains(b.Words, "two") || !slices.Contains(b.Terms, s) {
		t.Errorf("%+v", b)
	}
}

// TestWrittenThoughItFailed: an entry that is on the disk though writing it gave an
// error is not forgotten, and what comes next follows it.
func TestWrittenThoughItFailed(t *testing.T) {
	c := newCluster(t, "a")
	c.elect("a")
	c.must("a", word("1", "one"))
	bad := syscall.EIO
	c.node("a").late.Store(&bad)
	if _, err := c.submit("a", word("2", "two")); !errors.Is(err, bad) {
		t.Fatalf("%v", err)
	}
	c.node("a").late.Store(nil)
	c.must("a", word("3", "three"))
	c.must("a", word("2", "two")) // again: it is done already
	if b := c.agree("one", "two", "three"); !slices.Equal(b.Words, []string{"one", "two", "three"}) {
		t.Errorf("words %v", b.Words)
	}
}
