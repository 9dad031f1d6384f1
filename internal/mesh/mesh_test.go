package mesh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/ids"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a Mesh under test with what it was told.
type node struct {
	*Mesh
	events chan Event
	seen   []Event // taken from events and not yet expected
	log    *lines
}

// lines is a log that a test can wait for.
type lines struct {
	mu    sync.Mutex // guards text and asked
	text  bytes.Buffer
	asked []wait
}

type wait struct {
	what string
	seen chan struct{}
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(b)
	for i := 0; i < len(l.asked); i++ {
		if strings.Contains(l.text.String(), l.asked[i].what) {
			close(l.asked[i].seen)
			l.asked = append(l.asked[:i], l.asked[i+1:]...)
			i--
		}
	}
	return len(b), nil
}

// expect waits until the log says what.
func (l *lines) expect(t *testing.T, what string) {
	t.Helper()
	l.mu.Lock()
	w := wait{what, make(chan struct{})}
	if strings.Contains(l.text.String(), what) {
		close(w.seen)
	} else {
		l.asked = append(l.asked, w)
	}
	l.mu.Unlock()
	select {
	case <-w.seen:
	case <-time.After(20 * time.Second):
		l.mu.Lock()
		defer l.mu.Unlock()
		t.Fatalf("the log does not say %q:\n%s", what, l.text.String())
	}
}

func start(t *testing.T, id ids.Node, change func(*Options)) *node {
	t.Helper()
	n := &node{events: make(chan Event, 100), log: &lines{}}
	o := Options{
		ID: id, Namespace: "test", Secret: "s3cret", Version: "1.0", Host: "127.0.0.1",
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s called by %s", id, Caller(r))
		}),
		Changed: func(e Event) { n.events <- e },
		Logger:  slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&o)
	}
	m, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	n.Mesh = m
	t.Cleanup(n.stop(t))
	return n
}

func (n *node) stop(t *testing.T) func() {
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
}

func (n *node) addr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.GossipPort()))
}

// joins lets a node join others.
func joins(others ...*node) func(*Options) {
	return func(o *Options) {
		for _, n := range others {
			o.Join = append(o.Join, n.addr())
		}
	}
}

// expect waits for an event about a node.
func (n *node) expect(t *testing.T, id ids.Node, alive bool) Event {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		for i, e := range n.seen {
			if e.Member.ID == id && e.Alive == alive {
				n.seen = slices.Delete(n.seen, i, i+1)
				return e
			}
		}
		select {
		case e := <-n.events:
			n.seen = append(n.seen, e)
		case <-limit:
			t.Fatalf("%s was not told that %s alive=%v", n.opts.ID, id, alive)
		}
	}
}

func get(t *testing.T, from *node, to ids.Node) string {
	t.Helper()
	resp, err := from.Client().Get("https://" + string(to) + "/hello")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ProtoMajor != 2 {
		t.Errorf("called over %s", resp.Proto)
	}
	return string(b)
}

func TestJoinCallLeave(t *testing.T) {
	a := start(t, "a", nil)
	b := start(t, "b", joins(a))
	c := start(t, "c", joins(b))
	for _, n := range []*node{a, b, c} {
		for _, id := range []ids.Node{"a", "b", "c"} {
			if id != n.opts.ID {
				n.expect(t, id, true)
			}
		}
	}
	if got := get(t, a, "c"); got != "c called by a" {
		t.Error(got)
	}
	if _, err := a.Client().Get("https://nobody/"); err == nil || !strings.Contains(err.Error(), "not a member") {
		t.Errorf("calling a stranger: %v", err)
	}
	b.stop(t)()
	a.expect(t, "b", false)
	c.expect(t, "b", false)
	if got := a.Members(); len(got) != 1 || got[0].ID != "c" {
		t.Errorf("a sees %v", got)
	}
}

// TestKilled ends a node without a good-bye: the pulse tells it, long before
// the gossip could.
func TestKilled(t *testing.T) {
	a := start(t, "a", nil)
	b := start(t, "b", joins(a))
	a.expect(t, "b", true)
	b.expect(t, "a", true)
	get(t, a, "b")
	b.log.expect(t, "") // it runs
	kill(t, b)
	a.expect(t, "b", false)
	a.mu.Lock()
	gossip := a.peers["b"].gossip
	a.mu.Unlock()
	if !gossip {
		t.Error("the gossip was first; the pulse did not notice")
	}
	// It comes back at other ports, as another start, and finds a by its memory.
	again := start(t, "b", func(o *Options) { o.Known = []string{a.addr()} })
	if e := a.expect(t, "b", true); e.Member.Boot != again.Boot() {
		t.Errorf("boot %s, the new one is %s", e.Member.Boot, again.Boot())
	}
	again.expect(t, "a", true)
	if got := get(t, a, "b"); got != "b called by a" {
		t.Error(got)
	}
}

// TestGivenUp: over a cable that was cut connections stay, and calls in them
// would hang when it is back.
func TestGivenUp(t *testing.T) {
	begun := make(chan struct{})
	a := start(t, "a", nil)
	b := start(t, "b", func(o *Options) {
		joins(a)(o)
		o.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
		})
	})
	a.expect(t, "b", true)
	b.expect(t, "a", true)
	ended := make(chan error, 1)
	go func() {
		resp, err := a.Client().Get("https://b/")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		ended <- err
	}()
	<-begun
	a.mu.Lock()
	a.leave("b")
	a.mu.Unlock()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the call was answered")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the call hangs though the peer was given up")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if left := len(a.conns["b"]); left > 1 { // the pulse may have called again
		t.Errorf("%d connections are kept in mind", left)
	}
}

// kill closes a node's sockets as the end of its process would.
func kill(t *testing.T, n *node) {
	t.Helper()
	n.mu.Lock()
	n.stopped = true
	n.mu.Unlock()
	if err := n.list.Shutdown(); err != nil {
		t.Error(err)
	}
	n.cancel()
	if err := n.server.Close(); err != nil {
		t.Error(err)
	}
	n.client.CloseIdleConnections()
	n.wg.Wait()
}

func TestStrangers(t *testing.T) {
	a := start(t, "a", nil)
	for name, change := range map[string]func(*Options){
		"another secret":    func(o *Options) { o.Secret = "other" },
		"no secret":         func(o *Options) { o.Secret = "" },
		"another namespace": func(o *Options) { o.Namespace = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "s", func(o *Options) { change(o); joins(a)(o) })
			s.log.expect(t, "another --secret or --namespace")
			if got := len(s.Members()) + len(a.Members()); got != 0 {
				t.Errorf("%d members", got)
			}
			// Its certificate is of no use either.
			s.mu.Lock()
			s.peers["a"] = &peer{member: Member{ID: "a", Host: "127.0.0.1", Peer: a.Port()}}
			s.mu.Unlock()
			if resp, err := s.Client().Get("https://a/hello"); err == nil {
				resp.Body.Close()
				t.Error("a stranger's call was answered")
			}
		})
	}
	a.log.expect(t, "peer call failed")
}

func TestOtherProtocolIsRefusedByName(t *testing.T) {
	a := start(t, "a", nil)
	b := start(t, "b", nil)
	g := (*gossip)(a.Mesh)
	n := *b.list.LocalNode()
	n.Meta = []byte(`{"p":99,"v":"9.9","b":"x","t":1}`)
	for range 2 {
		if err := g.NotifyAlive(&n); err == nil || !strings.Contains(err.Error(), "9.9 with protocol 99") {
			t.Fatal(err)
		}
	}
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	if got := strings.Count(a.log.text.String(), "run the same version on both"); got != 1 {
		t.Errorf("said %d times:\n%s", got, a.log.text.String())
	}
}

func TestRemembersPeers(t *testing.T) {
	a := start(t, "a", nil)
	remembered := make(chan []string, 10)
	start(t, "b", func(o *Options) {
		joins(a)(o)
		o.Remember = func(addrs []string) { remembered <- addrs }
	})
	select {
	case got := <-remembered:
		if len(got) != 1 || got[0] != a.addr() {
			t.Errorf("remembered %v, a is at %s", got, a.addr())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was remembered")
	}
}

func TestBadOptions(t *testing.T) {
	ok := Options{
		ID: "a", Host: "127.0.0.1", Handler: http.NotFoundHandler(), Changed: func(Event) {}, Logger: slog.New(slog.DiscardHandler),
	}
	for want, change := range map[string]func(*Options){
		"needs an id":         func(o *Options) { o.ID = "" },
		"shorten --namespace": func(o *Options) { o.Namespace = strings.Repeat("x", 65) },
		"256 are possible":    func(o *Options) { o.Facts = make([]byte, 257) },
		"are needed":          func(o *Options) { o.Handler = nil },
		"--advertise":         func(o *Options) { o.Advertise = "no.such.host.invalid" },
		"--peer-port":         func(o *Options) { o.Host = "192.0.2.1" },
	} {
		o := ok
		change(&o)
		m, err := Start(o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
		if m != nil {
			t.Cleanup(func() { _ = m.Stop(context.Background()) })
		}
	}
}

func TestWithPort(t *testing.T) {
	for in, want := range map[string]string{
		"host": "host:52413", "host:1": "host:1", "10.0.0.1": "10.0.0.1:52413", "::1": "[::1]:52413", "[::1]": "[::1]:52413", "[::1]:7": "[::1]:7",
	} {
		if got := withPort(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestMovedNodeIsTried: a node that starts again at another port, before the
// others know that it died, is refused; they try it until its id is free.
func TestMovedNodeIsTried(t *testing.T) {
	a := start(t, "a", nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	old := &memberlist.Node{Name: "b", Addr: net.IPv4(127, 0, 0, 1), Port: 1}
	again := &memberlist.Node{Name: "b", Addr: net.IPv4(127, 0, 0, 1), Port: uint16(l.Addr().(*net.TCPAddr).Port)}
	(*gossip)(a.Mesh).NotifyConflict(old, again)
	for range 2 { // and again, while it is refused
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	a.log.expect(t, "node id b is used at 127.0.0.1:1 already")
}
