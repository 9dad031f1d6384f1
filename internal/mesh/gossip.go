package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/skein-run/skein/internal/ids"
)

// gossip is the Mesh as memberlist sees it: its callbacks.
type gossip Mesh

// NodeMeta is what this node shows.
func (g *gossip) NodeMeta(limit int) []byte {
	m := (*Mesh)(g)
	b, err := json.Marshal(meta{Protocol: Protocol, Version: m.opts.Version, Boot: m.boot, Port: m.Port(), Facts: m.opts.Facts})
	if err != nil || len(b) > limit {
		m.log.Error("this node can't show its facts", "bytes", len(b), "limit", limit, "error", err)
		return nil
	}
	return b
}

// NotifyMsg and the following are parts of memberlist that are not used.
func (g *gossip) NotifyMsg([]byte)                {}
func (g *gossip) GetBroadcasts(_, _ int) [][]byte { return nil }
func (g *gossip) LocalState(bool) []byte          { return nil }
func (g *gossip) MergeRemoteState([]byte, bool)   {}

// NotifyConflict tells that two live nodes have one id.
func (g *gossip) NotifyConflict(existing, other *memberlist.Node) {
	m := (*Mesh)(g)
	m.refuse(other.Address(), fmt.Sprintf("node id %s is used at %s already; two homes were copied from one: delete node_id in one of them", other.Name, existing.Address()))
	// Mostly it is a node that died and started again at another port before it
	// was known to be dead. It holds itself for joined and tries no more, so this
	// node does, until the id is free.
	select {
	case m.moved <- other.Address():
	default: // so many wait to be tried already
	}
}

// NotifyAlive refuses nodes that speak another protocol.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	m := (*Mesh)(g)
	if n.Name == string(m.opts.ID) {
		return nil
	}
	var d meta
	if err := json.Unmarshal(n.Meta, &d); err != nil {
		m.refuse(n.Address(), "it shows no facts that this version understands: "+err.Error())
		return err
	}
	if d.Protocol != Protocol {
		err := fmt.Errorf("it runs %s with protocol %d, this node %s with protocol %d: run the same version on both", d.Version, d.Protocol, m.opts.Version, Protocol)
		m.refuse(n.Address(), err.Error())
		return err
	}
	return nil
}

// NotifyJoin, NotifyUpdate and NotifyLeave are called one after the other.
func (g *gossip) NotifyJoin(n *memberlist.Node) { g.alive(n) }

// NotifyUpdate tells new facts, for example of another boot.
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.alive(n) }

func (g *gossip) alive(n *memberlist.Node) {
	m := (*Mesh)(g)
	if n.Name == string(m.opts.ID) {
		return
	}
	var d meta
	if err := json.Unmarshal(n.Meta, &d); err != nil {
		return // NotifyAlive said so
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen(Member{ID: ids.Node(n.Name), Boot: d.Boot, Host: n.Addr.String(), Peer: d.Port, Gossip: int(n.Port), Version: d.Version, Facts: d.Facts})
}

// NotifyLeave tells that a node left or died.
func (g *gossip) NotifyLeave(n *memberlist.Node) {
	m := (*Mesh)(g)
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.State == memberlist.StateLeft { // it said good-bye
		m.leave(ids.Node(n.Name))
		return
	}
	m.gone(ids.Node(n.Name))
}

// advertised is the IP address that peers are told: the one asked for, that
// which is listened on, or the machine's first that is not loopback.
func advertised(want, listen string) (string, error) {
	for _, host := range []string{want, listen} {
		if host == "" {
			continue
		}
		if ip := net.ParseIP(host); ip != nil {
			if ip.IsUnspecified() {
				continue
			}
			return ip.String(), nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		addrs, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
		cancel()
		if err != nil || len(addrs) == 0 {
			return "", fmt.Errorf("find the address of %s: %w; give --advertise or --peer-host an address of this machine", host, err)
		}
		return addrs[0].String(), nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("list the machine's addresses: %w; give one with --advertise", err)
	}
	var six string
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || !ip.IP.IsGlobalUnicast() {
			continue
		}
		if ip.IP.To4() != nil {
			return ip.IP.String(), nil
		}
		if six == "" {
			six = ip.IP.String()
		}
	}
	if six != "" {
		return six, nil
	}
	return "127.0.0.1", nil
}

// gossipLogger puts memberlist's lines where ours go: its errors are mostly
// what unknown neighbours do, and each kind is said once a minute.
func gossipLogger(to *slog.Logger) *log.Logger {
	return log.New(&gossipLines{log: to, last: map[string]time.Time{}, now: time.Now}, "", 0)
}

type gossipLines struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex // guards last
	last map[string]time.Time
}

func (g *gossipLines) Write(b []byte) (int, error) {
	line := string(bytes.TrimSpace(b))
	level, text := slog.LevelDebug, line
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if name, rest, ok := strings.Cut(rest, "] "); ok {
			text = strings.TrimPrefix(rest, "memberlist: ")
			if name == "ERR" || name == "WARN" {
				level = slog.LevelWarn
			}
		}
	}
	if level == slog.LevelWarn {
		kind, _, _ := strings.Cut(text, ":")
		g.mu.Lock()
		again := g.now().Sub(g.last[kind]) < time.Minute
		if !again {
			if len(g.last) > 100 {
				clear(g.last)
			}
			g.last[kind] = g.now()
		}
		g.mu.Unlock()
		if again {
			level = slog.LevelDebug
		}
	}
	g.log.Log(context.Background(), level, "gossip: "+text)
	return len(b), nil
}

// quietHandshakes names what a server says of strangers' failed handshakes.
type quietHandshakes struct{ slog.Handler }

// Handle gives the line a name that an operator can look for.
func (q quietHandshakes) Handle(ctx context.Context, r slog.Record) error {
	r.Message = "peer call failed: " + strings.TrimPrefix(r.Message, "http: ")
	return q.Handler.Handle(ctx, r)
}
