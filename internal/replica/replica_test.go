package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/ids"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommandsReachEverybody(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	c.elect("a")
	if a := c.must("b", word("1", "one")); a.Copies < 2 || string(a.Result) != `"ok"` {
		t.Errorf("%+v", a)
	}
	c.must("a", word("2", "two"))
	b := c.agree("one", "two")
	if len(b.Terms) != 1 {
		t.Errorf("terms %v", b.Terms)
	}
	// The same command again changes nothing.
	again := c.must("c", word("2", "two"))
	if string(again.Result) != `"again"` {
		t.Errorf("%+v", again)
	}
	var refusal *Refusal
	if _, err := c.submit("c", word("3", "forbidden")); !errors.As(err, &refusal) || refusal.Code != "forbidden" || refusal.Index != again.Index {
		t.Errorf("forbidden: %v, by the state of entry %d, want %d", err, refusal.Index, again.Index)
	}
	if got := c.agree(); len(got.Words) != 2 {
		t.Errorf("words %v", got.Words)
	}
}

func TestAlone(t *testing.T) {
	c := newCluster(t, "a")
	c.elect("a")
	if a := c.must("a", word("1", "one")); a.Copies != 1 {
		t.Errorf("%+v", a)
	}
	c.kill("a")
	c.start("a")
	if b, _ := c.node("a").State(); !slices.Equal(b.Words, []string{"one"}) {
		t.Errorf("after a restart: %v", b.Words)
	}
}

func TestNoMaster(t *testing.T) {
	c := newCluster(t, "a")
	last := ids.Session{Master: "z", Clock: 1}
	c.node("a").Lead(last, false, false)
	_, err := c.submit("a", word("1", "one"))
	var none *NoMasterError
	if !errors.As(err, &none) || none.Last != last || !strings.Contains(err.Error(), "--no-master") {
		t.Fatal(err)
	}
}

// TestOneDiskIsNotEnough: while the other live node does not confirm, a
// command is not acknowledged; when that node is declared dead, it is.
func TestOneDiskIsNotEnough(t *testing.T) {
	c := newCluster(t, "a", "b")
	c.clock++
	s := ids.Session{Master: "a", Clock: c.clock}
	c.node("a").Lead(s, true, true) // b does not follow
	got := make(chan error, 1)
	go func() {
		_, err := c.submit("a", word("1", "one"))
		got <- err
	}()
	for i := range c.node("a").wrote { // the term's beginning, then the command
		if i == 2 {
			break
		}
	}
	select {
	case err := <-got:
		t.Fatalf("acknowledged with one copy of two nodes: %v", err)
	default:
	}
	if b, _ := c.node("a").State(); len(b.Words) > 0 {
		t.Error("applied before it was safe")
	}
	c.node("a").SetMembers(nil)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk, and one that became read-only: a command that can't be written
// fails at once with the reason, and nothing of it stays; with room again the
// next one is taken. A follower whose disk is so confirms nothing, and the others
// go on.
func TestFullDisk(t *testing.T) {
	for _, no := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS} {
		t.Run(no.Error(), func(t *testing.T) { badDisk(t, no) })
	}
}

func badDisk(t *testing.T, no syscall.Errno) {
	c := newCluster(t, "a", "b", "c")
	c.elect("a")
	c.must("b", word("1", "one"))
	c.node("a").disk.Store(&no)
	for _, at := range []ids.Node{"a", "b"} {
		if _, err := c.submit(at, word("2", "two")); err == nil || !strings.Contains(err.Error(), no.Error()) {
			t.Errorf("at %s: %v", at, err)
		}
	}
	c.agree("one")
	c.node("a").disk.Store(nil)
	c.must("b", word("3", "three"))
	c.agree("one", "three")

	c.node("c").disk.Store(&no)
	if a := c.must("a", word("4", "four")); a.Copies != 2 {
		t.Errorf("%+v", a)
	}
	for c.node("c").Failed() == nil {
		runtime.Gosched()
	}
	if !errors.Is(c.node("c").Failed(), no) {
		t.Errorf("%v", c.node("c").Failed())
	}
	if s, _ := c.node("c").State(); slices.Contains(s.Words, "four") {
		t.Error("it applied what it could not write")
	}
	// With room again it takes what it missed, by itself.
	c.node("c").disk.Store(nil)
	c.agree("one", "three", "four")
	if err := c.node("c").Failed(); err != nil {
		t.Error(err)
	}
}

func TestNewMasterTakesTheFreshestLog(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	c.elect("a")
	c.split(true, []ids.Node{"c"}, []ids.Node{"a", "b"})
	c.must("a", word("1", "one")) // on a and b
	c.kill("a")
	c.split(false, []ids.Node{"c"}, []ids.Node{"a", "b"})
	c.elect("c") // the one that missed it
	c.must("b", word("2", "two"))
	if b := c.agree("one", "two"); !slices.Equal(b.Words, []string{"one", "two"}) {
		t.Errorf("words %v", b.Words)
	}
	c.start("a")
	c.elect("c")
	c.agree("one", "two")
}

// TestNewerTermGivesWay: an election that did not know of the newest term makes
// a session that is older than it. The log of that term is not taken, since
// nothing could be written behind it; its commands are offered.
func TestNewerTermGivesWay(t *testing.T) {
	c := newCluster(t, "a", "b")
	c.elect("a")
	c.must("a", word("0", "before"))
	c.agree("before")
	c.split(true, []ids.Node{"a"}, []ids.Node{"b"})
	c.clock = 8
	c.elect("b")
	c.must("b", word("1", "newer"))
	c.node("a").Lead(ids.Session{}, false, false)
	c.node("b").Lead(ids.Session{}, false, false)
	c.split(false, []ids.Node{"a"}, []ids.Node{"b"})
	c.clock = 4
	c.elect("a")
	c.must("a", word("2", "older"))
	b := c.agree("before", "newer", "older")
	for i := range b.Terms[1:] {
		if b.Terms[i].Compare(b.Terms[i+1]) > 0 {
			t.Errorf("sessions go back: %v", b.Terms)
		}
	}
}

// TestNewerTermComesBeforeTheFetch: a log that was old when its node was asked,
// and has got entries of a newer term when it is read, gives way too. A master
// that took it would have every command refused.
func TestNewerTermComesBeforeTheFetch(t *testing.T) {
	c := newCluster(t, "a", "b")
	c.elect("a")
	c.must("a", word("0", "before"))
	c.agree("before")
	c.split(true, []ids.Node{"a"}, []ids.Node{"b"})
	c.clock = 2
	c.elect("b")
	c.must("b", word("1", "old"))
	old, err := c.node("b").Status()
	if err != nil {
		t.Fatal(err)
	}
	c.stale = map[ids.Node]Status{"b": old}
	c.clock = 8
	c.elect("b")
	c.must("b", word("2", "newer"))
	c.node("a").Lead(ids.Session{}, false, false)
	c.node("b").Lead(ids.Session{}, false, false)
	c.split(false, []ids.Node{"a"}, []ids.Node{"b"})
	c.clock = 4
	c.elect("a")
	b := c.agree("before", "old", "newer")
	for i := range b.Terms[1:] {
		if b.Terms[i].Compare(b.Terms[i+1]) > 0 {
			t.Errorf("sessions go back: %v", b.Terms)
		}
	}
}

// TestStreamEndsWhenTheLogGivesWay: what a slow reader is sent is of one log,
// though its node leads no more and took another's meanwhile, which is longer.
func TestStreamEndsWhenTheLogGivesWay(t *testing.T) {
	for _, fetch := range []bool{false, true} {
		c := newCluster(t, "a", "b")
		c.split(true, []ids.Node{"a"}, []ids.Node{"b"})
		first := c.elect("a")
		n := 300 // a stream sends 256 at once
		for i := range n {
			c.must("a", word(fmt.Sprint("a", i), "a"))
		}
		c.elect("b")
		for i := range n + 50 {
			c.must("b", word(fmt.Sprint("b", i), "b"))
		}
		s, err := link{c, "a"}.Follow(t.Context(), "a", FollowRequest{From: "c", Session: first, Fetch: fetch})
		if err != nil {
			t.Fatal(err)
		}
		in := newFrames(s, maxFrame)
		var f frame
		if err := in.decode(&f); err != nil || f.Match == nil {
			t.Fatalf("%+v %v", f, err)
		}
		c.split(false, []ids.Node{"a"}, []ids.Node{"b"})
		c.elect("b")
		c.agree()
		for {
			var f frame
			if in.decode(&f) != nil {
				break
			}
			for _, e := range f.Entries {
				if e.Session != first {
					t.Fatalf("fetch %v: entry %d is of %v, in the middle of the log of %v", fetch, e.Index, e.Session, first)
				}
			}
		}
		_ = s.Close()
	}
}

func TestHalvesMeet(t *testing.T) {
	c := newCluster(t, "a", "b", "c", "d")
	c.elect("a")
	c.must("a", word("0", "before"))
	c.agree("before")
	left, right := []ids.Node{"a", "b"}, []ids.Node{"c", "d"}
	c.split(true, left, right)
	c.elect("a")
	c.elect("c")
	c.must("b", word("l1", "left"))
	c.must("b", word("both", "both"))
	c.must("d", word("r1", "right"))
	c.must("d", word("both", "both"))
	c.split(false, left, right)
	c.elect("c")
	b := c.agree("before", "left", "right", "both")
	if n := len(b.Words); n != 4 {
		t.Errorf("%d words: %v", n, b.Words)
	}
}

func TestStaleMasterIsFenced(t *testing.T) {
	c := newCluster(t, "a", "b")
	old := c.elect("a")
	c.must("a", word("1", "one"))
	c.elect("b")
	r, err := link{c, "b"}.Follow(t.Context(), "a", FollowRequest{From: "b", Session: old})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 200)
	n, err := r.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "not master in session") {
		t.Fatalf("%s %v", buf[:n], err)
	}
	if _, err := c.node("a").Serve(t.Context(), word("2", "two")); err == nil {
		t.Error("an old master takes commands")
	}
}

func TestSnapshotsBringLateNodesUp(t *testing.T) {
	c := newCluster(t)
	c.every = 10
	c.start("a")
	c.start("b")
	c.elect("a")
	var words []string
	for i := range 100 {
		w := fmt.Sprint("w", i)
		words = append(words, w)
		c.must("a", word(w, w))
	}
	c.start("c")
	c.elect("a")
	if b := c.agree(words...); !slices.Equal(b.Words, words) {
		t.Errorf("words %v", b.Words)
	}
	c.mu.Lock()
	first := c.nodes["a"].Replica.log.first
	c.mu.Unlock()
	if first < 80 {
		t.Errorf("the log begins at %d and was not compacted", first)
	}
	for _, id := range []ids.Node{"a", "b", "c"} {
		c.kill(id)
		c.start(id)
		if b, _ := c.node(id).State(); !slices.Equal(b.Words, words) {
			t.Errorf("%s after a restart: %v", id, b.Words)
		}
	}
}

// TestNothingAcknowledgedIsLost kills one node after the other, masters too,
// while commands come in: what was acknowledged is there in the end, once.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	for seed := range uint64(rounds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { faults(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func faults(t *testing.T, rng *rand.Rand) {
	all := []ids.Node{"a", "b", "c"}
	c := newCluster(t)
	c.every = 7
	for _, id := range all {
		c.start(id)
	}
	c.elect("a")
	var acked []string
	for i := range 8 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		targets := c.up()
		nodes := map[ids.Node]*member{}
		for _, id := range targets {
			nodes[id] = c.node(id)
		}
		for k := range 6 {
			at := nodes[targets[rng.IntN(len(targets))]]
			w := fmt.Sprintf("%d.%d", i, k)
			wg.Go(func() {
				if _, err := at.Submit(t.Context(), word(w, w)); err == nil {
					mu.Lock()
					acked = append(acked, w)
					mu.Unlock()
				}
			})
		}
		victim := targets[rng.IntN(len(targets))]
		c.kill(victim) // in the middle of it
		left := c.up()
		c.elect(left[rng.IntN(len(left))])
		wg.Wait()
		c.start(victim)
		c.elect(c.up()[rng.IntN(3)])
		c.agree(acked...) // a second node may go only when there are two copies again
	}
	b := c.agree(acked...)
	seen := map[string]bool{}
	for _, w := range b.Words {
		if seen[w] {
			t.Errorf("%s is there twice: %v", w, b.Words)
		}
		seen[w] = true
	}
}

func TestMatch(t *testing.T) {
	s := func(clock, last uint64) Run { return Run{ids.Session{Master: "m", Clock: clock}, last} }
	for _, tc := range []struct {
		a, b []Run
		want uint64
	}{
		{nil, []Run{s(1, 5)}, 0},
		{[]Run{s(1, 5)}, []Run{s(1, 5)}, 5},
		{[]Run{s(1, 5), s(2, 9)}, []Run{s(1, 7)}, 5},
		{[]Run{s(1, 5), s(3, 9)}, []Run{s(1, 3), s(2, 9)}, 3},
		{[]Run{s(1, 5), s(2, 9)}, []Run{s(1, 5), s(2, 7), s(4, 8)}, 7},
		{[]Run{s(1, 5)}, []Run{s(2, 5)}, 0},
	} {
		if got := match(tc.a, tc.b); got != tc.want {
			t.Errorf("%v and %v: %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

// TestMasterThatDoesNotKnowYet: nodes learn the outcome of an election one after
// the other; a command that is early is no less carried out.
func TestMasterThatDoesNotKnowYet(t *testing.T) {
	c := newCluster(t, "a", "b")
	c.elect("a")
	c.must("b", word("1", "one"))
	c.clock++
	s := ids.Session{Master: "b", Clock: c.clock}
	c.node("a").Lead(s, true, false) // b takes a for the master still
	got := make(chan error, 1)
	go func() {
		_, err := c.submit("a", word("2", "two"))
		got <- err
	}()
	for range 3 { // b was asked, and says that it does not lead
		var none *NoMasterError
		if _, err := c.node("b").Serve(t.Context(), word("3", "three")); !errors.As(err, &none) {
			t.Fatalf("%v", err)
		}
	}
	c.node("b").Lead(s, true, true)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	c.agree("one", "two")
}
