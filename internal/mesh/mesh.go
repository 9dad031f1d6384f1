// Package mesh joins the nodes of a cluster: who is there, and a secure way to
// call them.
//
// Membership and the detection of hard-cut nodes are hashicorp/memberlist
// (SWIM); a killed process is noticed earlier, since its pulse stream breaks.
// Peers are found by mDNS, by the addresses they are told to join, and by those
// they remember. Calls are HTTP/2 over mutual TLS; the authority is derived
// from the cluster's secret, so whoever has it can make a certificate and
// whoever has not gets nothing.
//
// It imports ids alone of ours and knows nothing of elections or models.
// Methods may be called from any goroutine; Options.Changed is called from
// one, in order.
package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/skein-run/skein/internal/ids"
)

// Protocol is what nodes speak with each other. It grows by one with every
// incompatible change; nodes of another number are refused by name.
//
//	1  2026-11-22  first
//	2  2026-11-28  swaps in the cluster's log
//	3  2026-11-28  keys in it, and who gave a command
//	4  2026-11-28  models in it before their files are hashed
const Protocol = 4

// Ports when none are given.
const (
	DefaultPeerPort   = 52414
	DefaultGossipPort = 52413
)

// Options make a Mesh.
type Options struct {
	ID        ids.Node
	Namespace string // nodes of other namespaces are not seen
	Secret    string // "": open to everybody in the namespace
	Version   string // of the program, for messages

	Host       string // address to listen on; "": all interfaces
	Advertise  string // host or address that peers call; "": chosen
	PeerPort   int    // 0: any free one
	GossipPort int    // 0: any free one
	// Listener replaces the one on Host and PeerPort (tests).
	Listener net.Listener

	// Join are gossip addresses, host or host:port, tried for ever.
	Join []string
	// Known are addresses of earlier peers, tried like Join; Remember is told
	// the addresses of now, from the goroutine of Changed. It may be nil.
	Known    []string
	Remember func([]string)
	// Discover finds peers by multicast DNS.
	Discover bool

	// Facts are what members show of themselves, at most 256 bytes of JSON.
	Facts json.RawMessage
	// Handler answers peers' calls. Caller tells who calls.
	Handler http.Handler
	// Changed is told of each change of membership, in order. While it blocks,
	// what happens waits for it and nothing else does.
	Changed func(Event)
	Logger  *slog.Logger
}

func (o Options) validate() error {
	switch {
	case o.ID == "":
		return errors.New("mesh: a node needs an id")
	case len(o.ID) > 128:
		return fmt.Errorf("mesh: the node id has %d bytes, at most 128 are possible", len(o.ID))
	case len(o.Namespace) > 64:
		return fmt.Errorf("the namespace has %d bytes, at most 64 are possible: shorten --namespace", len(o.Namespace))
	case len(o.Facts) > 256:
		return fmt.Errorf("mesh: %d bytes of facts, at most 256 are possible", len(o.Facts))
	case o.Handler == nil || o.Changed == nil || o.Logger == nil:
		return errors.New("mesh: handler, changed and logger are needed")
	}
	return nil
}

// Member is a peer that is alive.
type Member struct {
	ID      ids.Node
	Boot    string // differs after each start
	Host    string // address that it advertises
	Peer    int    // its peer port
	Gossip  int    // its gossip port
	Version string // of its program
	Facts   json.RawMessage
}

// PeerAddr is where the member takes calls.
func (m Member) PeerAddr() string { return net.JoinHostPort(m.Host, strconv.Itoa(m.Peer)) }

// Event is a change of membership. A member that restarted leaves and joins.
type Event struct {
	Member Member
	Alive  bool
}

// Mesh is this node's place among its peers.
type Mesh struct {
	opts     Options
	log      *slog.Logger
	boot     string
	identity *identity
	late     lateness
	ln       net.Listener
	server   *http.Server
	client   *http.Client
	list     *memberlist.Memberlist
	finder   *finder
	moved    chan string   // addresses of nodes whose ids are still held by others
	news     chan struct{} // capacity 1: events or met have grown
	busy     chan struct{} // capacity handshakes: those that go on

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	peers   map[ids.Node]*peer
	refused map[string]string              // why peers were refused, so that it is said once
	conns   map[ids.Node]map[*owned]bool   // of calls to peers
	ways    map[ids.Node]*way              // to peers
	callers map[ids.Node]map[net.Conn]bool // over which peers call, as far as their pulse does
	events  []Event                        // that Changed is not told of yet
	met     bool                           // there are addresses that Remember is not told of
	stopped bool
}

// peer is what is known of one other node.
type peer struct {
	member Member
	gossip bool // memberlist says that it lives
	pulse  bool // its pulse did not break for good
	told   bool // Changed was told that it is alive
	// doubted tells that the gossip gave it up and it is looked at whether it is heard.
	doubted bool
	verdict time.Time // when the gossip gave it up
	stop    context.CancelFunc
}

// meta is a member's gossip metadata; memberlist allows 512 bytes.
type meta struct {
	Protocol int             `json:"p"`
	Version  string          `json:"v"`
	Boot     string          `json:"b"`
	Port     int             `json:"t"`
	Facts    json.RawMessage `json:"f,omitempty"`
}

// Start listens, joins, and goes on until Stop.
func Start(o Options) (*Mesh, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	identity, err := newIdentity(o.Secret, o.Namespace, o.ID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Mesh{
		opts: o, log: o.Logger, boot: newBoot(), identity: identity, ctx: ctx, cancel: cancel,
		peers: map[ids.Node]*peer{}, refused: map[string]string{}, conns: map[ids.Node]map[*owned]bool{}, moved: make(chan string, 16), news: make(chan struct{}, 1),
		busy: make(chan struct{}, handshakes), ways: map[ids.Node]*way{}, callers: map[ids.Node]map[net.Conn]bool{},
	}
	if o.Secret == "" {
		m.log.Warn("no --secret: whoever reaches this network and namespace can join the cluster", "namespace", o.Namespace)
	}
	if err := m.start(); err != nil {
		return nil, errors.Join(err, m.Stop(context.Background()))
	}
	return m, nil
}

func (m *Mesh) start() error {
	o := m.opts
	m.ln = o.Listener
	if m.ln == nil {
		ln, err := net.Listen("tcp", net.JoinHostPort(o.Host, strconv.Itoa(o.PeerPort)))
		if err != nil {
			return fmt.Errorf("listen for peers: %w; choose another --peer-port or --peer-host", err)
		}
		m.ln = ln
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pulsePath, m.servePulse)
	mux.Handle("/", o.Handler)
	m.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, TLSConfig: m.identity.server(),
		// A caller whose cable is cut must not hold what it asked for. Mostly the
		// gossip gives it up before (see gone); a busy machine is late with its answer
		// and must not lose its calls by it.
		HTTP2:       &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: 3 * time.Second},
		BaseContext: func(net.Listener) context.Context { return m.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    slog.NewLogLogger(quietHandshakes{m.log.Handler()}, slog.LevelWarn),
	}
	m.client = m.newClient()
	m.wg.Go(func() {
		// The error is Serve's way to say that Stop closed it.
		_ = m.server.ServeTLS(m.ln, "", "")
	})
	m.wg.Go(m.deliver)
	m.wg.Go(func() { m.late.run(m.ctx) })
	cfg, err := m.gossipConfig()
	if err != nil {
		return err
	}
	list, err := memberlist.Create(cfg)
	if err != nil {
		return fmt.Errorf("listen for gossip on port %d: %w; choose another --gossip-port or --peer-host", o.GossipPort, err)
	}
	m.mu.Lock()
	m.list = list
	m.mu.Unlock()
	m.finder = newFinder(m)
	m.wg.Go(m.finder.run)
	return nil
}

// gossipConfig is tuned to declare a hard-cut node of a LAN dead in about 1.5 s:
// up to 0.3 s until somebody probes it, 0.2 s for the answer, then 3 x 0.3 s in which it may
// refute.
func (m *Mesh) gossipConfig() (*memberlist.Config, error) {
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = string(m.opts.ID)
	cfg.BindAddr, cfg.BindPort = m.opts.Host, m.opts.GossipPort
	if cfg.BindAddr == "" {
		cfg.BindAddr = "0.0.0.0"
	}
	advertise, err := advertised(m.opts.Advertise, m.opts.Host)
	if err != nil {
		return nil, err
	}
	cfg.AdvertiseAddr, cfg.AdvertisePort = advertise, m.opts.GossipPort
	cfg.ProbeInterval, cfg.ProbeTimeout = 300*time.Millisecond, 200*time.Millisecond
	cfg.SuspicionMult, cfg.SuspicionMaxTimeoutMult = 3, 2
	cfg.AwarenessMaxMultiplier = 4 // who is late itself gives others more time
	cfg.GossipInterval = 100 * time.Millisecond
	cfg.EnableCompression = false // costs more than the few bytes of a LAN
	cfg.TCPTimeout = 2 * time.Second
	cfg.PushPullInterval = 10 * time.Second
	cfg.DeadNodeReclaimTime = time.Millisecond // a node may come back at another address
	cfg.Label = "skein/" + m.opts.Namespace
	cfg.SecretKey = m.identity.gossipKey
	cfg.Delegate, cfg.Events, cfg.Alive, cfg.Conflict = (*gossip)(m), (*gossip)(m), (*gossip)(m), (*gossip)(m)
	cfg.Logger = gossipLogger(m.log)
	return cfg, nil
}

// Port is the port for peers' calls, GossipPort that of membership.
func (m *Mesh) Port() int { return m.ln.Addr().(*net.TCPAddr).Port }

// GossipPort is the port that others join.
func (m *Mesh) GossipPort() int { return int(m.list.LocalNode().Port) }

// Host is the address that this node advertises.
func (m *Mesh) Host() string { return m.list.LocalNode().Addr.String() }

// Boot names this run of the node.
func (m *Mesh) Boot() string { return m.boot }

// Members lists the peers that are alive, in order of id.
func (m *Mesh) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Member
	for _, id := range slices.Sorted(maps.Keys(m.peers)) {
		if p := m.peers[id]; p.told {
			out = append(out, p.member)
		}
	}
	return out
}

// Member finds a peer that is alive.
func (m *Mesh) Member(id ids.Node) (Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.peers[id]
	if !ok || !p.told {
		return Member{}, false
	}
	return p.member, true
}

// Stop says good-bye, and ends everything that Start began.
func (m *Mesh) Stop(ctx context.Context) error {
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return nil
	}
	m.stopped = true
	m.mu.Unlock()
	var errs []error
	if m.list != nil {
		// A node that leaves is not missed: nobody suspects it.
		if ctx.Err() != nil {
			m.log.Debug("no time for a good-bye")
		} else if err := m.list.Leave(300 * time.Millisecond); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			m.log.Debug("leave the gossip", "error", err)
		}
		errs = append(errs, m.list.Shutdown())
	}
	m.cancel()
	if m.server != nil {
		errs = append(errs, m.server.Close())
	}
	if m.client != nil {
		m.client.CloseIdleConnections()
	}
	m.wg.Wait() // all of it ends by itself now
	return errors.Join(errs...)
}

// deliver calls Changed and Remember, one after the other.
func (m *Mesh) deliver() {
	for {
		select {
		case <-m.news:
		case <-m.ctx.Done():
			return
		}
		m.mu.Lock()
		events, met := m.events, m.met
		var known []string
		if met && m.opts.Remember != nil {
			known = m.addresses()
		}
		m.events, m.met = nil, false
		m.mu.Unlock()
		for _, e := range events {
			if m.ctx.Err() != nil {
				return
			}
			m.opts.Changed(e)
		}
		if known != nil {
			m.opts.Remember(known)
		}
	}
}

// wake has deliver look. It never blocks: the caller holds mu, and the gossip
// waits for the caller.
func (m *Mesh) wake() {
	select {
	case m.news <- struct{}{}:
	default: // it will look anyway
	}
}

// judge has Changed told if what is known of p makes it alive or gone. The
// caller holds mu.
func (m *Mesh) judge(p *peer) {
	alive := (p.gossip || p.doubted) && p.pulse
	if alive == p.told {
		return
	}
	p.told = alive
	m.events = append(m.events, Event{Member: p.member, Alive: alive})
	m.wake()
}

// seen takes what the gossip says of a live node. The caller holds mu.
func (m *Mesh) seen(member Member) {
	p := m.peers[member.ID]
	if p == nil {
		p = &peer{pulse: true}
		m.peers[member.ID] = p
	}
	if p.stop != nil && p.member.Boot == member.Boot && p.member.PeerAddr() == member.PeerAddr() {
		p.member, p.gossip = member, true
		m.judge(p)
		return
	}
	if p.stop != nil { // it restarted
		p.stop()
		p.gossip, p.doubted = false, false
		m.judge(p)
	}
	p.member, p.gossip, p.pulse = member, true, true
	ctx, cancel := context.WithCancel(m.ctx)
	p.stop = cancel
	m.wg.Go(func() { m.feelPulse(ctx, member) })
	m.judge(p)
	m.met = true
	m.wake()
}

// gone takes that the gossip gave a node up. The caller holds mu.
func (m *Mesh) gone(id ids.Node) {
	p := m.peers[id]
	if p == nil || p.stop == nil {
		return // it was never here, or is gone already
	}
	p.gossip, p.verdict = false, time.Now()
	if m.alive(p) {
		// It is this node, or those that told it, that are late.
		m.log.Debug("the gossip gave a node up, which is doubted", "node", id)
		m.doubt(p)
		return
	}
	m.giveUp(id, p)
}

// leave takes that a node is gone for certain. The caller holds mu.
func (m *Mesh) leave(id ids.Node) {
	if p := m.peers[id]; p != nil && p.stop != nil {
		p.gossip = false
		m.giveUp(id, p)
	}
}

// giveUp ends all that goes on with a node. The caller holds mu.
func (m *Mesh) giveUp(id ids.Node, p *peer) {
	m.log.Debug("the gossip gave a node up", "node", id)
	p.doubted = false
	m.judge(p)
	p.stop()
	p.stop = nil
	// Over a cable that was cut they stay for seconds, and would swallow what is
	// sent when it is back.
	for c := range m.conns[id] {
		_ = c.Conn.Close() // its calls end, which is the purpose
	}
	delete(m.conns, id)
	for c := range m.callers[id] {
		_ = c.Close() // what it asked for ends
	}
	delete(m.callers, id)
}

// addresses are the gossip addresses of all peers ever seen in this run. The
// caller holds mu.
func (m *Mesh) addresses() []string {
	out := make([]string, 0, len(m.peers))
	for _, id := range slices.Sorted(maps.Keys(m.peers)) {
		p := m.peers[id].member
		out = append(out, net.JoinHostPort(p.Host, strconv.Itoa(p.Gossip)))
	}
	return out
}

// refuse notes why a peer is not let in, once for each reason.
func (m *Mesh) refuse(who, why string) {
	m.mu.Lock()
	known := m.refused[who] == why
	m.refused[who] = why
	m.mu.Unlock()
	if !known {
		m.log.Warn("peer refused", "peer", who, "reason", why)
	}
}
