package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/store"
)

// book is the state under test: a list of words, and the commands done.
type book struct {
	Words []string          `json:"words"`
	Done  map[string]string `json:"done"` // command id -> result
	Terms []ids.Session     `json:"terms"`
}

type bookEvent struct {
	Command Command      `json:"command"`
	Word    string       `json:"word,omitempty"`
	Term    *ids.Session `json:"term,omitempty"`
	Refused string       `json:"refused,omitempty"`
}

var bookMachine = Machine[book]{
	Apply: func(b book, e Entry) book {
		var ev bookEvent
		if err := json.Unmarshal(e.Data, &ev); err != nil {
			return b
		}
		b.Words, b.Done, b.Terms = slices.Clone(b.Words), maps.Clone(b.Done), slices.Clone(b.Terms)
		if b.Done == nil {
			b.Done = map[string]string{}
		}
		if ev.Term != nil {
			b.Terms = append(b.Terms, *ev.Term)
			return b
		}
		b.Words = append(b.Words, ev.Word)
		b.Done[ev.Command.ID] = ev.Word
		return b
	},
	Decide: func(b book, c Command, _ ids.Session) ([][]byte, json.RawMessage, error) {
		ev := bookEvent{Command: c}
		if c.Kind == "begin" {
			if err := json.Unmarshal(c.Body, &ev.Term); err != nil {
				return nil, nil, err
			}
		} else {
			if err := json.Unmarshal(c.Body, &ev.Word); err != nil {
				return nil, nil, err
			}
			if _, done := b.Done[c.ID]; done {
				return nil, json.RawMessage(`"again"`), nil
			}
			if ev.Word == "forbidden" {
				return nil, nil, &Refusal{Code: "forbidden", Message: "this word is forbidden"}
			}
		}
		data, err := json.Marshal(ev)
		return [][]byte{data}, json.RawMessage(`"ok"`), err
	},
	Undo: func(lost []Entry) (out []Command) {
		for _, e := range lost {
			var ev bookEvent
			if err := json.Unmarshal(e.Data, &ev); err == nil && ev.Term == nil {
				out = append(out, ev.Command)
			}
		}
		return out
	},
	Begin: func(s ids.Session) Command {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return Command{ID: s.String(), Kind: "begin", Body: b}
	},
	Encode: func(b book) ([]byte, error) { return json.Marshal(b) },
	Decode: func(data []byte) (b book, err error) { return b, json.Unmarshal(data, &b) },
}

func word(id, text string) Command {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return Command{ID: id, Kind: "word", Body: b}
}

// cluster is several replicas on a network in memory.
type cluster struct {
	t     testing.TB
	dir   string
	every uint64
	clock uint64

	mu    sync.Mutex // guards what follows
	nodes map[ids.Node]*member
	stale map[ids.Node]Status // answers that a node gave before its log changed
	cut   map[[2]ids.Node]bool
	conns map[net.Conn][2]ids.Node
}

type member struct {
	*Replica[book]
	log   *store.Log
	wrote chan uint64 // indexes that came to disk, as far as somebody reads them
	disk  *atomic.Pointer[syscall.Errno]
	late  *atomic.Pointer[syscall.Errno]
}

// tapped is a log that tells what was written.
type tapped struct {
	*store.Log
	wrote chan uint64
	disk  *atomic.Pointer[syscall.Errno] // its error; nil: it is well
	late  *atomic.Pointer[syscall.Errno] // the same, after it has written
}

func (l tapped) Append(entries ...Entry) error {
	if no := l.disk.Load(); no != nil {
		return &os.PathError{Op: "write", Path: "cluster.db", Err: *no}
	}
	err := l.Log.Append(entries...)
	for _, e := range entries {
		select {
		case l.wrote <- e.Index:
		default:
		}
	}
	if no := l.late.Load(); err == nil && no != nil {
		err = &os.PathError{Op: "sync", Path: "cluster.db", Err: *no}
	}
	return err
}

func (l tapped) Probe() error {
	if no := l.disk.Load(); no != nil {
		return &os.PathError{Op: "write", Path: "cluster.db", Err: *no}
	}
	return l.Log.Probe()
}

func newCluster(t testing.TB, nodes ...ids.Node) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), every: 1 << 20, nodes: map[ids.Node]*member{}, cut: map[[2]ids.Node]bool{}, conns: map[net.Conn][2]ids.Node{}}
	for _, id := range nodes {
		c.start(id)
	}
	t.Cleanup(func() {
		for _, id := range c.up() {
			c.kill(id)
		}
	})
	return c
}

func (c *cluster) start(id ids.Node) {
	c.t.Helper()
	log, err := store.Open(filepath.Join(c.dir, string(id)))
	if err != nil {
		c.t.Fatal(err)
	}
	wrote, disk, late := make(chan uint64, 16), new(atomic.Pointer[syscall.Errno]), new(atomic.Pointer[syscall.Errno])
	r, err := New(Options[book]{
		Self: id, Machine: bookMachine, Storage: tapped{log, wrote, disk, late}, Transport: link{c, id}, Logger: slog.New(slog.DiscardHandler),
		Gather: 2 * time.Second, Confirm: 10 * time.Second, Keep: 5, Every: c.every,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.nodes[id] = &member{r, log, wrote, disk, late}
	c.mu.Unlock()
	c.members()
}

// kill ends a node; what it had on disk stays.
func (c *cluster) kill(id ids.Node) {
	c.mu.Lock()
	n := c.nodes[id]
	delete(c.nodes, id)
	for conn, ends := range c.conns {
		if ends[0] == id || ends[1] == id {
			_ = conn.Close()
			delete(c.conns, conn)
		}
	}
	c.mu.Unlock()
	n.Stop()
	if err := n.log.Close(); err != nil {
		c.t.Error(err)
	}
	c.members()
}

func (c *cluster) up() []ids.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.nodes))
}

func (c *cluster) node(id ids.Node) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

func (c *cluster) reach(a, b ids.Node) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[a] != nil && c.nodes[b] != nil && !c.cut[[2]ids.Node{a, b}] && !c.cut[[2]ids.Node{b, a}]
}

// split cuts or joins two sides.
func (c *cluster) split(down bool, left, right []ids.Node) {
	c.mu.Lock()
	for _, a := range left {
		for _, b := range right {
			c.cut[[2]ids.Node{a, b}] = down
			for conn, ends := range c.conns {
				if down && (ends == [2]ids.Node{a, b} || ends == [2]ids.Node{b, a}) {
					_ = conn.Close()
					delete(c.conns, conn)
				}
			}
		}
	}
	c.mu.Unlock()
	c.members()
}

// members tells every node whom it reaches.
func (c *cluster) members() {
	for _, a := range c.up() {
		var peers []ids.Node
		for _, b := range c.up() {
			if a != b && c.reach(a, b) {
				peers = append(peers, b)
			}
		}
		c.node(a).SetMembers(peers)
	}
}

// elect makes a node master of those who reach it, in a new session.
func (c *cluster) elect(id ids.Node) ids.Session {
	c.clock++
	s := ids.Session{Master: id, Clock: c.clock}
	var wg sync.WaitGroup
	for _, n := range c.up() {
		if n == id || c.reach(n, id) {
			wg.Go(func() { c.node(n).Lead(s, true, n == id) })
		}
	}
	wg.Wait()
	return s
}

func (c *cluster) submit(at ids.Node, cmd Command) (Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c.node(at).Submit(ctx, cmd)
}

func (c *cluster) must(at ids.Node, cmd Command) Answer {
	c.t.Helper()
	a, err := c.submit(at, cmd)
	if err != nil {
		c.t.Fatalf("command %s at %s: %v", cmd.ID, at, err)
	}
	return a
}

// agree waits until all nodes have the same state, which holds all words.
func (c *cluster) agree(words ...string) book {
	c.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		var hashes []string
		var wait <-chan struct{}
		var state book
		for _, id := range c.up() {
			n := c.node(id)
			changes := n.Changes()
			s, err := n.Status()
			if err != nil {
				c.t.Fatal(err)
			}
			b, _ := n.State()
			missing := slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(b.Words, w) })
			if len(hashes) > 0 && s.Hash != hashes[0] || missing || s.Applied != s.Index {
				wait = changes
			}
			hashes, state = append(hashes, s.Hash), b
		}
		if wait == nil {
			return state
		}
		select {
		case <-wait:
		case <-time.After(50 * time.Millisecond): // another node than the one waited for may have changed
		case <-limit:
			var all bytes.Buffer
			for _, id := range c.up() {
				b, at := c.node(id).State()
				s, _ := c.node(id).Status()
				fmt.Fprintf(&all, "\n%s applied %d of %d: %v", id, at, s.Index, b.Words)
			}
			c.t.Fatalf("the nodes do not agree on %v:%s", words, all.String())
		}
	}
}

// link is a node's Transport.
type link struct {
	c    *cluster
	self ids.Node
}

var errCut = errors.New("connection refused")

func (l link) Status(_ context.Context, node ids.Node) (Status, error) {
	n := l.c.node(node)
	if n == nil || !l.c.reach(l.self, node) {
		return Status{}, errCut
	}
	l.c.mu.Lock()
	old, ok := l.c.stale[node]
	l.c.mu.Unlock()
	if ok {
		return old, nil
	}
	return n.Status()
}

func (l link) Submit(ctx context.Context, node ids.Node, cmd Command) (Answer, error) {
	n := l.c.node(node)
	if n == nil || !l.c.reach(l.self, node) {
		return Answer{}, errCut
	}
	return n.Serve(ctx, cmd)
}

func (l link) Follow(ctx context.Context, node ids.Node, req FollowRequest) (io.ReadWriteCloser, error) {
	n := l.c.node(node)
	if n == nil || !l.c.reach(l.self, node) {
		return nil, errCut
	}
	a, b := net.Pipe()
	l.c.mu.Lock()
	l.c.conns[a] = [2]ids.Node{l.self, node}
	l.c.mu.Unlock()
	go func() {
		defer b.Close()
		if err := n.Follow(context.Background(), req, b); err != nil && strings.Contains(err.Error(), "gap") {
			l.c.t.Errorf("follow: %v", err)
		}
	}()
	return a, nil
}
