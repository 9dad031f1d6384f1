package mesh

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/mdns"
)

// service is the DNS-SD name under which nodes are found.
const service = "_skein._tcp"

// finder looks for peers: by multicast, and at the addresses that were given
// or remembered. It never gives up: a node that is away may come back.
type finder struct {
	m       *Mesh
	targets []*target
}

// target is an address to join.
type target struct {
	addr  string
	given bool // by --join: failures are said
	said  string
	next  time.Time
	pause time.Duration
}

func newFinder(m *Mesh) *finder {
	f := &finder{m: m}
	for _, a := range m.opts.Join {
		f.add(withPort(a), true)
	}
	for _, a := range m.opts.Known {
		f.add(withPort(a), false)
	}
	return f
}

func withPort(a string) string {
	if _, _, err := net.SplitHostPort(a); err == nil {
		return a
	}
	return net.JoinHostPort(strings.Trim(a, "[]"), strconv.Itoa(DefaultGossipPort))
}

func (f *finder) add(addr string, given bool) {
	for _, t := range f.targets {
		if t.addr == addr {
			t.given = t.given || given
			return
		}
	}
	f.targets = append(f.targets, &target{addr: addr, given: given})
}

// Pauses between two attempts at one address.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 15 * time.Second
)

func (f *finder) run() {
	found := make(chan string, 16)
	if f.m.opts.Discover {
		stop := f.advertise()
		defer stop()
		f.m.wg.Go(func() { f.browse(found) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-f.m.ctx.Done():
			return
		case addr := <-found:
			f.add(addr, false)
			for _, t := range f.targets {
				if t.addr == addr {
					t.next = time.Time{}
				}
			}
		case addr := <-f.m.moved:
			f.add(addr, false)
		case <-timer.C:
		}
		timer.Reset(f.joinDue())
	}
}

// joinDue tries the addresses whose time has come, and tells when the next is
// due. Those of members that are alive are left alone.
func (f *finder) joinDue() time.Duration {
	for _, m := range f.m.Members() {
		f.add(net.JoinHostPort(m.Host, strconv.Itoa(m.Gossip)), false)
	}
	wait := lastPause
	for _, t := range f.targets {
		if f.member(t.addr) {
			t.next, t.pause = time.Time{}, 0
			wait = min(wait, time.Second)
			continue
		}
		if now := time.Now(); !now.Before(t.next) {
			f.join(t)
			t.pause = min(lastPause, max(firstPause, 2*t.pause))
			t.next = time.Now().Add(t.pause/2 + rand.N(t.pause/2))
		}
		wait = min(wait, time.Until(t.next))
	}
	return max(wait, 10*time.Millisecond)
}

// member tells whether the address is this node's or that of a live member.
func (f *finder) member(addr string) bool {
	if addr == net.JoinHostPort(f.m.Host(), strconv.Itoa(f.m.GossipPort())) {
		return true
	}
	return slices.ContainsFunc(f.m.Members(), func(m Member) bool {
		return addr == net.JoinHostPort(m.Host, strconv.Itoa(m.Gossip))
	})
}

func (f *finder) join(t *target) {
	_, err := f.m.list.Join([]string{t.addr})
	if err == nil {
		t.said = ""
		return
	}
	level := f.m.log.Debug
	why := explain(err)
	if t.given && t.said != why {
		t.said = why
		level = f.m.log.Warn
	}
	level("join: "+why, "address", t.addr)
}

// explain says what an operator can do about a failed join.
func explain(err error) string {
	s := err.Error()
	switch {
	case strings.Contains(s, "refused"):
		return "nobody listens there yet; it is tried again"
	case strings.Contains(s, "no such host"):
		return "there is no such host"
	case strings.Contains(s, "EOF"), strings.Contains(s, "reset"), strings.Contains(s, "decrypt"), strings.Contains(s, "label"):
		return "it hung up: it has another --secret or --namespace, or is no skein node"
	case strings.Contains(s, "timeout"):
		return "no answer; is the gossip port (TCP and UDP) open in its firewall?"
	}
	return strings.TrimSpace(strings.ReplaceAll(s, "\n", " "))
}

// advertise answers other nodes' queries. Where multicast does not pass it is
// of no use and no harm, so a failure is only noted.
func (f *finder) advertise() (stop func()) {
	m := f.m
	ip := net.ParseIP(m.Host())
	zone, err := mdns.NewMDNSService(string(m.opts.ID), service, "", "", m.GossipPort(), []net.IP{ip}, []string{"namespace=" + m.opts.Namespace})
	if err == nil {
		var server *mdns.Server
		server, err = mdns.NewServer(&mdns.Config{Zone: zone, Logger: log.New(io.Discard, "", 0)})
		if err == nil {
			return func() {
				if err := server.Shutdown(); err != nil {
					m.log.Debug("stop answering multicast DNS", "error", err)
				}
			}
		}
	}
	m.log.Warn("this node is not announced on the local network; use --join on the others", "error", err)
	return func() {}
}

// browse asks for other nodes: often at first, then now and then.
func (f *finder) browse(found chan<- string) {
	pause := time.Second
	for {
		entries := make(chan *mdns.ServiceEntry, 64)
		ctx, cancel := context.WithTimeout(f.m.ctx, time.Second)
		err := mdns.QueryContext(ctx, &mdns.QueryParam{
			Service: service, Timeout: 700 * time.Millisecond, Entries: entries, DisableIPv6: true, Logger: log.New(io.Discard, "", 0),
		})
		cancel()
		if err != nil {
			f.m.log.Debug("look for nodes by multicast DNS", "error", err)
		}
		close(entries)
		for e := range entries {
			if !slices.Contains(e.InfoFields, "namespace="+f.m.opts.Namespace) || e.AddrV4 == nil {
				continue
			}
			addr := fmt.Sprintf("%s:%d", e.AddrV4, e.Port)
			if strings.HasPrefix(e.Name, string(f.m.opts.ID)+".") {
				continue
			}
			select {
			case found <- addr:
			case <-f.m.ctx.Done():
				return
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-f.m.ctx.Done():
			t.Stop()
			return
		}
		pause = min(2*pause, 30*time.Second)
	}
}
